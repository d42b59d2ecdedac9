"""Resamples of the test records that all subjects of an audit share, so that their numbers can be paired.

Two subjects that answer the same images are right or wrong together, and their difference is known better than
either number. Keeping every answer would do; what a difference needs of them is how each number moves when records
are drawn again. So every number is computed on the same resamples, whoever is audited, and these replicates are kept:
their differences, resample by resample, are replicates of the difference. It holds for an accuracy, an ECE and the
largest of many gaps alike.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 8 (resampling the pairs).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ddaudit.findings import Resampled
from ddaudit.stats.intervals import weight_chunks

COUNT = 400
"""Resamples behind a paired rate: the standard deviation of a difference is then known to 3.5 %."""

_KEPT = 2_000_000
"""Weights that are kept in memory: 16 MB."""


@dataclass(frozen=True)
class Resamples:
    """``count`` bootstrap resamples of ``n`` records, the same for everybody who names the same records.

    Attributes:
        records: a fingerprint of the records.
    """

    records: str
    n: int
    count: int = COUNT

    @property
    def name(self) -> str:
        """Numbers under one name were computed on the same resamples."""
        return f"{self.records}/{self.n}/{self.count}"

    def generator(self) -> torch.Generator:
        """Where they are drawn from; for statistics that resample in a way of their own (within cells, say)."""
        seed = hashlib.sha256(self.name.encode()).digest()[:4]
        return torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)

    def weights(self) -> Iterator[Tensor]:
        """Pieces (b, n) of how often each record was drawn; ``count`` rows together."""
        if self.n * self.count > _KEPT:
            return weight_chunks(self.n, self.count, self.generator())
        return iter(_weights(self))

    def means(self, table: Tensor) -> Tensor:
        """(count,) replicates of the mean of a (V, N) table of V networks and these records."""
        rows = table.double().mean(0)
        return torch.cat([weights @ rows for weights in self.weights()]) / self.n

    def of_rate(self, table: Tensor) -> Resampled | None:
        """What pairs the mean of a (V, N) table with that of other subjects."""
        return self.kept(table.double().mean(1), self.means(table))

    def kept(self, networks: Tensor, replicates: Tensor, *, step: float = 0.0) -> Resampled | None:
        """What pairs any other statistic; None where a resample has no value of it.

        Args:
            networks: (V,) its value of each network.
            replicates: (count,) its mean over networks on these resamples, in their order.
            step: see ``Resampled.step``.
        """
        if len(replicates) != self.count:
            raise ValueError(f"{len(replicates)} replicates of {self.count} resamples")
        if not bool(torch.isfinite(replicates).all()):
            return None
        values = [float(v) for v in networks]
        return Resampled(name=self.name, networks=values, replicates=pack(replicates), step=step)


@lru_cache(maxsize=1)
def _weights(of: Resamples) -> tuple[Tensor, ...]:
    """Kept from one number to the next: an auditor asks for them several times."""
    return tuple(weight_chunks(of.n, of.count, of.generator()))


def pack(values: Tensor) -> str:
    """Replicates as text: little-endian float32 in base64."""
    return base64.b64encode(values.detach().cpu().numpy().astype("<f4").tobytes()).decode()


def unpack(text: str) -> Tensor:
    """(B,) float64 of what :func:`pack` wrote.

    Raises:
        ValueError: it did not, or a value is not finite.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"replicates are no base64 ({error})") from None
    if len(raw) % 4 or len(raw) < 8:
        raise ValueError("replicates are no sequence of at least two float32 numbers")
    values = torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float64))
    if not bool(torch.isfinite(values).all()):
        raise ValueError("a replicate is not finite")
    return values
