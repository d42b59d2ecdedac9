"""Opening other people's files without running what is in them.

PyTorch files are pickles: the restricted loader builds tensors and containers and refuses the rest.
The one addition are NumPy scalars, because the result files of DC/DSA/DM carry their accuracies as
``numpy.float64``: two harmless stand-ins decode the number, so no NumPy code sees the file's bytes.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddaudit.errors import BadInput

_UNTRUSTED = "Do not open it by other means: ask its author for the plain tensors."
_AGAIN = "Make or download it again."


def load_torch(path: Path) -> Any:
    """Tensors and plain containers of a PyTorch file, on the CPU.

    Raises:
        BadInput: holds anything but data, or is no PyTorch file.
    """
    raw = _bytes(path)
    try:
        with _only_stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
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


@contextlib.contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Allow the stand-ins and nothing else: PyTorch's list is global and others add to it."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


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


class _Dtype:
    """Stands in for ``numpy.dtype``: keeps the type code and byte order, nothing else."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(dtype: Any = None, raw: Any = b"") -> float | int | None:
    """Stands in for NumPy's scalar constructor; None for types that no result file uses."""
    codes = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or dtype.code not in codes:
        return None
    try:
        value: float | int = struct.unpack(dtype.order + codes[dtype.code], raw)[0]
    except struct.error:
        return None
    return value


_STAND_INS: list[Any] = [
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
