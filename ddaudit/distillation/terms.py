"""Terms: losses on the synthetic set that are added to the match, each usable with any loop that takes terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.parts import Term, View
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.training.robust import climb


@dataclass(frozen=True)
class TotalVariation:
    """Smooth images: the mean squared difference of neighbouring pixels, vertical plus horizontal.

    Source: Mahendran & Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015, section 3
    (their beta = 2); means instead of sums, so that a weight fits any image size.
    """

    weight: float = 0.01

    def __post_init__(self) -> None:
        _check(self, weight=self.weight)

    def loss(self, view: View) -> Tensor:
        """(K,)."""
        return total_variation(view.images)


@dataclass(frozen=True)
class CrossEntropy:
    """The network classifies the synthetic images (as augmented for the match) by their labels.

    Says something where networks have learnt something: on random ones it pulls images towards chance directions.

    Attributes:
        weight: in the loss.
        on: "net", the network of the step, or "teacher", the trained one that it was made from.
        per_class: times the number of classes, which is the sum of class means where classes have equally many
            images: on the scale of matches of class rows.
        by_accuracy: times the percents of its own training batches that the network of the step gets right: what
            networks trained on records know (IDM), which is little of new ones.

    Source: Zhao et al., "Improved Distribution Matching" (IDM), CVPR 2023, arXiv 2307.09742, section 3.3 and the
    authors' code, with ``per_class`` and ``by_accuracy``. On the teacher: the calibration of NCFM, CVPR 2025.
    """

    weight: float = 0.5
    on: Literal["net", "teacher"] = "net"
    per_class: bool = False
    by_accuracy: bool = False

    def __post_init__(self) -> None:
        _check(self, weight=self.weight)
        if self.on not in ("net", "teacher"):
            raise ValueError(f"CrossEntropy.on is 'net' or 'teacher', not '{self.on}'")

    def loss(self, view: View) -> Tensor:
        """(K,) mean cross-entropies; their sum over classes, by accuracy, where asked for."""
        targets = view.targets()
        if self.on == "net":
            _network(self, view)
            logits = view.trace.logits
        else:
            logits = _teacher(self, view).body(view.matched.flatten(0, 1))
        losses = -(targets * logits.view(*targets.shape).log_softmax(-1)).sum(-1).mean(1)
        if self.by_accuracy:
            right = _network(self, view).accuracy
            if right is None:
                raise BadInput(
                    "CrossEntropy",
                    "is weighted by an accuracy that is not known of these networks",
                    "Take networks that are trained on records between steps, or by_accuracy=false.",
                )
            losses = losses * 100 * right
        return losses * view.num_classes if self.per_class else losses


@dataclass(frozen=True)
class Adversarial:
    """The network classifies the worst images within ``epsilon`` of the synthetic ones: an inner ascent, then one
    outer loss in which the perturbation is a constant (Danskin's theorem).

    Attributes:
        weight: in the loss.
        epsilon: L-infinity radius, in pixels in [0, 1].
        steps: of projected gradient ascent from the images themselves; step size 2.5 epsilon / steps, at most
            epsilon.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, equation 2.1,
    applied to the synthetic set. Images are not clipped to [0, 1], because synthetic ones are not.
    """

    weight: float = 0.5
    epsilon: float = 8 / 255
    steps: int = 3

    def __post_init__(self) -> None:
        _check(self, weight=self.weight, epsilon=self.epsilon)
        if self.steps < 1:
            raise ValueError(f"Adversarial.steps must be at least 1, got {self.steps}")

    def loss(self, view: View) -> Tensor:
        """(K,) mean cross-entropies of perturbed images."""
        net = _network(self, view)
        worst = perturbed(net, view, epsilon=self.epsilon, steps=self.steps)
        return _cross_entropies(net, worst, view.targets())


@dataclass(frozen=True)
class Contrast:
    """Classes stand apart: every image's embedding is told from the class centres of the synthetic set by cosine.

    The cross-entropy of softmax(cos(phi(s), centre_c) / temperature) against the image's class, where centre_c is
    the mean embedding of class c's synthetic images.

    Source: the discrimination loss of CAFE (Wang et al., CVPR 2022, arXiv 2203.01531, section 3.3), which classifies
    real embeddings by those centres. Here synthetic ones are classified, by cosines: ours.
    """

    weight: float = 0.1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        _check(self, weight=self.weight, temperature=self.temperature)

    def loss(self, view: View) -> Tensor:
        """(K,) mean cross-entropies."""
        k, m = view.matched.shape[:2]
        z = _network(self, view).body.features(view.matched.flatten(0, 1)).view(k, m, -1)
        one_hot = F.one_hot(view.labels, view.num_classes).T.to(z.dtype)
        centres = (one_hot / one_hot.sum(1, keepdim=True).clamp_min(1)) @ z
        logits = F.normalize(z, dim=-1) @ F.normalize(centres, dim=-1).mT / self.temperature
        losses = F.cross_entropy(logits.flatten(0, 1), view.labels.repeat(k), reduction="none")
        return losses.view(k, m).mean(1)


def added(terms: Sequence[Term], view: View) -> Tensor | None:
    """The weighted terms of all runs, summed to a scalar; None where there are no terms.

    Runs stay independent: every term is a sum over runs of a loss of that run's images alone.
    """
    if not terms:
        return None
    return torch.stack([term.weight * term.loss(view).sum() for term in terms]).sum()


def perturbed(net: Network, view: View, *, epsilon: float, steps: int) -> Tensor:
    """(K, M, C, H, W) the worst images found within ``epsilon`` of the synthetic ones; the move is a constant.

    Args:
        epsilon: L-infinity radius, in pixels in [0, 1].
        steps: of the ascent of their cross-entropy, see :class:`Adversarial`.
    """
    radius, images, targets = epsilon / view.std, view.images.detach(), view.targets().detach()
    worst = climb(
        images,
        lambda x: _cross_entropies(net, x, targets),
        radius=radius,
        size=min(1.0, 2.5 / steps) * radius,
        steps=steps,
    )
    return view.images + (worst - images)


def total_variation(x: Tensor) -> Tensor:
    """Mean squared difference of vertical and of horizontal neighbours, added: (..., M, C, H, W) -> (...)."""
    last = (-4, -3, -2, -1)
    down = (x[..., 1:, :] - x[..., :-1, :]).square().mean(last)
    right = (x[..., 1:] - x[..., :-1]).square().mean(last)
    total: Tensor = down + right
    return total


def _cross_entropies(net: Network, x: Tensor, targets: Tensor) -> Tensor:
    """(K,) mean cross-entropy of images (K, M, C, H, W) against distributions (K, M, num_classes)."""
    logits: Tensor = net.body(x.flatten(0, 1)).view(*x.shape[:2], -1)
    return -(targets * logits.log_softmax(-1)).sum(-1).mean(1)


def _network(term: Term, view: View) -> Network:
    if view.net is None:
        raise BadInput(
            type(term).__name__,
            "needs a network, and this method has none",
            "Use it on methods that match on networks, such as dm or dc.",
        )
    return view.net


def _teacher(term: Term, view: View) -> Network:
    if view.teacher is None:
        raise BadInput(
            type(term).__name__,
            "needs a network trained on the records, and this method has none",
            "Use --set terms.crossentropy.on=net, or networks that learn of records.",
        )
    return view.teacher


def _check(term: Term, **positive: float) -> None:
    for name, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{type(term).__name__}.{name} must be positive, got {value:g}")
