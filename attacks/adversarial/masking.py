"""Is a robustness number real? The gradient-masking tests of the evaluation literature, as pass/fail checks.

A network can look robust because its gradients mislead the attack. Each test here states something that must hold
if the attack works; a failing one greys out the subject's robustness numbers. Numbers in the names follow the
checklist of Carlini et al. as the method sheet orders it.

Tolerance: one standard error of the reference accuracy over the N images, from the smoothed proportion
(k + 1) / (N + 2) and never below one image. Tests about identity (1, 13, 14) have none.

Source: Carlini et al., "On Evaluating Adversarial Robustness", arXiv 1902.06705; Athalye et al., ICML 2018;
Croce and Hein, ICML 2020 (the Square test).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.torchattacks_adapter import AttackResult, classify, pgd
from ddaudit.findings import Check

AFFECTS = ["adversarial."]
UNBOUNDED_LIMIT = 0.01
"""Accuracy that counts as "about zero" under an attack that may change every pixel freely."""
GRADIENT_SHARE = 0.95
"""Share of attacked images whose loss gradient must not vanish."""


@dataclass(frozen=True)
class MaskingEvidence:
    """What the tests look at. Accuracies are means over victims, on the same N images.

    Attributes:
        images: N.
        clean: accuracy by the audit's own prediction path.
        changed_at_zero: images whose verdict differs between that path and an attack with eps 0.
        changed_by_clip: images whose prediction differs between that path and the attack's path without a perturbation.
        by_eps: radius -> accuracy under the audit's PGD, on ``curve_images`` images.
        eps: the radius that the tests below use.
        by_steps: steps -> accuracy under PGD at ``eps``; must hold 1, 10 and 100.
        unbounded: accuracy at eps 1 with 100 steps.
        transfer: accuracy under images crafted on a sibling network; None without a sibling.
        gradients: share of correctly classified images with a non-zero input gradient.
        invalid: x' outside [0, 1], outside the ball, or not finite, over every attack of the audit.
        white_box, with_square: accuracy on ``square_images`` images before and after the Square attack, or None.
    """

    images: int
    clean: float
    changed_at_zero: int
    changed_by_clip: int
    by_eps: Mapping[float, float]
    curve_images: int
    eps: float
    by_steps: Mapping[int, float]
    unbounded: float
    transfer: float | None
    gradients: float
    invalid: int
    white_box: float | None = None
    with_square: float | None = None
    square_images: int = 0


def checks(evidence: MaskingEvidence, *, subject: str) -> list[Check]:
    """The tests of one subject's robustness numbers, in the order of the checklist."""
    e = evidence
    steps = e.by_steps
    out = [
        _check(
            subject, "masking 1: eps 0 gives the clean accuracy", e.changed_at_zero == 0, e.changed_at_zero,
            "0 images differ", "an attack that may change nothing must change nothing",
        ),
        _monotone_eps(e, subject),
        _monotone_steps(e, subject),
        _check(
            subject, "masking 3: an unbounded attack succeeds",
            e.unbounded <= UNBOUNDED_LIMIT + standard_error(UNBOUNDED_LIMIT, e.images), e.unbounded,
            f"<= {UNBOUNDED_LIMIT + standard_error(UNBOUNDED_LIMIT, e.images):.3f}",
            "PGD with eps 1 and 100 steps can reach every picture; survivors mean useless gradients",
        ),
        _at_most(e, subject, "masking 4: iterative is no weaker than one step", steps[10], steps[1],
                 "accuracy under PGD-10 against one step"),
    ]  # fmt: skip
    if e.transfer is not None:
        out.append(
            _at_most(e, subject, "masking 5: white-box is no weaker than transfer", steps[10], e.transfer,
                     "accuracy under PGD-10 against images crafted on a sibling network"),
        )  # fmt: skip
    if e.white_box is not None and e.with_square is not None:
        slack = standard_error(e.white_box, e.square_images)
        gain = e.white_box - e.with_square
        out.append(
            _check(
                subject, "masking 6: the query attack finds little that gradients missed", gain <= slack + _ROUNDING,
                gain, f"<= {slack:.3f}", f"survive APGD and FAB but not Square, of {e.square_images} images",
            )
        )  # fmt: skip
    gap = steps[10] - steps[100]
    slack = standard_error(steps[100], e.images)
    out += [
        _check(subject, "masking 9: 10 steps are nearly as strong as 100", gap <= slack + _ROUNDING, gap,
               f"<= {slack:.3f}", "accuracy under PGD-10 minus PGD-100"),
        _check(subject, "masking 11: input gradients do not vanish", e.gradients > GRADIENT_SHARE, e.gradients,
               f"> {GRADIENT_SHARE}", "share of correctly classified images with a non-zero loss gradient"),
        clip_check(e.changed_by_clip, subject=subject),
        _check(subject, "masking 14: every adversarial image is valid", e.invalid == 0, e.invalid, "0 images",
               "pixels in [0, 1], distance at most eps + 1e-6, finite; invalid ones earned the attack no credit"),
    ]  # fmt: skip
    return out


def clip_check(changed: int, *, subject: str | None = None) -> Check:
    """Test 13: running the attack's pre- and post-processing with no perturbation changes no prediction."""
    return _check(
        subject, "masking 13: clip-only control", changed == 0, changed, "0 images differ",
        "images clamped to [0, 1] as attacks clamp them, and nothing else; exposes attacks run on normalised images",
    )  # fmt: skip


def clip_only_changes(network: nn.Module, inputs: Tensor, predictions: Tensor) -> int:
    """Images whose prediction changes when ``inputs`` are clamped to [0, 1] and not perturbed at all.

    Args:
        network: what the attack would call.
        inputs: (N, C, H, W) exactly what the attack would be given.
        predictions: (N,) int64 by the path that reports clean accuracy.

    Source: method sheet, BEARD's published PGD-L2 rows equal this control.
    """
    return int((classify(network, inputs.clamp(0, 1)) != predictions).sum())


def standard_error(accuracy: float, n: int) -> float:
    """One standard error of an accuracy over n images, smoothed, never below one image."""
    p = (accuracy * n + 1) / (n + 2)
    return max(math.sqrt(p * (1 - p) / n), 1 / n)


@dataclass
class Probe:
    """Collects evidence victim by victim.

    Args:
        pixels: (N, C, H, W) float in [0, 1]; labels: (N,).
        eps: radius for the tests that need one.
    """

    pixels: Tensor
    labels: Tensor
    eps: float
    seed: int
    clean: list[float] = field(default_factory=list)
    zero: list[int] = field(default_factory=list)
    clip: list[int] = field(default_factory=list)
    steps: dict[int, list[float]] = field(default_factory=dict)
    unbounded: list[float] = field(default_factory=list)
    transfer: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    invalid: int = 0

    def add(self, network: nn.Module, predictions: Tensor, sibling: nn.Module | None) -> None:
        """Run the tests' attacks on one victim.

        Args:
            predictions: (N,) by the audit's prediction path.
            sibling: another network for the same task, or None.
        """
        x, y, eps = self.pixels, self.labels, self.eps
        correct = predictions == y
        self.clean.append(_mean(correct))
        self.clip.append(clip_only_changes(network, x, predictions))
        self.zero.append(int((self._pgd(network, eps=0.0).survived != correct).sum()))
        one = self._pgd(network, eps=eps, steps=1, alpha=eps, random_start=False)
        for steps, result in (
            (1, one),
            (10, self._pgd(network, eps=eps)),
            (100, self._pgd(network, eps=eps, steps=100)),
        ):
            self.steps.setdefault(steps, []).append(result.robust_accuracy)
        self.unbounded.append(self._pgd(network, eps=1.0, steps=100).robust_accuracy)
        self.gradients.append(nonzero_gradient_share(network, x[correct], y[correct]))
        if sibling is not None:
            crafted = self._pgd(sibling, eps=eps, only_correct=False)
            self.transfer.append(_mean(correct & (classify(network, crafted.adversarial) == y)))

    def evidence(
        self,
        *,
        by_eps: Mapping[float, float],
        curve_images: int,
        invalid: int = 0,
        square: tuple[float, float, int] | None = None,
    ) -> MaskingEvidence:
        """The evidence over all victims added.

        Args:
            by_eps: radius -> mean accuracy of the audit's own PGD curve, on ``curve_images`` images.
            invalid: x' already counted by the audit's other attacks.
            square: (accuracy before Square, after it, images), or None.
        """
        white, after, images = square if square is not None else (None, None, 0)
        return MaskingEvidence(
            images=len(self.labels), clean=_average(self.clean), changed_at_zero=sum(self.zero),
            changed_by_clip=sum(self.clip), by_eps=by_eps, curve_images=curve_images, eps=self.eps,
            by_steps={k: _average(v) for k, v in self.steps.items()}, unbounded=_average(self.unbounded),
            transfer=_average(self.transfer) if self.transfer else None, gradients=_average(self.gradients),
            invalid=self.invalid + invalid, white_box=white, with_square=after, square_images=images,
        )  # fmt: skip

    def _pgd(
        self,
        network: nn.Module,
        *,
        eps: float,
        steps: int = 10,
        alpha: float | None = None,
        random_start: bool = True,
        only_correct: bool = True,
    ) -> AttackResult:
        result = pgd(
            network, self.pixels, self.labels, eps=eps, steps=steps, alpha=alpha, random_start=random_start,
            only_correct=only_correct, seed=self.seed,
        )  # fmt: skip
        self.invalid += result.invalid
        return result


def nonzero_gradient_share(
    network: nn.Module, pixels: Tensor, labels: Tensor, *, batch_size: int = 256
) -> float:
    """Share of images whose cross-entropy gradient with respect to the pixels is not exactly zero (1.0 of none)."""
    if len(pixels) == 0:
        return 1.0
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    alive = 0
    for start in range(0, len(pixels), batch_size):
        x = pixels[start : start + batch_size].to(device).clone().requires_grad_(True)
        y = labels[start : start + batch_size].to(device)
        loss = nn.functional.cross_entropy(network(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        alive += int((gradient.flatten(1) != 0).any(1).sum())
    return alive / len(pixels)


_ROUNDING = 1e-9  # accuracies are means of a few floats; equality must not fail on the last bit


def _monotone_eps(e: MaskingEvidence, subject: str) -> Check:
    name = "masking 2: accuracy does not rise with eps"
    return _never_rises(e.by_eps, e.curve_images, subject, name, f"PGD at {len(e.by_eps)} radii")


def _monotone_steps(e: MaskingEvidence, subject: str) -> Check:
    detail = f"PGD with {', '.join(map(str, sorted(e.by_steps)))} steps at eps {_grey(e.eps)}"
    name = "masking 2: accuracy does not rise with steps"
    return _never_rises(e.by_steps, e.images, subject, name, detail)


def _never_rises(
    accuracy: Mapping[Any, float], images: int, subject: str, name: str, detail: str
) -> Check:
    """No accuracy exceeds that of the next smaller key by more than one standard error."""
    rises = [
        (accuracy[b] - accuracy[a], standard_error(accuracy[a], images))
        for a, b in pairwise(sorted(accuracy))
    ]
    worst = max((rise for rise, _ in rises), default=0.0)
    return _check(
        subject, name, all(r <= t + _ROUNDING for r, t in rises), worst,
        f"largest rise <= 1 standard error ({max((t for _, t in rises), default=0.0):.3f})",
        detail,
    )  # fmt: skip


def _at_most(
    e: MaskingEvidence, subject: str, name: str, value: float, reference: float, detail: str
) -> Check:
    limit = reference + standard_error(reference, e.images)
    return _check(
        subject, name, value <= limit + _ROUNDING, value, f"<= {limit:.3f}", f"{detail}, eps {_grey(e.eps)}"
    )  # fmt: skip


def _check(
    subject: str | None, name: str, passed: bool, value: float, expected: str, detail: str
) -> Check:
    return Check(
        name=name, passed=bool(passed), value=float(value), expected=expected, detail=detail,
        affects=list(AFFECTS), subject=subject,
    )  # fmt: skip


def _grey(eps: float) -> str:
    return f"{eps * 255:g}/255"


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
