"""SPSA: gradient ascent on a gradient that is estimated from queries along random signs.

Source: Uesato et al., "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks", ICML 2018, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.adam import InputAdam
from ddaudit.attacks.adversarial.ball import Ball, Noise
from ddaudit.attacks.adversarial.execution import Model
from ddaudit.attacks.adversarial.losses import margin


@dataclass(frozen=True)
class SPSA:
    """Adam on the estimated gradient of the margin; all images share the random signs; broken images leave."""

    steps: int = 40
    samples: int = 128
    """Pairs of queries behind one step."""
    delta: float = 0.01
    """How far a query lies from the current point, in input units."""
    rate: float = 0.01

    @property
    def name(self) -> str:
        return f"spsa-{self.steps}"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        g = noise.shared("signs")
        at, made, ids = x, x.clone(), torch.arange(len(x), device=x.device)
        adam = InputAdam(x, self.rate)
        for _ in range(self.steps):
            gradient = torch.zeros_like(x)
            for _ in range(self.samples):
                signs = (torch.randint(2, x.shape[1:], generator=g) * 2 - 1).to(x)
                ahead, behind = (model.logits(at + s * self.delta * signs) for s in (1, -1))
                slope = (margin(ahead, y) - margin(behind, y)) / (2 * self.delta)
                gradient += slope.view(-1, 1, 1, 1) * signs / self.samples
            at = ball.project(x, at + adam.step(gradient))
            stays = model.logits(at).argmax(1) == y
            if not bool(stays.all()):
                made[ids[~stays]] = at[~stays]
                x, y, at, ids = (t[stays] for t in (x, y, at, ids))
                adam.keep(stays)
                if not len(ids):
                    return made
        made[ids] = at
        return made
