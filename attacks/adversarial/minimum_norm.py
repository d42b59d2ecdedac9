"""DeepFool and Carlini-Wagner: attacks that look for the smallest change, thresholded at eps.

As published they have no radius, so the accuracy they leave cannot stand beside that of bounded attacks. Here an image
counts as broken only where an x' within eps was found: otherwise its x is returned, and it survives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.adam import InputAdam
from ddaudit.attacks.adversarial.ball import Ball, Noise
from ddaudit.attacks.adversarial.execution import Model, slack
from ddaudit.attacks.adversarial.losses import margin, rivals

_TINY = 1e-12


@dataclass(frozen=True)
class DeepFool:
    """Steps to the nearest linearised boundary among the ``candidates`` strongest rivals, in the ball's own norm.

    Attributes:
        stepwise: every step overshoots, is cut to [0, 1] and starts from what is left of the last, as in torchattacks
            (3.5.1), whatever space the inputs are in. What is cut may end on the boundary, where rounding says the
            class. As published, steps add up and the sum overshoots.

    Source: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural networks", CVPR 2016.
    """

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 9
    stepwise: bool = False

    @property
    def name(self) -> str:
        return "deepfool"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        return _within(ball, x, self.nearest(model, x, y, ball))

    def nearest(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """(N, C, H, W) x' beyond the boundary at any distance; the last point where none was reached."""
        made, logits = x.clone(), model.logits(x)
        ids = (logits.argmax(1) == y).nonzero().squeeze(1)  # the others are beyond it as they are
        x, y, aims = x[ids], y[ids], rivals(logits, y, self.candidates)[ids]
        at, total = x, torch.zeros_like(x)
        for _ in range(self.steps):
            if not len(ids):
                break
            step, distance = (
                torch.zeros_like(at),
                torch.full((len(at),), torch.inf, device=x.device),
            )
            for k in range(aims.shape[1]):
                pair = torch.stack([y, aims[:, k]], 1)
                _, gap, w = model.gradient(at, lambda z: z.gather(1, pair).diff(dim=1).squeeze(1))  # noqa: B023
                dual = w.abs().sum((1, 2, 3)) if ball.norm == "Linf" else w.flatten(1).norm(dim=1)
                away = gap.abs() / dual.clamp_min(_TINY)
                nearer = (away < distance).view(-1, 1, 1, 1)
                # A little further than the boundary itself: on it, rounding decides.
                move = (away + (0 if self.stepwise else 1e-6)).view(-1, 1, 1, 1) * ball.steepest(w)
                step, distance = torch.where(nearer, move, step), torch.minimum(away, distance)
            if self.stepwise:
                at = (at + (1 + self.overshoot) * step).clamp(0, 1)
            else:
                total = total + step
                at = (x + (1 + self.overshoot) * total).clamp(ball.low, ball.high)
            stays = model.logits(at).argmax(1) == y
            made[ids] = at
            x, y, at, ids, total, aims = (t[stays] for t in (x, y, at, ids, total, aims))
        return made


@dataclass(frozen=True)
class CarliniWagner:
    """L2: the smallest change plus ``c`` times the margin still to go, by Adam, with a search for ``c``.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, section VI. Boxed
    inputs are sought in tanh space, others directly. An image leaves once an x' within eps is found. Short: 4 tries
    from c = 1 of 100 steps; the paper's code takes 9 from 1e-3 of thousands, so that ``cw`` may leave more standing.
    """

    steps: int = 100
    searches: int = 4
    """Tries of ``c``: tenfold after a failure, and between the two after a success that was too far away."""
    c: float = 1.0
    rate: float = 0.01
    kappa: float = 0.0
    towards: int = 0
    """0: away from the label; k: until the network says class (label + k) mod K."""

    @property
    def name(self) -> str:
        return "cw"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        made, ids = x.clone(), torch.arange(len(x), device=x.device)
        c = torch.full((len(x),), self.c, device=x.device)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.searches):
            found, errs = self._minimise(model, x, y, c, ball)
            near = errs & (ball.size(found - x) <= ball.eps + slack(ball.eps))
            made[ids[near]] = found[near]
            low, high = torch.where(errs, low, c), torch.where(errs, c, high)
            c = torch.where(torch.isinf(high), c * 10, (low + high) / 2)
            x, y, ids, c, low, high = (t[~near] for t in (x, y, ids, c, low, high))
            if not len(ids):
                break
        return made

    def _minimise(
        self, model: Model, x: Tensor, y: Tensor, c: Tensor, ball: Ball
    ) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) the nearest x' that broke the network, x where none; (N,) whether one did."""
        boxed = ball.high < torch.inf
        middle, half = (ball.high + ball.low) / 2, (ball.high - ball.low) / 2

        def inputs(w: Tensor) -> Tensor:
            return middle + half * torch.tanh(w) if boxed else w

        inner = ((x - middle) / half).clamp(-1 + 1e-6, 1 - 1e-6) if boxed else x
        w = torch.atanh(inner) if boxed else x
        adam = InputAdam(w, self.rate)
        best, nearest = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
        for _ in range(self.steps):
            at = inputs(w)
            logits, _, pull = model.gradient(at, lambda z: self._to_go(z, y) * c)
            moved = at - x
            size = moved.flatten(1).norm(dim=1)
            closer = self._errs(logits, y) & (size < nearest)
            best = torch.where(closer.view(-1, 1, 1, 1), at, best)
            nearest = torch.where(closer, size, nearest)
            slope = half * (1 - torch.tanh(w).square()) if boxed else torch.ones_like(w)
            w = w - adam.step((2 * moved + pull) * slope)
        return best, torch.isfinite(nearest)

    def _to_go(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,) the margin that is still in the way."""
        aim = (y + self.towards) % logits.shape[1]
        left = margin(logits, aim) if self.towards else -margin(logits, y)
        return left.clamp_min(-self.kappa)

    def _errs(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,) bool: the network says what the attack wants."""
        says = logits.argmax(1)
        return says == (y + self.towards) % logits.shape[1] if self.towards else says != y


def _within(ball: Ball, x: Tensor, found: Tensor) -> Tensor:
    """What was found where it lies within eps, x elsewhere."""
    near = ball.size(found - x) <= ball.eps + slack(ball.eps)
    return torch.where(near.view(-1, 1, 1, 1), found, x)
