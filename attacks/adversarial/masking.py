"""Is a robustness number real? The gradient-masking tests of the evaluation literature, as pass/fail checks.

A network can look robust because its gradients mislead the attack. Each test here states something that must hold
if the attack works; a failing one greys out the subject's robustness numbers. Numbers in the names follow the
checklist of Carlini et al. as the method sheet orders it.

All fourteen run where the audit gathers the evidence; a test without evidence (no sibling network, say) is left out.
Tolerance: one standard error of the reference accuracy over the N images, from the smoothed proportion
(k + 1) / (N + 2) and never below one image. Tests about identity (1, 13, 14) have none.

Source: Carlini et al., "On Evaluating Adversarial Robustness", arXiv 1902.06705; Athalye et al., ICML 2018;
Croce and Hein, ICML 2020 (the Square test).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ddaudit.attacks.adversarial.ball import PIXELS, Bounds
from ddaudit.attacks.adversarial.execution import classify
from ddaudit.findings import Check

AFFECTS = ["adversarial.robust_accuracy", "adversarial.drop_rate", "adversarial.transfer_accuracy"]
"""The numbers that a masked gradient makes wrong; clean accuracy and a benchmark's own evaluation are not."""
EVERYTHING = ["adversarial."]
"""What is wrong where attack and audit do not read the same network."""
UNBOUNDED_LIMIT = 0.01
"""Accuracy that counts as "about zero" under an attack that may change every pixel freely."""
TARGETED_SHARE = 0.9
"""Share of images that an attack which may change everything must bring to a class of its choice."""
NOISE_SHARE = 0.5
"""Of what PGD breaks, random noise of the same size may break at most this share."""
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
        noise: accuracy under uniform noise within ``eps``.
        restarts: restarts -> accuracy under PGD-10 at ``eps``; must hold 1 and 5.
        margin: accuracy under PGD-100 on the logit margin, which does not saturate as the softmax does.
        targeted: share of correct images that are made to read as another class when every change is allowed.
        queried: accuracy when a query attack follows PGD-100, which uses no gradient.
        gradients: share of correctly classified images with a non-zero input gradient.
        invalid: x' outside [0, 1], outside the ball, or not finite, over every attack of the audit.
        white_box, with_square: accuracy on ``square_images`` images before and after the Square attack, or None.
        pixels: radii are on the [0, 1] scale of pixels.
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
    noise: float | None = None
    restarts: Mapping[int, float] | None = None
    margin: float | None = None
    targeted: float | None = None
    queried: float | None = None
    white_box: float | None = None
    with_square: float | None = None
    square_images: int = 0
    pixels: bool = True


def checks(evidence: MaskingEvidence, *, subject: str) -> list[Check]:
    """The tests of one subject's robustness numbers, in the order of the checklist."""
    e = evidence
    steps = e.by_steps
    out = [
        _check(
            subject, "masking 1: eps 0 gives the clean accuracy", e.changed_at_zero == 0, e.changed_at_zero,
            "0 images differ", "an attack that may change nothing must change nothing", EVERYTHING,
        ),
        *([_monotone_eps(e, subject)] if len(e.by_eps) > 1 else []),
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
    out += _query_tests(e, subject)
    if e.noise is not None:
        lost, allowed = e.clean - e.noise, NOISE_SHARE * (e.clean - steps[100])
        allowed = max(allowed, standard_error(e.clean, e.images))
        out.append(
            _check(subject, "masking 7: random noise is far weaker than PGD", lost <= allowed + _ROUNDING, lost,
                   f"<= {allowed:.3f}", f"accuracy lost to uniform noise, eps {_radius(e)}")
        )  # fmt: skip
    if e.restarts is not None:
        out.append(_gap(e, subject, "masking 8: one start is nearly as strong as five", e.restarts[1], e.restarts[5],
                        "accuracy under PGD-10, one start minus five"))  # fmt: skip
    out.append(_gap(e, subject, "masking 9: 10 steps are nearly as strong as 100", steps[10], steps[100],
                    "accuracy under PGD-10 minus PGD-100"))  # fmt: skip
    if e.margin is not None:
        slack = 2 * standard_error(steps[100], e.images)
        gap = abs(steps[100] - e.margin)
        out.append(
            _check(subject, "masking 10: cross-entropy and margin agree", gap <= slack + _ROUNDING, gap,
                   f"<= {slack:.3f}", "PGD-100 on the two losses: a saturated softmax hides gradients from one")
        )  # fmt: skip
    out.append(
        _check(subject, "masking 11: input gradients do not vanish", e.gradients > GRADIENT_SHARE, e.gradients,
               f"> {GRADIENT_SHARE}", "share of correctly classified images with a non-zero loss gradient")
    )  # fmt: skip
    if e.targeted is not None:
        least = TARGETED_SHARE - standard_error(TARGETED_SHARE, e.images)
        out.append(
            _check(subject, "masking 12: a targeted attack reaches its class", e.targeted >= least - _ROUNDING,
                   e.targeted, f">= {least:.3f}", "margin to the next class, every change allowed, 100 steps")
        )  # fmt: skip
    out += [
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
        EVERYTHING,
    )  # fmt: skip


def clip_only_changes(
    network: nn.Module, inputs: Tensor, predictions: Tensor, *, bounds: Bounds = PIXELS
) -> int:
    """Images whose prediction changes when ``inputs`` are clamped as an attack clamps them, and not perturbed at all.

    Args:
        network: what the attack would call.
        inputs: (N, C, H, W) exactly what the attack would be given.
        predictions: (N,) int64 by the path that reports clean accuracy.

    Source: method sheet, BEARD's published PGD-L2 rows equal this control.
    """
    return int((classify(network, inputs.clamp(*bounds)) != predictions).sum())


def standard_error(accuracy: float, n: int) -> float:
    """One standard error of an accuracy over n images, smoothed, never below one image."""
    p = (accuracy * n + 1) / (n + 2)
    return max(math.sqrt(p * (1 - p) / n), 1 / n)


_ROUNDING = 1e-9  # accuracies are means of a few floats; equality must not fail on the last bit


def _query_tests(e: MaskingEvidence, subject: str) -> list[Check]:
    """Test 6, on AutoAttack's images where that ran, on the tests' own otherwise."""
    name = "masking 6: the query attack finds little that gradients missed"
    if e.white_box is not None and e.with_square is not None:
        before, after, images = e.white_box, e.with_square, e.square_images
        detail = f"survive APGD and FAB but not Square, of {images} images"
    elif e.queried is not None:
        before, after, images = e.by_steps[100], e.queried, e.images
        detail = f"survive PGD-100 but not Square, of {images} images"
    else:
        return []
    slack, gain = standard_error(before, images), before - after
    return [_check(subject, name, gain <= slack + _ROUNDING, gain, f"<= {slack:.3f}", detail)]


def _monotone_eps(e: MaskingEvidence, subject: str) -> Check:
    name = "masking 2: accuracy does not rise with eps"
    return _never_rises(e.by_eps, e.curve_images, subject, name, f"PGD at {len(e.by_eps)} radii")


def _monotone_steps(e: MaskingEvidence, subject: str) -> Check:
    detail = f"PGD with {', '.join(map(str, sorted(e.by_steps)))} steps at eps {_radius(e)}"
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
        subject, name, value <= limit + _ROUNDING, value, f"<= {limit:.3f}", f"{detail}, eps {_radius(e)}"
    )  # fmt: skip


def _gap(
    e: MaskingEvidence, subject: str, name: str, weaker: float, stronger: float, detail: str
) -> Check:
    """The stronger attack may gain at most one standard error."""
    slack = standard_error(stronger, e.images)
    passed = weaker - stronger <= slack + _ROUNDING
    return _check(subject, name, passed, weaker - stronger, f"<= {slack:.3f}", detail)


def _check(
    subject: str | None,
    name: str,
    passed: bool,
    value: float,
    expected: str,
    detail: str,
    affects: Sequence[str] = AFFECTS,
) -> Check:
    return Check(
        name=name, passed=bool(passed), value=float(value), expected=expected, detail=detail,
        affects=list(affects), subject=subject,
    )  # fmt: skip


def _radius(e: MaskingEvidence) -> str:
    return f"{e.eps * 255:g}/255" if e.pixels else f"{e.eps:g}"
