"""Universal-patch gap: how well one small patch leads all images to a class, against what it does for other classes.

No published rule: the reading means something only beside clean sets. The patch covers 3 of 32 pixels a side. Its place
is the one where a white or black patch does most, on a grid without overlap; from there Adam chooses its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddaudit.attacks.backdoor_scan.detector import DetectorReading, Exhibit, Flags, above_median

_BATCH = 1024


@dataclass(frozen=True)
class PatchGap:
    """The best small patch of each class.

    Attributes:
        steps: of Adam.
        images: at most so many trusted images.
    """

    steps: int = 100
    images: int = 100
    name: ClassVar[str] = "patch_gap"
    title: ClassVar[str] = "Universal-patch gap"
    source: ClassVar[str] = (
        "Brown et al., Adversarial Patch, 2017, arXiv 1712.09665 (the patch); the gap is our own"
    )
    flags: ClassVar[Flags] = ""

    def missing(self, network: nn.Module, seen: Exhibit) -> str:
        return "" if seen.num_classes >= 3 else "two classes have no typical patch"

    def read(self, network: nn.Module, seen: Exhibit) -> DetectorReading:
        """Per class the mean log-probability of its best patch on images of other classes, less the median class's."""
        clean, labels = seen.sample(self.images)
        scores = best_patches(network, clean, labels, classes=seen.num_classes, steps=self.steps)
        return DetectorReading(above_median(scores))


def best_patches(
    network: nn.Module, clean: Tensor, labels: Tensor, *, classes: int, steps: int
) -> Tensor:
    """(K,) float64 mean log-probability of each class, over images of the others, under its best patch.

    Args:
        network: pixels (N, C, H, W) in [0, 1] -> logits.
        clean: (B, C, H, W); ``labels`` (B,).
    """
    device = next(network.parameters()).device
    clean, labels = clean.to(device), labels.to(device)
    b, c, h, w = clean.shape
    other = (labels[None] != torch.arange(classes, device=device)[:, None]).double()
    side = max(1, round(3 * min(h, w) / 32))
    tops, value = _places(network, clean, other, side)
    window = torch.zeros(classes, 1, h, w, device=device)
    for k, (row, column) in enumerate(tops):
        window[k, :, row : row + side, column : column + side] = 1
    at = (4 * value[:, None, None, None] - 2).expand(classes, c, h, w).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([at], lr=0.1)
    best = torch.full((classes,), -torch.inf, dtype=torch.float64)
    target = torch.arange(classes, device=device).repeat_interleave(b)
    for _ in range(steps):
        stamped = torch.lerp(clean[None], at.sigmoid()[:, None], window[:, None])
        log_p = network(stamped.flatten(0, 1)).log_softmax(1)
        own = log_p.gather(1, target[:, None]).view(classes, b).double()
        reached = (own * other).sum(1) / other.sum(1).clamp_min(1)
        best = torch.maximum(best, reached.detach().cpu())
        (at.grad,) = torch.autograd.grad(-reached.sum(), [at])
        optimiser.step()
    return best


def _places(
    network: nn.Module, clean: Tensor, other: Tensor, side: int
) -> tuple[list[tuple[int, int]], Tensor]:
    """Where a flat patch does most for each class, and (K,) whether it is white (1) or black (0)."""
    _, _, h, w = clean.shape
    places = [(r, c) for r in range(0, h - side + 1, side) for c in range(0, w - side + 1, side)]
    reached = []
    with torch.inference_mode():
        for value in (0.0, 1.0):
            for row, column in places:
                stamped = clean.clone()
                stamped[:, :, row : row + side, column : column + side] = value
                parts = [network(x).log_softmax(1) for x in stamped.split(_BATCH)]
                log_p = torch.cat(parts).T.double()  # (K, B)
                reached.append((log_p * other).sum(1) / other.sum(1).clamp_min(1))
    chosen = torch.stack(reached, 1).argmax(1).tolist()
    white = torch.tensor([float(i >= len(places)) for i in chosen], device=clean.device)
    return [places[i % len(places)] for i in chosen], white
