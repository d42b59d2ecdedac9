"""Keep freed memory in the process while networks work: page faults cost up to half of the time."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MIB = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt(3)
_DEFAULT_MMAP_MAX = 65_536
_lock = threading.Lock()
_depth = 0


@contextmanager
def reuse_memory() -> Iterator[None]:
    """Let glibc reuse large blocks instead of returning each to the system and faulting it in anew.

    Every step of training allocates the same maps (100 MB and more). By default glibc maps and
    unmaps each of them, and the kernel clears every page again: a fifth to a third of a
    ConvNet-3/128 step and up to half of a prediction (benchmarks/training.md) or an attack. Nests; on leaving,
    large blocks go back to the system again when they are freed. Does nothing on systems other
    than Linux with glibc, and changes no result.
    """
    global _depth
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    with _lock:
        _depth += 1
        if _depth == 1:
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, 2048 * _MIB - 1)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                # Where glibc's own adjustment would have arrived in a process like this.
                mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
                mallopt(_MMAP_THRESHOLD, 32 * _MIB)
                mallopt(_TRIM_THRESHOLD, 64 * _MIB)


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's mallopt, or None."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL(None)
        # musl and others may export the name without meaning it
        _ = libc.gnu_get_libc_version
        return libc.mallopt
    except (AttributeError, OSError):
        return None
