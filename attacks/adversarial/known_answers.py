"""Known-answer tests of the adversarial auditor: networks whose robustness is known without attacking them.

For a linear network z = W x + b the worst perturbation is known in closed form: an image stays correct at radius eps
exactly when z_y - z_k > eps * ||w_y - w_k||_q for every rival k, with q = 1 for Linf and q = 2 for L2, as long as
the box [0, 1] does not bind. AutoAttack must find exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.ball import Norm
from ddaudit.attacks.adversarial.execution import classify
from ddaudit.attacks.adversarial.masking import AFFECTS, clip_only_changes
from ddaudit.attacks.adversarial.suite import autoattack, pgd
from ddaudit.findings import Check


class Linear(nn.Module):
    """(N, C, H, W) pixels -> (N, K) logits, linear."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.linear(pixels.flatten(1), self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class LinearCase:
    """A linear network, images in the middle of the box, a radius, and the true verdict per image.

    Attributes:
        pixels: (N, C, H, W) in [0.3, 0.7]; labels: (N,) int64.
        eps: halfway between two images' critical radii; no worst-case pixel moves by 0.3, so the box never binds.
        robust: (N,) bool, correct and beyond reach at ``eps``.
    """

    network: Linear
    pixels: Tensor
    labels: Tensor
    eps: float
    norm: Norm
    robust: Tensor


def linear_case(
    *,
    norm: Norm,
    images: int = 24,
    classes: int = 4,
    shape: tuple[int, int, int] = (1, 6, 6),
    seed: int = 0,
) -> LinearCase:
    """A random linear network; half of the images it gets right are robust, one in six is wrong from the start."""
    g = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    network = Linear(
        torch.randn(classes, size, generator=g), 0.1 * torch.randn(classes, generator=g)
    )
    pixels = 0.3 + 0.4 * torch.rand(images, *shape, generator=g)
    with torch.no_grad():
        labels = network(pixels).argmax(1)
    labels[::6] = (labels[::6] + 1) % classes
    radius = critical_radius(network, pixels, labels, norm=norm)
    ordered = radius[radius > 0].sort().values
    middle = len(ordered) // 2
    window = ordered[middle - 2 : middle + 3]
    widest = int((window[1:] - window[:-1]).argmax())
    eps = float((window[widest] + window[widest + 1]) / 2)
    return LinearCase(network, pixels, labels, eps, norm, radius > eps)


def critical_radius(network: Linear, pixels: Tensor, labels: Tensor, *, norm: Norm) -> Tensor:
    """(N,) the smallest perturbation that changes a linear network's verdict; negative where it is wrong already.

    Source: duality of norms; Carlini et al., arXiv 1902.06705, use it as the sanity case.
    """
    with torch.no_grad():
        w, z = network.weight.double(), network(pixels).double()
        gap = z.gather(1, labels[:, None]) - z
        reach = (w[labels][:, None] - w[None]).norm(p=1 if norm == "Linf" else 2, dim=2)
        radii: Tensor = (
            (gap / reach.clamp_min(1e-12)).scatter(1, labels[:, None], torch.inf).amin(1)
        )
        return radii


def plain_pgd(
    network: nn.Module, pixels: Tensor, labels: Tensor, *, eps: float, alpha: float, steps: int
) -> Tensor:
    """(N, C, H, W) x' of Linf PGD on the cross-entropy from x itself, in ten lines of plain PyTorch: the reference.

    Source: Madry et al., ICLR 2018, equation 1.
    """
    x = pixels.clone()
    for _ in range(steps):
        x.requires_grad_(True)
        loss = nn.functional.cross_entropy(network(x), labels)
        (gradient,) = torch.autograd.grad(loss, x)
        x = x.detach() + alpha * gradient.sign()
        x = (pixels + (x - pixels).clamp(-eps, eps)).clamp(0, 1).detach()
    return x


def linear_checks(*, norm: Norm, queries: int = 250) -> list[Check]:
    """AutoAttack against the closed form, image by image, and proof that APGD ran its full budget.

    The query attack gets fewer queries than in an audit: an image that is robust by the closed form cannot fall, and
    one that is not falls to the first attack, so more of them could only repeat the answer.
    """
    case = linear_case(norm=norm)
    result = autoattack(
        case.network, case.pixels, case.labels, eps=case.eps, norm=norm, queries=queries
    )
    wrong = int((result.survived != case.robust).sum())
    truth = float(case.robust.double().mean())
    calls = result.stages[0].model_calls
    return [
        Check(
            name=f"linear network, {norm}: AutoAttack equals the closed form", passed=wrong == 0,
            value=result.robust_accuracy, expected=f"{truth:.3f} (same images)",
            detail=f"{wrong} of {len(case.labels)} images judged differently", affects=list(AFFECTS),
        ),
        Check(
            name=f"APGD runs its full budget, {norm}", passed=calls >= 100, value=float(calls),
            expected=">= 100 network calls", detail="torchattacks' own AutoAttack stops after 10 steps",
            affects=list(AFFECTS),
        ),
    ]  # fmt: skip


def reference_check() -> Check:
    """PGD as audits run it against plain PGD, from the same start, image by image."""
    case = linear_case(norm="Linf", images=60, seed=1)
    network = nn.Sequential(case.network, nn.Tanh(), nn.Linear(4, 4))
    with torch.no_grad():
        g = torch.Generator().manual_seed(1)
        for p in network[2].parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    labels = classify(network, case.pixels)
    eps, steps = 2 * case.eps, 10
    ours = plain_pgd(network, case.pixels, labels, eps=eps, alpha=eps / 4, steps=steps)
    theirs = pgd(
        network, case.pixels, labels, eps=eps, alpha=eps / 4, steps=steps, random_start=False, only_correct=False
    ).adversarial  # fmt: skip
    gap = float((ours - theirs).abs().max())
    return Check(
        name="PGD equals a plain implementation", passed=gap <= 1e-6, value=gap, expected="<= 1e-06",
        detail="largest pixel difference on 60 images, no random start", affects=list(AFFECTS),
    )  # fmt: skip


def wrong_space_check() -> Check:
    """A planted defect: images normalised before the attack. The clip-only control must go red on it."""
    case = linear_case(norm="Linf", images=60, seed=2)
    # The right pipeline: pixels in, nothing changes. The wrong one: (x - 0.5) / 0.25 in, half of it below zero.
    right = clip_only_changes(case.network, case.pixels, classify(case.network, case.pixels))
    normalised = (case.pixels - 0.5) / 0.25
    wrong = clip_only_changes(case.network, normalised, classify(case.network, normalised))
    return Check(
        name="clip-only control: silent on pixels, red on normalised images", passed=right == 0 and wrong > 0,
        value=wrong / len(case.labels), expected="> 0 with the defect planted, 0 without it",
        detail=f"predictions changed by clamping alone: {right} on pixels, {wrong} of 60 on normalised images",
        affects=list(AFFECTS),
    )  # fmt: skip
