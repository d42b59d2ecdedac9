"""FAB: the fast adaptive boundary attack, which looks for the nearest x' rather than for any within eps.

At each step the decision boundary to a target class is linearised, and both the current point and the image are
projected on it inside the box. Here an image leaves as soon as an x' within eps is known: nearer ones would not change
its verdict.

Source: Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", ICML 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.ball import Ball, Noise, Norm
from ddaudit.attacks.adversarial.execution import Model, slack
from ddaudit.attacks.adversarial.losses import rivals
from ddaudit.attacks.adversarial.targets import each_target, without

OVERSHOOT, PULL_BACK, TOWARDS_IMAGE = 1.05, 0.9, 0.1
"""Published constants: eta, beta, alpha_max."""

_TINY = 1e-12


@dataclass(frozen=True)
class FAB:
    """One run per target class: the ``targets`` strongest rivals, or all K - 1 if fewer (FAB-T)."""

    steps: int = 100
    targets: int = 9

    @property
    def name(self) -> str:
        return "fab-t"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        aims = rivals(model.logits(x), y, self.targets)
        return each_target(
            x, aims.shape[1], model.room,
            lambda images, ranks: self._run(model, x[images], y[images], aims[images, ranks], ball, images),
        )  # fmt: skip

    def _run(
        self, model: Model, x: Tensor, y: Tensor, target: Tensor, ball: Ball, owners: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) x' within eps that broke the network, x where none; (N,) whether one did.

        Args:
            owners: (N,) int64 the image that each row is a run of; once one is broken, all leave.
        """
        made, ids = x.clone(), torch.arange(len(x), device=x.device)
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        at = x
        for i in range(self.steps + 1):
            logits, gap, gradient = model.gradient(at, lambda z: _gap(z, y, target))  # noqa: B023
            errs = logits.argmax(1) != y
            if bool(errs.any()):
                near = errs & (ball.size(at - x) <= ball.eps + slack(ball.eps))
                made[ids[near]], broken[ids[near]] = at[near], True
                # Broken from too far: pulled towards the image, where the boundary is linearised again.
                at = torch.where(errs.view(-1, 1, 1, 1), x + (at - x) * PULL_BACK, at)
                far = errs & ~near
                if bool(far.any()):
                    _, gap_far, g_far = model.gradient(
                        at[far],
                        lambda z: _gap(z, y[far], target[far]),  # noqa: B023
                    )
                    gap, gradient = gap.clone(), gradient.clone()
                    gap[far], gradient[far] = gap_far, g_far
                stays = without(owners, near)
                x, y, target, ids, owners, at, gap, gradient = (
                    t[stays] for t in (x, y, target, ids, owners, at, gap, gradient)
                )
            if i == self.steps or not len(ids):
                break
            at = _step(x, at, gap, gradient, ball)
        return made, broken


def to_hyperplane(
    points: Tensor, normals: Tensor, offset: Tensor, *, norm: Norm, low: float, high: float
) -> Tensor:
    """(N, D) the smallest change d of each point with w . (p + d) = w . p + offset and p + d inside the box.

    Where the box allows no such d, every coordinate moves as far as it can.

    Args:
        points: (N, D) inside [low, high].
        normals: (N, D) w.
        offset: (N,) by how much w . p must change.
        norm: of which d is smallest.
    """
    way = offset.sign()[:, None] * normals.sign()
    room = torch.where(way > 0, high - points, points - low)
    size = normals.abs()
    # A change of "level" moves coordinate i by level (Linf) or by level * |w_i| (L2), until its room is used up; what
    # that gains of the offset is a concave, piecewise linear function of the level, solved on its sorted breakpoints.
    gain, stop = (size, room) if norm == "Linf" else (size.square(), room / size.clamp_min(_TINY))
    level = _level(gain, torch.where(size > 0, stop, torch.zeros_like(stop)), offset.abs())
    moved = level[:, None] if norm == "Linf" else level[:, None] * size
    return way * torch.minimum(moved.expand_as(room), room)


def _level(gain: Tensor, stop: Tensor, wanted: Tensor) -> Tensor:
    """(N,) the level t with sum_i gain_i * min(t, stop_i) = wanted; the largest stop where no level reaches it."""
    ordered, order = stop.sort(dim=1)
    by_stop = gain.gather(1, order)
    finite = torch.where(torch.isfinite(ordered), ordered, torch.zeros_like(ordered))
    used = (by_stop * finite).cumsum(1)  # of coordinates that have stopped
    slope = by_stop.sum(1, keepdim=True) - by_stop.cumsum(1)  # of those still moving
    reached = torch.where(torch.isfinite(ordered), used + ordered * slope, torch.inf)
    k = (reached < wanted[:, None]).sum(1)  # coordinates that stop before the level is reached
    before = (k - 1).clamp_min(0)[:, None]
    first = k == 0
    spent = torch.where(first, torch.zeros_like(wanted), used.gather(1, before).squeeze(1))
    left = torch.where(first, by_stop.sum(1), slope.gather(1, before).squeeze(1))
    level = (wanted - spent) / left.clamp_min(_TINY)
    return torch.where(k == stop.shape[1], ordered[:, -1], level)


def _step(x: Tensor, at: Tensor, gap: Tensor, gradient: Tensor, ball: Ball) -> Tensor:
    """One step of FAB: the projections of the current point and of the image on the linearised boundary, mixed."""
    w = gradient.flatten(1)
    flat_x, flat_at = x.flatten(1), at.flatten(1)
    box = {"norm": ball.norm, "low": ball.low, "high": ball.high}
    # The gap to the target is negative: it must rise by -gap to reach 0.
    from_at = to_hyperplane(flat_at, w, -gap, **box)  # type: ignore[arg-type]
    rise = -gap + (w * (flat_at - flat_x)).sum(1)
    from_x = to_hyperplane(flat_x, w, rise, **box)  # type: ignore[arg-type]
    near, far = (_norm(d, ball.norm).clamp_min(1e-8) for d in (from_at, from_x))
    alpha = (near / (near + far)).clamp_max(TOWARDS_IMAGE)[:, None]
    mixed = (flat_at + OVERSHOOT * from_at) * (1 - alpha) + (flat_x + OVERSHOOT * from_x) * alpha
    return mixed.clamp(ball.low, ball.high).view_as(x)


def _gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    gap = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    return gap.squeeze(1)


def _norm(delta: Tensor, norm: Norm) -> Tensor:
    return delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
