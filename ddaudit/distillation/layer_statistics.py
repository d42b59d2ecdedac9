"""Layer statistics: synthetic images excite a teacher's layers, in mean and variance, as the real records did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddaudit.distillation.loops import Constants, Job
from ddaudit.distillation.parts import View
from ddaudit.distillation.tracing import Layer, trace
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.seeds import stable_seed

Cells = Literal["channel", "patch"]
_PATCH = 4  # pixels a side
_AT_ONCE = 256  # records


@dataclass(frozen=True, eq=False)
class Moments:
    """Of one layer's inputs over the real records, by class; D channels, or patches of the map.

    Attributes:
        counts: (K,) records.
        mean: (K, D) mean.
        within: (K, D) variance within single records, averaged over them.
        total: (K, D) variance over all values of a class.
    """

    counts: Tensor
    mean: Tensor
    within: Tensor
    total: Tensor

    def pooled(self) -> tuple[Tensor, Tensor]:
        """(D,) mean and variance over all records."""
        share = (self.counts / self.counts.sum())[:, None]
        mean = (share * self.mean).sum(0)
        return mean, (share * (self.total + self.mean.square())).sum(0) - mean.square()


Known = Mapping[tuple[nn.Module, Cells], Moments]


@dataclass(frozen=True)
class LayerStatistics:
    """What enters a teacher's layers has the mean and the variance that the real records had there.

    The loss sums over layers how far means and variances are apart.

    Attributes:
        weight: in the loss.
        first: factor of the first layer.
        classes: "pooled" compares the batch with all records (for batch normalisation: its running statistics);
            "half" by half with those, by half with the mean of its classes' statistics, variances being those within
            single records (category-aware matching); "each" compares every class with its own, averaged over classes.
        convolutions: also what enters convolutions: by channel, and by patch of 4 x 4 pixels at one place.
        momentum: share of former batches in a moving average that stands for the batch; the gradient is the batch's.
        drop: probability that a convolution is left out of a step.
        measure: "norms" of the differences, or "kl", the divergence of the real records' normal distribution of every
            channel from that of the batch, summed over channels (D3S, with diagonal covariances).

    Source: Yin, Xing & Shen, SRe2L, NeurIPS 2023, arXiv 2306.13092, section 3; Shao et al., G-VBSM, CVPR 2024, arXiv
    2311.17950, section 3 (convolutions, momentum, drop); EDC, NeurIPS 2024, arXiv 2404.13733 ("half"); Liu et al.,
    WMDD, ICCV 2025, arXiv 2311.18531 ("each"); Loo et al. (D3S), ICML 2024 ("kl"); their public code, but for D3S.
    """

    weight: float = 0.01
    first: float = 10.0
    classes: Literal["pooled", "half", "each"] = "pooled"
    convolutions: bool = False
    momentum: float = 0.0
    drop: float = 0.0
    measure: Literal["norms", "kl"] = "norms"
    known: Known = field(default_factory=dict, repr=False, compare=False)
    """Moments of the real records; filled by :meth:`learn`."""
    averages: dict[tuple[nn.Module, Cells], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Moving averages of one run."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (self.weight > 0 and self.first > 0):
            raise ValueError(f"{name}.weight and {name}.first must be positive")
        if self.classes not in ("pooled", "half", "each"):
            raise ValueError(f"{name}.classes is 'pooled', 'half' or 'each', not '{self.classes}'")
        if not (0 <= self.momentum < 1 and 0 <= self.drop < 1):
            raise ValueError(f"{name}.momentum and {name}.drop must lie in [0, 1)")
        if self.measure not in ("norms", "kl"):
            raise ValueError(f"{name}.measure is 'norms' or 'kl', not '{self.measure}'")
        if self.classes == "each" and self.momentum > 0:
            raise ValueError(f"{name}.momentum has no meaning where classes are compared apart")

    def learn(self, job: Job, teachers: Sequence[Network], constants: Constants) -> LayerStatistics:
        """This term with the moments of the run's records in every layer that running statistics do not answer for."""
        if self.classes == "pooled" and not self.convolutions:
            return replace(self, known={}, averages={})
        train = job.train.subset(job.members[0])
        known: dict[tuple[nn.Module, Cells], Moments] = {}
        for net in teachers:
            x = (train.pixels() - constants[0]) / constants[1]
            known |= moments(net, x, train.labels, train.num_classes, self.convolutions)
        return replace(self, known=known, averages={})

    def loss(self, view: View) -> Tensor:
        """(1,)."""
        if len(view.images) != 1:
            raise BadInput(type(self).__name__, "compares the batches of one run at a time")
        layers = [x for x in view.trace.layers if self.convolutions or _is_norm(x)]
        if not layers:
            raise BadInput(
                type(self).__name__,
                "compares what enters batch normalisations, and the network has none",
                "Use --set networks.arch=ConvNetBN or ResNet18BN.",
            )
        g = torch.Generator().manual_seed(stable_seed("drop", view.seed, view.step))
        total = view.images.new_zeros(())
        for position, layer in enumerate(layers):
            if not _is_norm(layer) and float(torch.rand((), generator=g)) < self.drop:
                continue
            scale = self.first if position == 0 else 1.0
            for kind in cells_of(layer.module):
                total = total + scale * self._distance(layer, kind, view.labels)
        return total[None]

    def _distance(self, layer: Layer, kind: Cells, labels: Tensor) -> Tensor:
        values = cells(layer.seen, kind)
        real = self.known.get((layer.module, kind))
        if self.classes == "each":
            assert real is not None, "learned before the first step"
            present = labels.unique()
            parts = [
                self.gap(moments_of(values[labels == c]), (real.mean[c], real.total[c]))
                for c in present
            ]
            return torch.stack(parts).mean()
        ours = self._averaged((layer.module, kind), moments_of(values))
        if isinstance(layer.module, nn.BatchNorm2d):
            assert layer.module.running_mean is not None
            assert layer.module.running_var is not None
            everyone = layer.module.running_mean, layer.module.running_var
        else:
            assert real is not None, "learned before the first step"
            everyone = real.pooled()
        if self.classes == "pooled":
            return self.gap(ours, everyone)
        assert real is not None, "learned before the first step"
        own = real.mean[labels].mean(0), real.within[labels].mean(0)
        return 0.5 * self.gap(ours, everyone) + 0.5 * self.gap(ours, own)

    def gap(self, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
        """How far our (D,) means and variances are from theirs, a scalar."""
        return (gap if self.measure == "norms" else divergence)(ours, theirs)

    def _averaged(
        self, key: tuple[nn.Module, Cells], now: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The moving average with this batch in it: its value, and the batch's gradient."""
        if self.momentum == 0:
            return now
        m, v = (p.detach() for p in now)
        if key in self.averages:
            m, v = (
                self.momentum * a + (1 - self.momentum) * b
                for a, b in zip(self.averages[key], (m, v), strict=True)
            )
        self.averages[key] = (m, v)
        return m + now[0] - now[0].detach(), v + now[1] - now[1].detach()


def moments(
    net: Network, x: Tensor, labels: Tensor, classes: int, convolutions: bool
) -> dict[tuple[nn.Module, Cells], Moments]:
    """Moments of what enters the layers of ``net``: exact over all of the normalised images x (N, C, H, W)."""
    sums: dict[tuple[nn.Module, Cells], list[Tensor]] = {}
    counts = torch.bincount(labels, minlength=classes).double()
    with torch.no_grad():
        for at in range(0, len(x), _AT_ONCE):
            part = x[at : at + _AT_ONCE].to(net.device)
            own = F.one_hot(labels[at : at + _AT_ONCE], classes).T.to(net.device, torch.float64)
            for key, values in _cells_of_all(net, part, convolutions):
                mean, var = (p.double() for p in (values.mean(2), values.var(2, unbiased=False)))
                parts = [own @ p for p in (mean, var, var + mean.square())]
                old = sums.get(key)
                sums[key] = (
                    parts if old is None else [a + b for a, b in zip(old, parts, strict=True)]
                )
    held = counts.clamp_min(1)[:, None].to(net.device)
    known = {}
    for key, (mean, within, second) in sums.items():
        mean, within, second = mean / held, within / held, second / held
        known[key] = Moments(
            counts.float().to(net.device),
            mean.float(),
            within.float(),
            (second - mean.square()).float(),
        )
    return known


def recalibrate(net: Network, x: Tensor, labels: Tensor, classes: int) -> None:
    """Give every batch normalisation the mean over classes of the classes' means and variances of what enters it.

    One layer after the other, so that a layer's statistics are those of what the recalibrated layers before it make.

    Args:
        net: changed in place, and left in evaluation mode.
        x: (N, C, H, W) real images, normalised as the body takes them.
        labels: (N,) their classes.

    Source: Cui et al., "Rethinking Long-tailed Dataset Distillation", AAAI 2026, arXiv 2511.18858 (one pass there).
    """
    net.eval()
    done: set[nn.Module] = set()
    while True:
        known = moments(net, x, labels, classes, convolutions=False)
        waiting = [(module, m) for (module, _), m in known.items() if module not in done]
        if not waiting:
            return
        module, found = waiting[0]
        held = found.counts > 0
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        with torch.no_grad():
            module.running_mean.copy_(found.mean[held].mean(0))
            module.running_var.copy_(found.total[held].mean(0))
        done.add(module)


def gap(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
    """Norm of the difference in mean, plus that in variance."""
    mean: Tensor = torch.linalg.vector_norm(ours[0] - theirs[0])
    var: Tensor = torch.linalg.vector_norm(ours[1] - theirs[1])
    return mean + var


def divergence(
    ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], *, floor: float = 1e-3
) -> Tensor:
    """KL(theirs || ours) of normal distributions with independent coordinates, ``floor`` added to both variances."""
    (m, v), (mean, var) = ours, theirs
    v, var = v + floor, var + floor
    total: Tensor = 0.5 * (var / v + (mean - m).square() / v - 1 + (v / var).log()).sum()
    return total


def moments_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and variance of (N, D, n) values."""
    return values.mean((0, 2)), values.var((0, 2), unbiased=False)


def cells(x: Tensor, kind: Cells) -> Tensor:
    """What means are taken over: maps (N, C, H, W) -> (N, D, n).

    "channel" takes them over a channel's pixels; "patch" over all channels of 4 x 4 pixels at one place, after the
    map is enlarged to a multiple of 4 (bilinearly).
    """
    if kind == "channel":
        return x.flatten(2)
    n, c, h, w = x.shape
    size = [-(-s // _PATCH) * _PATCH for s in (h, w)]
    grown = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    parts = grown.view(n, c, size[0] // _PATCH, _PATCH, size[1] // _PATCH, _PATCH)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, c * _PATCH**2)


def cells_of(module: nn.Module) -> tuple[Cells, ...]:
    """What is compared of a layer: channels, and patches where it is a convolution."""
    return ("channel",) if isinstance(module, nn.BatchNorm2d) else ("channel", "patch")


def _cells_of_all(
    net: Network, x: Tensor, convolutions: bool
) -> Iterator[tuple[tuple[nn.Module, Cells], Tensor]]:
    for layer in trace(net, x).layers:
        if convolutions or _is_norm(layer):
            for kind in cells_of(layer.module):
                yield (layer.module, kind), cells(layer.seen, kind)


def _is_norm(layer: Layer) -> bool:
    return isinstance(layer.module, nn.BatchNorm2d)
