"""Opening other people's files without running what is in them.

PyTorch files are pickles and go through ``ddaudit.unpickle``, NumPy archives are read without pickled objects.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddaudit.errors import BadInput
from ddaudit.unpickle import unpickle

_UNTRUSTED = "Do not open it by other means: ask its author for the plain tensors."
_AGAIN = "Make or download it again."


def load_torch(path: Path) -> Any:
    """Tensors and plain containers of a PyTorch file, on the CPU.

    Raises:
        BadInput: holds anything but data, or is no PyTorch file.
    """
    raw = _bytes(path)
    try:
        return unpickle(io.BytesIO(raw))
    except pickle.UnpicklingError as err:
        found = re.search(r"GLOBAL (\S+)", str(err))
        what = f" ({found.group(1)})" if found else ""
        raise BadInput(path, f"holds pickled code{what}; refused", _UNTRUSTED) from err
    except Exception as err:  # a damaged file can fail anywhere in the parser
        if "TorchScript" in str(err):
            raise BadInput(path, "holds a TorchScript program; refused", _UNTRUSTED) from err
        raise BadInput(path, "is truncated or not a PyTorch file", _AGAIN) from err


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays ``names`` of a NumPy archive.

    Raises:
        BadInput: no such arrays, pickled objects, or no NumPy archive.
    """
    raw = _bytes(path)
    try:
        archive = np.load(io.BytesIO(raw), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise BadInput(path, "is a single NumPy array, expected an .npz archive")
        with archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                found = ", ".join(archive.files) or "none"
                what = f"holds no array '{missing[0]}' (arrays: {found})"
                raise BadInput(path, what, "Is it another format? See 'ddaudit list formats'.")
            return {name: archive[name] for name in names}
    except BadInput:
        raise
    except Exception as err:  # a damaged file can fail anywhere in the parser
        if "pickle" in str(err).lower():
            raise BadInput(path, "holds pickled code; refused", _UNTRUSTED) from err
        raise BadInput(path, "is truncated or not a NumPy archive", _AGAIN) from err


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an .npz; empty when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")}
    except (OSError, zipfile.BadZipFile):
        return set()


def load_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]] | None:
    """The arrays ``names`` of a .npz or of a PyTorch dict; None when some are missing.

    Raises:
        BadInput: unsafe or unreadable.
    """
    if path.suffix == ".npz":
        return load_npz(path, names) if set(names) <= npz_names(path) else None
    content = load_torch(path)
    if not isinstance(content, Mapping) or any(name not in content for name in names):
        return None
    return {name: torch.as_tensor(content[name]).detach().float().numpy() for name in names}


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise BadInput(path, "is a folder, expected a file")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(path, "no such file") from None
    except OSError as err:
        raise BadInput(path, f"cannot be read ({err.strerror or err})") from err
    if not raw:
        raise BadInput(path, "is empty", _AGAIN)
    return raw
