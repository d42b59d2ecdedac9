"""Attack on an interface that returns only a class: how stable is the correct answer?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Classify = Callable[[Tensor], Tensor]
"""(n, C, H, W) float32 pixels in [0, 1] -> (n,) int64 predicted classes."""


def stability_under_noise(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    *,
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2),
    draws: int = 4,
    bounds: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator,
) -> Tensor:
    """Share of correct answers over noisy copies of a record (and the clean one).

    Args:
        classify: the victim.
        images: (N, C, H, W) float32 pixels in [0, 1].
        labels: (N,) int64 true classes.
        sigmas: noise levels, in pixel units.
        draws: noisy copies per level.
        bounds: lowest and highest value an input may have; what noise pushes over them is set to them.
        generator: CPU generator of the noise. All records get the same noise, which ranks them
            better.

    Returns:
        (N,) float64 in [0, 1], multiples of 1 / (1 + draws * len(sigmas)): break ties at random.

    Source: Choquette-Choo et al., "Label-Only Membership Inference Attacks", ICML 2021, sections
    3.2 and 3.3.
    """
    hits = _hits(classify, images, labels)
    for sigma in sigmas:
        for _ in range(draws):
            noise = torch.randn(images.shape[1:], generator=generator).to(images)
            hits += _hits(classify, (images + sigma * noise).clamp(*bounds), labels)
    return hits / (1 + draws * len(sigmas))


def stability_under_shifts(
    classify: Classify, images: Tensor, labels: Tensor, *, reach: int = 1
) -> Tensor:
    """Share of correct answers over all translations of up to ``reach`` pixels (edges repeated).

    Returns:
        (N,) float64 in [0, 1], multiples of 1 / (2 reach + 1)^2: break ties at random.

    Source: Choquette-Choo et al., ICML 2021, section 3.2 (data augmentation attack); the authors' shifts are the
    4 d + 1 at distance d exactly and none, and shadow networks weigh the answers.
    """
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="replicate")
    height, width = images.shape[-2:]
    hits = torch.zeros(len(images), dtype=torch.float64)
    steps = range(2 * reach + 1)
    for top in steps:
        for left in steps:
            hits += _hits(classify, padded[..., top : top + height, left : left + width], labels)
    return hits / len(steps) ** 2


def _hits(classify: Classify, images: Tensor, labels: Tensor) -> Tensor:
    return (classify(images).cpu() == labels.cpu()).double()
