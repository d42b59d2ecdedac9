"""STRIP: an image with a trigger keeps its class however it is blended with others, so its predictions are too sure.

Source: Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019; blend, number of
images and quantile of SCLBD/BackdoorBench (detection_infer/strip.py). Blends are clipped to valid pixels.
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
    by_class,
    needs_rows,
)

OVERLAY = 0.5
QUANTILE = 0.05
_BATCH = 2048


@dataclass(frozen=True)
class Strip:
    """Entropy of the blends of each image of the set with trusted ones.

    Attributes:
        overlays: trusted images that each is blended with.
        images: trusted images that set the threshold.
    """

    overlays: int = 64
    images: int = 200
    name: ClassVar[str] = "strip"
    title: ClassVar[str] = "STRIP"
    source: ClassVar[str] = "Gao et al., STRIP, ACSAC 2019"
    flags: ClassVar[Flags] = "images"

    def missing(self, network: nn.Module, seen: Exhibit) -> str:
        return needs_rows(seen, 1)

    def read(self, network: nn.Module, seen: Exhibit) -> DetectorReading:
        """Per class how low its images rank among trusted ones: the mean of -log(rank), as Fisher combines p-values."""
        assert seen.rows is not None
        order = torch.randperm(len(seen.clean), generator=seen.generator())
        overlays = seen.clean[order[: self.overlays]]
        own = blended_entropy(network, seen.rows, overlays)
        usual = blended_entropy(network, seen.clean[: self.images], overlays).sort().values
        rank = (1 + torch.searchsorted(usual, own, right=True)) / (1 + len(usual))
        scores = by_class(seen, lambda at: -float(rank[at].log().mean()) if len(at) else 0.0)
        return DetectorReading(scores, float((own < usual.quantile(QUANTILE)).double().mean()))


def blended_entropy(network: nn.Module, images: Tensor, overlays: Tensor) -> Tensor:
    """(M,) float64 mean entropy, in nats, of a network's answers to each image blended with every overlay.

    Args:
        network: pixels in [0, 1] -> logits.
        images: (M, C, H, W); ``overlays`` (N, C, H, W).
    """
    device = next(network.parameters()).device
    at_once = max(1, _BATCH // len(overlays))
    overlays = OVERLAY * overlays.to(device)
    means = []
    with torch.inference_mode():
        for x in images.split(at_once):
            blend = (x.to(device)[:, None] + overlays[None]).clamp(0, 1)
            log_p = network(blend.flatten(0, 1)).double().log_softmax(1)
            entropy = -(log_p.exp() * log_p).sum(1)
            means.append(entropy.view(len(x), -1).mean(1).cpu())
    return torch.cat(means)
