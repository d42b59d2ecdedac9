"""Opening other people's files without running what is in them.

PyTorch files are pickles and go through ``ddaudit.unpickle``, NumPy archives are read without pickled objects.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddaudit.containers import open_zip, read_npy, start_of
from ddaudit.errors import BadInput
from ddaudit.files import open_file
from ddaudit.unpickle import unpickle

_UNTRUSTED = "Do not open it by other means: ask its author for the plain tensors."
_AGAIN = "Make or download it again."
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def load_torch(path: Path) -> Any:
    """Tensors and plain containers of a PyTorch file, on the CPU.

    Raises:
        BadInput: holds anything but data, or is no PyTorch file.
    """
    try:
        return unpickle(path)
    except BadInput:
        raise
    except pickle.UnpicklingError as err:
        found = re.search(r"GLOBAL (\S+)", str(err))
        what = f" ({found.group(1)})" if found else ""
        raise BadInput(path, f"holds pickled code{what}; refused", _UNTRUSTED) from err
    except Exception as err:  # a damaged file can fail anywhere in the parser
        raise BadInput(path, "is truncated or not a PyTorch file", _AGAIN) from err


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays ``names`` of a NumPy archive.

    Raises:
        BadInput: no such arrays, pickled objects, or no NumPy archive.
    """
    with open_file(path, whole=False) as file:
        start = start_of(file, path)
    if start.startswith(b"\x93NUMPY"):
        raise BadInput(path, "is a single NumPy array, expected an .npz archive")
    if start[:1] == b"\x80":
        raise BadInput(path, "holds pickled code; refused", _UNTRUSTED)
    try:
        with open_zip(path) as archive:
            held = _arrays(archive)
            missing = [name for name in names if name not in held]
            if missing:
                found = ", ".join(held) or "none"
                what = f"holds no array '{missing[0]}' (arrays: {found})"
                raise BadInput(path, what, "Is it another format? See 'ddaudit list formats'.")
            return {name: read_npy(archive, name, path) for name in names}
    except BadInput:
        raise
    except Exception as err:  # a damaged file can fail anywhere in the parser
        if "pickle" in str(err).lower():
            raise BadInput(path, "holds pickled code; refused", _UNTRUSTED) from err
        raise BadInput(path, "is truncated or not a NumPy archive", _AGAIN) from err


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an .npz; empty when it is none."""
    try:
        with open_zip(path) as archive:
            return set(_arrays(archive))
    except (BadInput, zipfile.BadZipFile):
        return set()


def _arrays(archive: zipfile.ZipFile) -> list[str]:
    return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def load_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]] | None:
    """The arrays ``names`` of a .npz or of a PyTorch dict; None when some are missing.

    Raises:
        BadInput: unsafe or unreadable.
    """
    if path.suffix == ".npz":
        load_npz(path, ())  # says what is wrong with a file that is not there, or no archive
        return load_npz(path, names) if set(names) <= npz_names(path) else None
    content = load_torch(path)
    if not isinstance(content, Mapping) or any(
        not isinstance(content.get(name), torch.Tensor) or content[name].is_sparse for name in names
    ):
        return None
    return {name: content[name].detach().float().numpy() for name in names}


def array_tensor(values: np.ndarray[Any, Any], where: Path, what: str) -> torch.Tensor:
    """A stored array of numbers as a tensor of its own memory, in the byte order of this machine.

    Raises:
        BadInput: texts, dates, records or numbers that PyTorch has no type for.
    """
    if values.dtype.kind in "fiu":
        native = np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
        with contextlib.suppress(TypeError):  # longdouble, say
            return torch.from_numpy(native)
    raise BadInput(where, f"{what} are {values.dtype}, expected numbers")


def widened(values: torch.Tensor, where: Path, what: str) -> torch.Tensor:
    """The same numbers in a type that PyTorch computes with: uint16 to uint64 as int64, float8 as float32.

    Raises:
        BadInput: numbers that int64 cannot hold.
    """
    if values.dtype in _UNSIGNED:
        values = values.to(torch.int64)
        if bool((values < 0).any()):
            raise BadInput(where, f"{what} hold numbers above {2**63 - 1}", _AGAIN)
    eight_bit = values.is_floating_point() and values.element_size() == 1
    return values.float() if eight_bit else values


def is_plain(value: torch.Tensor) -> bool:
    """True for a tensor of real numbers, one after the other: not sparse, quantized or complex."""
    return value.layout == torch.strided and not value.is_quantized and not value.is_complex()


def described(value: Any) -> str:
    """What a stored value is that is no plain array of numbers."""
    if not isinstance(value, torch.Tensor):
        return f"of type {type(value).__name__}"
    if value.layout != torch.strided:
        return f"a tensor of layout {str(value.layout).removeprefix('torch.')}"
    return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
