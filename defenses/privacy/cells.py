"""What a private reader tells a target rule: how many records each (class, group) cell has, and nothing else.

A record is read with the weight of its cell, and rows are laid out for blank records. So one record cannot set the
weight of another, whatever the rule does, and the expected mass of a row follows from counts and sampling rates, which
the claim lists as public.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.parts import Layout, TargetRule


@dataclass(frozen=True, eq=False)
class CellWeights:
    """A target rule as a table.

    Attributes:
        table: (R, num_classes * groups) weight of a record of each cell, in [0, 1].
        cell: (N,) int64 cell of each record, class-major.
        num_classes: how many classes there are.
        layout: the rule's rows.
        assumed: what the rule takes as public.
    """

    table: Tensor
    cell: Tensor
    num_classes: int
    layout: Layout
    assumed: tuple[str, ...]

    def rows(self, index: Tensor) -> Tensor:
        """(R, B) weights of the records at ``index``."""
        return self.table[:, self.cell[index]]

    @property
    def groups(self) -> int:
        """Groups in each class; 1 without a protected attribute."""
        return self.table.shape[1] // self.num_classes

    def by_class(self) -> Tensor:
        """(R, num_classes, groups) the table."""
        return self.table.view(-1, self.num_classes, self.groups)

    @property
    def differ_by_group(self) -> bool:
        """True when the mass of a row takes the counts of the groups."""
        t = self.by_class()
        return bool((t != t[..., :1]).any())

    @property
    def differ_by_class(self) -> bool:
        """True when the mass of a row takes more than the number of records."""
        return bool((self.table != self.table[:, :1]).any())


def cell_weights(rule: TargetRule, data: ImageData, drawn: Tensor | None = None) -> CellWeights:
    """Bind ``rule`` to the (class, group) counts of ``data`` and ask it for the weight of each cell.

    Args:
        rule: not bound yet.
        data: the records; their images are not looked at.
        drawn: see :meth:`TargetRule.bind`.
    """
    groups = 1
    if data.groups is not None:
        groups = max(len(data.group_names), int(data.groups.max()) + 1 if len(data) else 1)
    cell = data.labels if data.groups is None else data.labels * groups + data.groups
    counts = torch.bincount(cell, minlength=data.num_classes * groups)
    bound = rule.bind(_blank(data, counts, groups), drawn)
    one_each = _blank(data, torch.ones_like(counts), groups)
    return CellWeights(
        bound.rows(one_each, torch.arange(len(one_each))),
        cell,
        data.num_classes,
        # Asked on blank records too: rows and texts that depended on real ones would leave outside the ledger.
        rule.layout(one_each),
        rule.assumed(one_each),
    )


def _blank(like: ImageData, counts: Tensor, groups: int) -> ImageData:
    """Black records, ``counts`` of each cell, in the order of the cells."""
    cell = torch.arange(len(counts)).repeat_interleave(counts)
    black = torch.zeros(1, *like.shape, dtype=like.images.dtype)
    return replace(
        like,
        images=black.expand(len(cell), -1, -1, -1),
        labels=cell // groups,
        groups=None if like.groups is None else cell % groups,
    )
