"""PyTorch files as data: the restricted loader builds tensors, containers and numbers, and refuses the rest.

Three harmless stand-ins are added to what it knows. Result files and checkpoints carry accuracies as
``numpy.float64``: two of them decode the number, so no NumPy code sees the file's bytes. Training scripts also put
their ``argparse.Namespace`` beside the weights: the third takes its place, without its content.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ddaudit.containers import afford_tensors, open_torch


def unpickle(path: Path) -> Any:
    """Content of a file that ``torch.save`` wrote, on the CPU.

    Raises:
        BadInput: no regular file, or it unpacks to more than the budget.
        pickle.UnpicklingError: it holds anything but data.
        Exception: of a dozen unrelated types, where it is damaged or no such file.
    """
    with open_torch(path) as file, _only_stand_ins(), warnings.catch_warnings():
        # torch warns of pickle protocols that it then reads, or refuses, anyway.
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except OSError as error:
            # A seek beyond the end, which the system calls an invalid argument.
            raise EOFError("cut off") from error
        return afford_tensors(content, path)


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


class _Namespace:
    """Stands in for ``argparse.Namespace``; what it held is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS: list[Any] = [
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_Namespace, "argparse.Namespace"),
]
