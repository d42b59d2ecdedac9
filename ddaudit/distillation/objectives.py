"""Objectives: what is measured on each example, and how two aggregates are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ddaudit.distillation.parts import PrivateDefaults
from ddaudit.models import Network
from ddaudit.training import Curvature


@dataclass(frozen=True)
class MeanEmbedding:
    """Distribution matching: the mean of random-network embeddings, squared Euclidean distance.

    What else has the mean of a measurement of single records for its aggregate overrides :meth:`measure`.

    Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, equation 5.
    """

    shareable: bool = True
    squared: ClassVar[bool] = True

    def measure(self, net: Network, x: Tensor) -> Tensor:
        """(B, D) what is measured of each normalised image of x (B, C, H, W), differentiable: its embedding."""
        features: Tensor = net.body.features(x)
        return features

    def couples_records(self) -> bool:
        """Never: a record's measurement is its own, on networks without batch normalisation."""
        return False

    def private_defaults(self) -> PrivateDefaults | None:
        """NDPDC's: embeddings clipped at 1 and matched as sums, whose scale asks for a step of 1."""
        return PrivateDefaults(
            1.0, "sum", 1.0, "Zheng & Li, Differentially Private Dataset Condensation, 2024"
        )

    def signals(self, net: Network, x: Tensor, y: Tensor) -> Tensor:
        """(B, D) measurements."""
        with torch.no_grad():
            return torch.cat([self.measure(net, part) for part in _affordable(net, x)])

    def real(self, net: Network, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, D) weighted means of measurements."""
        return rows @ self.signals(net, x, y)

    def synthetic(
        self, net: Network, x: Tensor, y: Tensor, rows: Tensor, clip: float | None
    ) -> Tensor:
        """(K, S, D) weighted means of synthetic measurements, clipped as the private side was."""
        k, m = x.shape[:2]
        z = self.measure(net, x.flatten(0, 1))
        if clip is not None:
            # The clip factor is a constant in the gradient, as in NDPDC's code.
            z = z * clip_factor(z.detach(), clip)
        return torch.bmm(rows.expand(k, -1, -1), z.view(k, m, -1))

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) squared norms."""
        return (target - synthetic).square().sum(-1)


@dataclass(frozen=True)
class GradientMatch:
    """Gradient matching: parameter gradients of cross-entropy, compared layer by layer.

    One-dimensional parameters (biases, norms) do not enter the distance.

    Attributes:
        epsilon: added to the product of norms.
        measure: "cosine", 1 - cosine summed over output rows (conv weights as (out, in * k * k), linear weights as
            they are); "mse", summed squared differences; "l1", summed absolute ones.
        classifier: whether the last linear layer's weight enters.
        curvature: a loss beside the cross-entropy of real records, whose gradient is matched with it; None: none.

    Source: Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, section 3.4 and
    appendix A; epsilon as in the authors' code. "mse" and "l1" without the classifier: Kim et al. (IDC), ICML 2022,
    section 5 and the authors' code.
    """

    epsilon: float = 1e-6
    measure: Literal["cosine", "mse", "l1"] = "cosine"
    classifier: bool = True
    curvature: Curvature | None = None
    shareable: bool = False
    squared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.measure not in ("cosine", "mse", "l1"):
            raise ValueError(f"objective.measure is 'cosine', 'mse' or 'l1', not '{self.measure}'")

    def couples_records(self) -> bool:
        """A record's gradient is its own, on networks without batch normalisation, unless a batch has one curvature."""
        return self.curvature is not None and self.curvature.form == "loss"

    def private_defaults(self) -> PrivateDefaults | None:
        """PSG's: gradients clipped at 0.1. Their cosine has no scale; for other measures nothing is published."""
        if self.measure != "cosine":
            return None
        return PrivateDefaults(
            0.1, "mean", None, "Chen, Kerkouche & Fritz, Private Set Generation, 2022"
        )

    def signals(self, net: Network, x: Tensor, y: Tensor) -> Tensor:
        """(B, P) per-example gradients of cross-entropy over all parameters, flattened."""
        params = {n: p.detach() for n, p in net.body.named_parameters()}
        buffers = dict(net.body.named_buffers())

        def loss(p: dict[str, Tensor], xi: Tensor, yi: Tensor) -> Tensor:
            def of(at: Tensor) -> Tensor:
                out = torch.func.functional_call(net.body, (p, buffers), (at,))
                return F.cross_entropy(out, yi[None], reduction="none")

            plain = of(xi[None]).sum()
            if self.curvature is None:
                return plain
            return plain + self.curvature.penalty(of, xi[None], xi.new_ones(1))

        if len(x) == 0:
            return x.new_zeros(0, sum(p.numel() for p in params.values()))
        per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        chunks = []
        for xs, ys in zip(x.split(256), y.split(256), strict=True):
            grads = per_example(params, xs, ys)
            chunks.append(torch.cat([grads[n].flatten(1) for n in params], 1))
        return torch.cat(chunks)

    def real(self, net: Network, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, P) gradients of the row-weighted losses; only records with weight are pushed through."""
        out = []
        for row in rows.flatten(0, 1):
            use = row.nonzero().squeeze(1)
            out.append(self._gradient(net, x[use], y[use], row[use], real=True))
        return torch.stack(out).view(*rows.shape[:2], -1)

    def synthetic(
        self, net: Network, x: Tensor, y: Tensor, rows: Tensor, clip: float | None
    ) -> Tensor:
        """(K, S, P) gradients on synthetic images, differentiable in x. Synthetic gradients are not clipped."""
        out = []
        for xk in x:
            for row in rows:
                use = row.nonzero().squeeze(1)
                out.append(self._gradient(net, xk[use], y[use], row[use], real=False))
        return torch.stack(out).view(len(x), len(rows), -1)

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) distances, summed over the matrix-shaped parameters that enter."""
        total = target.new_zeros(target.shape[:-1])
        left_out = [] if self.classifier else [id(p) for p in net.body.classifier.parameters()]
        start = 0
        for p in net.body.parameters():
            end = start + p.numel()
            if p.ndim > 1 and id(p) not in left_out:
                a = target[..., start:end].unflatten(-1, (p.shape[0], -1))
                b = synthetic[..., start:end].unflatten(-1, (p.shape[0], -1))
                total = total + self._apart(a, b)
            start = end
        return total

    def _apart(self, a: Tensor, b: Tensor) -> Tensor:
        """(K, R) distances of one parameter's gradients, as output rows (K, R, out, D)."""
        if self.measure == "cosine":
            cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + self.epsilon)
            angles: Tensor = (1 - cosine).sum(-1)
            return angles
        apart = (a - b).square() if self.measure == "mse" else (a - b).abs()
        return apart.sum((-2, -1))

    def _gradient(
        self, net: Network, x: Tensor, y: Tensor, weight: Tensor, *, real: bool
    ) -> Tensor:
        """(P,) gradient of the weighted loss: of real records with the curvature, or of synthetic images,
        differentiable in them."""
        params = list(net.body.parameters())
        if len(x) == 0:
            return torch.cat([torch.zeros_like(p).flatten() for p in params])
        with torch.enable_grad():

            def of(at: Tensor) -> Tensor:
                return F.cross_entropy(net.body(at), y, reduction="none")

            loss = (weight * of(x)).sum()
            if real and self.curvature is not None:
                loss = loss + self.curvature.penalty(of, x, weight)
            grads = torch.autograd.grad(loss, params, create_graph=not real)
        return torch.cat([g.flatten() for g in grads])


def clip_factor(signals: Tensor, clip: float) -> Tensor:
    """(B, 1) factors min(1, clip / norm) that bound each row's L2 norm by ``clip``; safe at norm 0."""
    norm = row_norms(signals)[..., None]
    return (clip / norm.clamp_min(clip)).clamp(max=1.0)


def row_norms(signals: Tensor) -> Tensor:
    """(B,) L2 norms of rows (B, D), in float32.

    As a pairwise sum of squares: PyTorch's ``norm`` adds them up one after the other on CPU, and comes out too
    small by 4e-4 for rows of ten million coordinates, which would let signals through above their bound.
    """
    return signals.float().square().sum(-1).sqrt()


_MAP_FLOATS = 2**24
"""Numbers in the largest map at a time: 64 MB. Larger ones are not kept by the allocator between steps, and the system
clears their pages anew: a third of a step of 2560 images of 28x28 (benchmarks/RESULTS.md)."""


def _affordable(net: Network, x: Tensor) -> tuple[Tensor, ...]:
    """The records (B, C, H, W) in parts that a network looks at one after the other; one part where they are few, and
    where batch normalisation ties them to each other."""
    tied = any(isinstance(m, _BatchNorm) for m in net.body.modules())
    if tied or x.device.type != "cpu":
        return (x,)
    most = max(1, _MAP_FLOATS // (net.arch.width * x.shape[-2] * x.shape[-1]))
    parts: tuple[Tensor, ...] = x.split(most)
    return parts
