"""``+pseudo-groups``: what a batch falls into stands for the protected attribute, where nobody labelled one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.fairness.fairdd import Barycentre, ByGroup, by_groups
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.parts import Layout
from ddaudit.distillation.targets import ByClass, innermost, swapped
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class ByCluster:
    """One uniform row per class and cluster of the batch, as :class:`ByGroup` has for protected groups.

    The records of a class in a batch are clustered by density (DBSCAN). Rows are the ``most`` largest clusters; the
    records of no cluster and of further ones share one more. A record's row depends on the others in the batch: private
    readers refuse it.

    Attributes:
        features: "colour", the mean of every channel, or "pixels".
        reach: radius of a neighbourhood, over the median distance of two records of the class.
        neighbours: records within it, itself included, that make a record a core of its cluster.
        most: clusters of a class that have rows of their own.

    Source: FairDD, NeurIPS 2025, arXiv 2411.19623, appendix (DBSCAN in every batch); Ester et al., KDD 1996.
    """

    features: Literal["colour", "pixels"] = "colour"
    reach: float = 0.5
    neighbours: int = 3
    most: int = 10

    def __post_init__(self) -> None:
        if self.features not in ("colour", "pixels"):
            raise ValueError(f"target.features is 'colour' or 'pixels', not '{self.features}'")
        if not self.reach > 0 or min(self.neighbours, self.most) < 1:
            raise ValueError(
                "target.reach must be positive, target.neighbours and target.most at least 1"
            )

    def layout(self, data: ImageData) -> Layout:
        """Class-major rows, the rest last in each class."""
        slots = torch.arange(data.num_classes).repeat_interleave(self.most + 1)
        kinds = [*(f"cluster {k + 1}" for k in range(self.most)), "rest"]
        return Layout(slots, tuple(f"{c}, {kind}" for c in data.class_names for kind in kinds))

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> ByCluster:
        """Needs nothing of the data: every batch has clusters of its own."""
        return self

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(num_classes * (most + 1), B) indicators."""
        width, cell = self.most + 1, torch.zeros(len(index), dtype=torch.int64)
        for c in data.labels[index].unique().tolist():
            mine = (data.labels[index] == c).nonzero().squeeze(1)
            x = data.pixels(index[mine])
            z = x.mean((2, 3)) if self.features == "colour" else x.flatten(1)
            found = clusters(z, reach=self.reach, neighbours=self.neighbours)
            cell[mine] = c * width + torch.where(found < 0, self.most, found.clamp(max=self.most))
        return torch.nn.functional.one_hot(cell, data.num_classes * width).T.float()

    def bounded(self) -> ByCluster:
        """Itself; what it couples is refused anyway."""
        return self

    def couples_records(self) -> bool:
        """Always: clusters are made by all records of a batch."""
        return True

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """Nothing that could be declared public."""
        return ()


def clusters(z: Tensor, *, reach: float, neighbours: int) -> Tensor:
    """(N,) cluster of every point, 0 the largest, or -1 for points of none.

    Args:
        z: (N, D).
        reach: radius of a neighbourhood, over the median distance of two points.
        neighbours: points within it, itself included, that make a point a core.
    """
    from sklearn.cluster import DBSCAN

    if len(z) < 2:
        return torch.zeros(len(z), dtype=torch.int64)
    between = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    apart = between[~torch.eye(len(z), dtype=torch.bool)]
    radius = max(1e-6, reach * float(apart.median()))
    fitted = DBSCAN(eps=radius, min_samples=neighbours, metric="precomputed").fit(between.numpy())
    found = torch.from_numpy(fitted.labels_).long()
    sizes = torch.bincount(found[found >= 0])
    rank = torch.empty_like(sizes)
    rank[sizes.argsort(descending=True, stable=True)] = torch.arange(len(sizes))
    return torch.where(found < 0, -1, rank[found.clamp_min(0)] if len(sizes) else -1)


def pseudo_groups(recipe: Recipe) -> Recipe:
    """One target per class and cluster of the batch, in the place of protected groups.

    Raises:
        BadInput: a method that has no class targets, has targets of protected groups already, or draws records by
            group.
    """
    rule = recipe.target
    if isinstance(rule, (ByGroup, Barycentre)):
        raise BadInput(
            f"{recipe.name}+pseudo-groups",
            "has targets by the protected groups of the data, which clusters would stand for",
            "Leave out 'fair' or 'barycentre', or 'pseudo-groups'.",
        )
    if (
        rule is None
        or not (by_groups(rule) or isinstance(innermost(rule), ByClass))
        or getattr(recipe.reader, "by_group", False)
    ):
        raise BadInput(
            f"{recipe.name}+pseudo-groups",
            "'pseudo-groups' splits class targets by clusters, and this method has none or draws records by group",
            "Use it on dm, dc, dsa or idc, without '+fair+balanced'.",
        )
    made = replace(
        recipe,
        target=swapped(rule, ByCluster()),
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
        deviations=(
            *recipe.deviations,
            "pseudo-groups: clusters are those of mean colours, and their radius is relative (source: not stated)",
        ),
    )
    made.check_private()
    return made


SOURCE = "FairDD, NeurIPS 2025, arXiv 2411.19623 (groups by DBSCAN in every batch)"

DEFENSES.add(
    "pseudo-groups",
    Defense(
        "pseudo-groups",
        "one target per class and cluster of the batch (bias without labels)",
        SOURCE,
        pseudo_groups,
        # After those whose group rows it takes over.
        order=14,
    ),
)
