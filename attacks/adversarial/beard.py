"""The BEARD benchmark: its metrics, and its PGD both as its code runs it and as it was meant.

Its loader normalises the images and its attack library, which is not told, clamps to [0, 1]: every normalised value
below 0 becomes 0, half of each image is blanked, and "PGD-L2" has nothing left to do, so that its accuracies are those
of clamping alone. ``beard_compat=True`` runs just that, to land on the published cells; the default is the evaluation
that the benchmark describes.

Metrics are fractions (the published tables are percents). Larger is better for the defender, but read them with
care: RR rises when the *worst* attack gets stronger, pooling over IPC mixes capacity with robustness, and AE depends
on hardware and on the slowest attack alone. Clean and worst-case accuracy belong beside them.

Source: Zhou et al., BEARD, arXiv 2411.09265, and the authors' released code (the "rome" variants of its RR).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.ball import Ball, Noise, Norm
from ddaudit.attacks.adversarial.execution import InputAttack, checked, classify, frozen, run
from ddaudit.attacks.adversarial.gradient import FGSM, PGD
from ddaudit.attacks.adversarial.minimum_norm import CarliniWagner, DeepFool
from ddaudit.attacks.adversarial.suite import standard
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.training import at_once

EPS: dict[Norm, float] = {"Linf": 8 / 255, "L2": 128 / 255}
ALPHA: dict[Norm, float] = {"Linf": 2 / 225, "L2": 15 / 255}
"""Step sizes of the released code (225 as it stands there)."""
STEPS = 10
ANYWHERE = 1e6
"""A radius that ends no search: the benchmark's DeepFool and CW have none."""


def beard_pgd(
    network: Network,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "Linf",
    targeted: bool = False,
    beard_compat: bool = False,
) -> Tensor:
    """(N,) bool: classified correctly under the benchmark's PGD (10 steps from the image itself).

    Args:
        pixels: (N, C, H, W) uint8, or float in [0, 1]; labels (N,).
        targeted: towards class (label + 1) mod K (the released code: mod 10, whatever K); what is scored is the true
            label in any case, as there.
        beard_compat: normalised images, a clamp to [0, 1], eps and step in units of normalised values.
    """
    part = _pgd(norm, towards=int(targeted), leave=not beard_compat)
    return _stands(network, pixels, labels, part, beard_compat=beard_compat)


@dataclass(frozen=True)
class _Part:
    """One of the benchmark's attacks at its radius; those that look for the nearest x' have none."""

    name: str
    attacks: tuple[InputAttack, ...]
    norm: Norm = "Linf"
    eps: float = EPS["Linf"]


def _pgd(norm: Norm, *, towards: int, leave: bool) -> _Part:
    attack = PGD(STEPS, ALPHA[norm], random_start=False, leave=leave, towards=towards)
    return _Part(f"PGD {norm}", (attack,), norm, EPS[norm])


def pool(*, targeted: bool, beard_compat: bool = False) -> list[_Part]:
    """The attacks whose accuracies the benchmark's metrics pool; DeepFool and AutoAttack aim at no class.

    DeepFool as coded is the library's, which cuts every step to [0, 1] and goes on from there. AutoAttack takes 10
    steps a part, as the benchmark's library does. CW has one try of c = 1 and our logits: the library's read a rival
    of 0 where all are negative.
    """
    towards, leave = int(targeted), not beard_compat
    parts = [
        _Part("FGSM", (FGSM(leave=leave, towards=towards),)),
        *(_pgd(norm, towards=towards, leave=leave) for norm in EPS),
        _Part("CW", (CarliniWagner(searches=1, towards=towards),), "L2", ANYWHERE),
    ]
    if targeted:
        return parts
    far = _Part("DeepFool", (DeepFool(stepwise=beard_compat),), "L2", ANYWHERE)
    return [*parts, far, _Part("AutoAttack", tuple(standard(steps=STEPS, rescale=True)))]


def evaluate(
    network: Network,
    pixels: Tensor,
    labels: Tensor,
    *,
    targeted: bool = False,
    beard_compat: bool = False,
) -> dict[str, tuple[Tensor, float]]:
    """Every attack of the pool on one network, "clean" first: (N,) bool classified correctly, and seconds.

    Args:
        pixels, labels, targeted, beard_compat: as :func:`beard_pgd`.
    """

    def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
        began = time.perf_counter()
        return work(), time.perf_counter() - began

    x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    found = {"clean": timed(lambda: classify(network, x) == labels)}
    for part in pool(targeted=targeted, beard_compat=beard_compat):
        asked = partial(_stands, network, x, labels, part, beard_compat=beard_compat)
        found[part.name] = timed(asked)
    return found


def _stands(
    network: Network, pixels: Tensor, labels: Tensor, part: _Part, *, beard_compat: bool
) -> Tensor:
    """(N,) bool: classified correctly under an attack, as meant or as coded."""
    eps, norm = part.eps, part.norm
    if not beard_compat:
        return run(network, pixels, labels, part.attacks, eps=eps, norm=norm).survived
    x, y = checked(pixels, labels, eps=eps, norm=norm, bounds=(0.0, 1.0))
    standing = torch.ones(len(x), dtype=torch.bool)
    for number, attack in enumerate(part.attacks):
        for index in standing.nonzero().flatten().split(at_once(x, 256)):
            with frozen(network.body) as model:
                inputs = network.normalize(x[index].to(model.device))
                ball, noise = Ball(eps, norm), Noise(1009 * number, index)
                made = attack(model, inputs, y[index].to(model.device), ball, noise)
            standing[index] = classify(network.body, made.cpu()) == y[index]
    return standing


def clip_only(network: Network, pixels: Tensor) -> Tensor:
    """(N,) int64 predictions when normalised images are clamped to [0, 1] and not attacked at all."""
    x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    with frozen(network.body) as model:
        parts = [
            model.logits(network.normalize(b.to(model.device)).clamp(0, 1)).cpu()
            for b in x.split(at_once(x))
        ]
    return torch.cat(parts).argmax(1)


@dataclass(frozen=True)
class EvaluationLog:
    """One evaluation log: a set at one IPC, under targeted or under untargeted attacks.

    Attributes:
        clean: accuracy without an attack, a fraction.
        clean_seconds: time of that evaluation (the benchmark takes the smaller of its two clean timings).
        accuracies: accuracy under each attack, fractions.
        seconds: time of each attack.
    """

    clean: float
    clean_seconds: float
    accuracies: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class BeardMetrics:
    """The benchmark's numbers, as fractions.

    Attributes:
        rr: robustness ratio, (mean a - min a) / (A - min a).
        i_rr: improved robustness ratio, 1 - (A - mean a)(A - min a) / A^2.
        i_rr_plus: ``i_rr`` less the mean amount by which attacks *raise* accuracy.
        ae: attack efficiency ratio, (mean t - c) / (max t - c).
        crei, i_crei: alpha RR + (1 - alpha) AE, with RR and with I-RR.
        clean, worst: A and min a, which belong beside them.
    """

    rr: float
    i_rr: float
    i_rr_plus: float
    ae: float
    crei: float
    i_crei: float
    clean: float
    worst: float


def beard_metrics(logs: Sequence[EvaluationLog], *, alpha: float = 0.5) -> BeardMetrics:
    """The metrics of one log, or of several pooled as the benchmark pools IPC 1, 10 and 50.

    Clean accuracies and clean times are averaged over the logs; attack accuracies and times are pooled.

    Args:
        logs: one per IPC.
        alpha: weight of the robustness ratio in CREI, in [0, 1].

    Raises:
        BadInput: no attack, a value outside its range, or accuracies and times of different number.
    """
    _require(logs, alpha)
    clean = _mean([log.clean for log in logs])
    under = [a for log in logs for a in log.accuracies]
    seconds = [t for log in logs for t in log.seconds]
    mean, worst = _mean(under), min(under)
    rr = (mean - worst) / (clean - worst) if clean != worst else 0.0
    i_rr = 1 - (clean - mean) * (clean - worst) / clean**2
    raised = _mean([max(0.0, a - clean) for a in under])
    start, slowest = _mean([log.clean_seconds for log in logs]), max(seconds)
    ae = (_mean(seconds) - start) / (slowest - start) if slowest != start else 0.0
    return BeardMetrics(
        rr=rr, i_rr=i_rr, i_rr_plus=i_rr - raised, ae=ae, crei=alpha * rr + (1 - alpha) * ae,
        i_crei=alpha * i_rr + (1 - alpha) * ae, clean=clean, worst=worst,
    )  # fmt: skip


def _require(logs: Sequence[EvaluationLog], alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha {alpha}", "must lie between 0 and 1")
    for log in logs:
        if len(log.accuracies) != len(log.seconds):
            counts = f"{len(log.accuracies)} accuracies and {len(log.seconds)} times"
            raise BadInput("BEARD log", f"has {counts}", "Give one of each per attack.")
        if not (0 < log.clean <= 1 and all(0 <= a <= 1 for a in log.accuracies)):
            what = "accuracies must be fractions, and clean accuracy above 0"
            raise BadInput("BEARD log", what, "Published tables are percents: divide by 100.")
    if not any(log.accuracies for log in logs):
        raise BadInput("BEARD log", "holds no attack")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
