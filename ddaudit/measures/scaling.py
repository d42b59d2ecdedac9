"""Post-hoc calibration beside temperature scaling: by masked logits, by class, and by an average of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.measures.scores import Temperature, fit_temperature

Repair = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(V, N, K) logits, (V, M, K) logits on held-out data, (M,) labels of those -> (V or 1, N, K) repaired logits."""


@dataclass(frozen=True, eq=False)
class VectorScaling:
    """Logits z become scale * z + shift.

    Attributes:
        scale, shift: (K,) float64.
    """

    scale: Tensor
    shift: Tensor

    def apply(self, logits: Tensor) -> Tensor:
        """(..., K) calibrated logits."""
        return logits.double() * self.scale + self.shift


def fit_vector(logits: Tensor, labels: Tensor, *, ridge: float = 1e-4) -> VectorScaling:
    """The vector scaling of least NLL on held-out data; a convex problem, solved by Newton's method.

    Args:
        logits: (N, K) finite, on data that the network was not trained on.
        labels: (N,) int64.
        ridge: weight of the squared distance to no change, which settles what the data leave open (a constant added to
            every shift, classes without images, classes that are always right). Scales are in units of the logits'
            spread, so that the answer for c * z is that for z.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    z = logits.double()
    spread = z.std().clamp_min(1e-12)
    z = z / spread
    n, k = z.shape
    wanted = F.one_hot(labels, k).double()
    at = torch.cat([torch.ones(k), torch.zeros(k)]).double()
    start = at.clone()

    def value(v: Tensor) -> Tensor:
        return F.cross_entropy(z * v[:k] + v[k:], labels) + ridge / 2 * (v - start).square().sum()

    for _ in range(100):
        p = torch.softmax(z * at[:k] + at[k:], 1)
        miss = (p - wanted) / n
        slope = torch.cat([(miss * z).sum(0), miss.sum(0)]) + ridge * (at - start)
        if float(slope.abs().max()) < 1e-10:
            break
        # The Hessian of softmax(s * z + b) in (s, b), from each image's diag(p) - p p'.
        inputs = torch.stack([z, torch.ones_like(z)])  # (2, N, K)
        own = torch.einsum("ank,bnk,nk->abk", inputs, inputs, p)
        both = torch.einsum("ani,ni,bnj,nj->aibj", inputs, p, inputs, p)
        curve = (torch.einsum("abk,kl->akbl", own, torch.eye(k).double()) - both) / n
        curve = curve.reshape(2 * k, 2 * k) + ridge * torch.eye(2 * k).double()
        step = torch.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-8 and value(at - size * step) > value(at) - 1e-4 * size * (slope @ step):
            size /= 2
        at = at - size * step
    return VectorScaling(at[:k] / spread, at[k:])


def fit_masked_temperature(
    logits: Tensor, labels: Tensor, *, drop: float = 0.1, draws: int = 10, seed: int = 0
) -> Temperature:
    """Masked temperature scaling: the temperature of least NLL on logits of which random entries are set to 0.

    At test time logits are divided by it unmasked, so that accuracy is unchanged.

    Args:
        logits: (N, K) finite, on data that the network was not trained on.
        labels: (N,) int64.
        drop: probability that an entry is set to 0.
        draws: masks of every image.
        seed: of the masks.

    Source: Zhu et al., "Rethinking Data Distillation: Do Not Overlook Calibration", ICCV 2023, arXiv 2307.12463. A
    reconstruction: the code is not public.
    """
    generator = torch.Generator().manual_seed(seed)
    many = logits.double().repeat(draws, 1)
    kept = torch.rand(many.shape, generator=generator, dtype=torch.float64) >= drop
    return fit_temperature(many * kept, labels.repeat(draws))


def ensemble(logits: Tensor) -> Tensor:
    """(N, K) log of the mean probability of V networks, from their logits (V, N, K).

    Source: Lakshminarayanan, Pritzel & Blundell, "Deep Ensembles", NeurIPS 2017, section 2.4.
    """
    return logits.double().log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()


def _by_vector(logits: Tensor, held: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([fit_vector(h, labels).apply(z) for z, h in zip(logits, held, strict=True)])


def _by_masks(logits: Tensor, held: Tensor, labels: Tensor) -> Tensor:
    fits = [fit_masked_temperature(h, labels) for h in held]
    return torch.stack(
        [z if f.at_bound else z / f.value for z, f in zip(logits, fits, strict=True)]
    )


def _together(logits: Tensor, _held: Tensor, _labels: Tensor) -> Tensor:
    return ensemble(logits)[None]


REPAIRS: Mapping[str, Repair] = {"vector": _by_vector, "masked": _by_masks, "ensemble": _together}
"""Beside one temperature: a scale and shift for each class, a temperature fitted under masks, the networks' average."""
