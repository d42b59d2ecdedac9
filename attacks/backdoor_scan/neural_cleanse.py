"""Neural Cleanse: the smallest mask that turns any image into a class; a class with a much smaller one is suspect.

Source: Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019;
constants of SCLBD/BackdoorBench, defense/nc.py. Unlike there all classes are optimised at once on one fixed batch, and
the number of steps is fixed: the weight of the norm changes as often (16 times at most), nothing stops early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddaudit.attacks.backdoor_scan.detector import (
    DetectorReading,
    Exhibit,
    Flags,
    above_median,
    anomaly_index,
)

SUCCESS = 0.98
FIRST_COST = 1e-3
RAISE, LOWER = 2.0, 2.0**1.5
CHANGES = 16
"""Published: 80 epochs, and 5 in a row on one side of the goal before the cost changes."""
ANOMALOUS = 2.0


@dataclass(frozen=True)
class NeuralCleanse:
    """The reversed trigger of each class.

    Attributes:
        steps: of Adam.
        images: at most so many trusted images.
    """

    steps: int = 400
    images: int = 100
    name: ClassVar[str] = "neural_cleanse"
    title: ClassVar[str] = "Neural Cleanse"
    source: ClassVar[str] = "Wang et al., Neural Cleanse, IEEE S&P 2019"
    flags: ClassVar[Flags] = "sets"

    def missing(self, network: nn.Module, seen: Exhibit) -> str:
        return "" if seen.num_classes >= 3 else "two classes have no typical mask"

    def read(self, network: nn.Module, seen: Exhibit) -> DetectorReading:
        """Per class the logarithm of the median norm over its own; a class that was not reached counts as the whole
        image, the largest norm there is."""
        clean, _ = seen.sample(self.images)
        masks = smallest_masks(network, clean, classes=seen.num_classes, steps=self.steps)
        norms, reached = masks.norms, masks.norms.isfinite()
        whole = float(seen.clean.shape[2] * seen.clean.shape[3])
        scores = above_median(-norms.where(reached, torch.tensor(whole)).clamp_min(1e-6).log())
        flagged = bool(flagged_classes(norms).any())
        return DetectorReading(scores, float(flagged), int((~reached).sum()), masks.triggers)


@dataclass(frozen=True, eq=False)
class Masks:
    """The smallest masks found.

    Attributes:
        norms: (K,) float64 L1 norms; inf: no mask led 98 % of images to the class.
        triggers: (K, C, H, W) what they put on a black image: mask times pattern; black where not reached.
    """

    norms: Tensor
    triggers: Tensor


def smallest_masks(network: nn.Module, clean: Tensor, *, classes: int, steps: int) -> Masks:
    """The smallest mask and pattern found that lead 98 % of images to each class.

    Args:
        network: pixels (N, C, H, W) in [0, 1] -> logits (N, K).
        clean: (B, C, H, W) trusted images.
        steps: of Adam; the weight of the norm may change every steps / 16 of them.
    """
    device = next(network.parameters()).device
    clean = clean.to(device)
    b, _, h, w = clean.shape
    # tanh(.) / 2 + 1/2 of ones, as published: the mask starts at 0.88 everywhere.
    mask_at = torch.ones(classes, 1, h, w, device=device, requires_grad=True)
    pattern_at = torch.ones(classes, *clean.shape[1:], device=device, requires_grad=True)
    optimiser = torch.optim.Adam([mask_at, pattern_at], lr=0.1, betas=(0.5, 0.9))
    target = torch.arange(classes, device=device).repeat_interleave(b)
    cost = torch.full((classes,), FIRST_COST, device=device)
    above, below = torch.zeros_like(cost), torch.zeros_like(cost)
    best = torch.full((classes,), torch.inf, dtype=torch.float64)
    triggers = torch.zeros_like(pattern_at)
    patience = max(1, steps // CHANGES)
    for _ in range(steps):
        mask, pattern = mask_at.tanh() / 2 + 0.5, pattern_at.tanh() / 2 + 0.5
        stamped = (1 - mask[:, None]) * clean[None] + mask[:, None] * pattern[:, None]
        logits = network(stamped.flatten(0, 1))
        norm = mask.flatten(1).abs().sum(1)
        loss = nn.functional.cross_entropy(logits, target, reduction="none").view(classes, b)
        total = (loss.mean(1) + cost * norm).sum()
        mask_at.grad, pattern_at.grad = torch.autograd.grad(total, [mask_at, pattern_at])
        optimiser.step()
        reached = (logits.argmax(1) == target).view(classes, b).float().mean(1) >= SUCCESS
        found = norm.detach().double().cpu()
        better = reached.cpu() & (found < best)
        best[better] = found[better]
        triggers[better] = (mask * pattern).detach()[better]
        above, below = (above + 1) * reached, (below + 1) * ~reached
        raised, lowered = above >= patience, below >= patience
        cost = torch.where(raised, cost * RAISE, torch.where(lowered, cost / LOWER, cost))
        above, below = above * ~raised, below * ~lowered
    return Masks(best, triggers.cpu())


def flagged_classes(norms: Tensor) -> Tensor:
    """(K,) bool of the published rule: a norm below the median whose anomaly index is above 2.

    Classes that were not reached have no norm and are left out; with fewer than three norms nothing is flagged.
    """
    known = norms.isfinite()
    flags = torch.zeros_like(known)
    if int(known.sum()) >= 3:
        values = norms[known]
        flags[known] = (anomaly_index(values) > ANOMALOUS) & (values < values.quantile(0.5))
    return flags
