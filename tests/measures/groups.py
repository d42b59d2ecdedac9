"""Records in groups and classes without pictures, and metrics by name."""

import torch

from ddaudit.data import ImageData
from ddaudit.findings import Metric


def grouped(labels: torch.Tensor, groups: torch.Tensor | None, k: int, g: int) -> ImageData:
    return ImageData(
        images=torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8),
        labels=labels,
        class_names=tuple(f"c{i}" for i in range(k)),
        groups=groups,
        group_names=tuple(f"g{i}" for i in range(g)),
    )


def grid(k: int, g: int, per_cell: int) -> ImageData:
    labels = torch.arange(k).repeat_interleave(g * per_cell)
    return grouped(labels, torch.arange(g).repeat_interleave(per_cell).repeat(k), k, g)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {m.name: m for m in metrics}
