"""Target rules: rows of weights over real examples. ``targets = W @ signals``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.parts import Layout, TargetRule
from ddaudit.distillation.reductions import Reduction
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class ByClass:
    """One uniform row per class: the plain method."""

    def layout(self, data: ImageData) -> Layout:
        """One row per class."""
        return Layout(torch.arange(data.num_classes), data.class_names)

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(num_classes, B) class indicators."""
        return F.one_hot(data.labels[index], data.num_classes).T.float()

    def bounded(self) -> ByClass:
        """Already one row per class."""
        return self


@dataclass(frozen=True)
class Joint:
    """One row over all classes, matched to the whole synthetic set (PSG's class-agnostic gradient)."""

    def layout(self, data: ImageData) -> Layout:
        """A single row."""
        return Layout(torch.tensor([-1]), ("all classes",))

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(1, B) ones."""
        return torch.ones(1, len(index))

    def bounded(self) -> Joint:
        """Already a single row."""
        return self


@dataclass(frozen=True)
class Reduced:
    """The rows of a rule, of whose distances not all count alike.

    Attributes:
        rule: gives the rows.
        reduction: makes one loss of their distances.
    """

    rule: TargetRule
    reduction: Reduction

    def layout(self, data: ImageData) -> Layout:
        """The rule's rows with this reduction."""
        return replace(self.rule.layout(data), reduction=self.reduction)

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """As the rule's."""
        return self.rule.rows(data, index)

    def bounded(self) -> Reduced:
        """Refused: noise on the rows would pick the worst of them.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            type(self.reduction).__name__,
            "picks rows by their distance, and under privacy noise decides which is the worst",
            "Use fair, whose rows all count, or leave dp out.",
        )
