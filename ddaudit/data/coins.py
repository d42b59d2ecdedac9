"""Coins: random numbers that depend on one record's own content, and on nothing else.

Differential privacy speaks of one record more or less. Where a permutation of all records decides who is held out
or how a record is changed, one record less changes the roles of many others, and no claim on the result holds. A
coin is a hash of the record: whoever is added or removed, every other record keeps its role.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def coins(images: Tensor, purpose: str) -> NDArray[np.float64]:
    """Numbers in [0, 1), uniform over different records.

    Args:
        images: (N, ...) of any type; equal records get equal numbers, so copies of a record share its role.
        purpose: names the choice; the numbers of two purposes are independent.

    Returns:
        (N,) float64. The same on every machine and version, as far as the records are (decoders of JPEG may differ
        by a level): 64 bits of keyed BLAKE2b over the record's bytes.
    """
    key = hashlib.sha256(purpose.encode()).digest()
    rows = np.ascontiguousarray(images.numpy()).reshape(len(images), -1)
    raw = (hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in rows)
    bits = np.frombuffer(b"".join(raw), dtype="<u8")
    # 53 bits, as many as a float64 holds: rounding up to 1 is impossible.
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
