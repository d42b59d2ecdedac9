"""Target rules: rows of weights over real examples. ``targets = W @ signals``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.parts import Layout, Objective, TargetRule, Weights
from ddaudit.distillation.reductions import Reduction
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class ByClass:
    """One uniform row per class: the plain method."""

    def layout(self, data: ImageData) -> Layout:
        """One row per class."""
        return Layout(torch.arange(data.num_classes), data.class_names)

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> ByClass:
        """Needs nothing of the data."""
        return self

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(num_classes, B) class indicators."""
        return F.one_hot(data.labels[index], data.num_classes).T.float()

    def bounded(self) -> ByClass:
        """Already one row per class."""
        return self

    def couples_records(self) -> bool:
        """Never: a record's class is its own."""
        return False

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Joint:
    """One row over all classes, matched to the whole synthetic set (PSG's class-agnostic gradient)."""

    def layout(self, data: ImageData) -> Layout:
        """A single row."""
        return Layout(torch.tensor([-1]), ("all classes",))

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> Joint:
        """Needs nothing of the data."""
        return self

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(1, B) ones."""
        return torch.ones(1, len(index))

    def bounded(self) -> Joint:
        """Already a single row."""
        return self

    def couples_records(self) -> bool:
        """Never: all records weigh the same."""
        return False

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """Nothing."""
        return ()


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

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> Reduced:
        """The rule, bound."""
        return replace(self, rule=self.rule.bind(data, drawn))

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

    def couples_records(self) -> bool:
        """When the rule does."""
        return self.rule.couples_records()

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """What the rule rests on."""
        return self.rule.assumed(data)


@dataclass(frozen=True)
class Weighted:
    """A rule whose records weigh unequally within its rows. ``Weighted(Weighted(rule, a), b)`` multiplies.

    Weights are at most 1, so that a column stays as short as the rule made it.
    """

    rule: TargetRule
    weights: Weights

    def layout(self, data: ImageData) -> Layout:
        """That of the rule; classes count alike where the weights ask for it."""
        layout = self.rule.layout(data)
        return replace(layout, even=layout.even or self.weights.even)

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> Weighted:
        """Rule and weights, bound."""
        weights = self.weights.bind(data, self.rule.layout(data), drawn)
        return Weighted(self.rule.bind(data, drawn), weights)

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(R, B) the rule's rows, each column times its record's weight."""
        bound = self.bind(data)
        return bound.rule.rows(data, index) * bound.weights.weigh(data, index)

    def bounded(self) -> Weighted:
        """The rule's noise-economical form under the same weights."""
        return replace(self, rule=self.rule.bounded())

    def couples_records(self) -> bool:
        """When the rule or the weights do."""
        return self.rule.couples_records() or self.weights.couples_records()

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """What the rule and the weights rest on."""
        of_weights = self.weights.assumed(self.rule.layout(data))
        return tuple(dict.fromkeys((*self.rule.assumed(data), *of_weights)))


def innermost(rule: TargetRule) -> TargetRule:
    """The rule that the others weigh or reduce."""
    while isinstance(rule, (Reduced, Weighted)):
        rule = rule.rule
    return rule


def swapped(rule: TargetRule, inner: TargetRule) -> TargetRule:
    """The rule with another one in the place of its innermost, weighed and reduced as that was."""
    if isinstance(rule, (Reduced, Weighted)):
        return replace(rule, rule=swapped(rule.rule, inner))
    return inner


def protected(data: ImageData) -> Tensor:
    """(N,) int64, the group of each record that fairness is asked for.

    Raises:
        BadInput: the data have no protected attribute.
    """
    if data.groups is None:
        raise BadInput(
            "fair",
            "needs a protected attribute, and these data have none",
            "Try --data digits-colored.",
        )
    return data.groups


def refuse_coupling(part: TargetRule | Objective, where: str) -> None:
    """Refuse a rule or an objective that a private reader cannot bound record by record.

    Raises:
        BadInput: it couples records, or does not say that it does not.
    """
    kind = "weight" if hasattr(part, "rows") else "signal"
    named: object = part
    while isinstance(named, (Weighted, Reduced)):
        blamed = isinstance(named, Weighted) and named.weights.couples_records()
        named = named.weights if isinstance(named, Weighted) and blamed else named.rule
    name = type(named).__name__
    says = getattr(named, "couples_records", None)
    if says is None:
        raise BadInput(
            where,
            f"{name} does not say whether a record's {kind} depends on others, and a privacy claim rests on that",
            "Give it a method couples_records().",
        )
    if says():
        coupling = getattr(named, "coupling", "") or (
            f"sets each record's {kind} by the other records, so that one record moves the whole sum and no noise is "
            "calibrated for that"
        )
        raise BadInput(
            where,
            f"{name} {coupling}",
            f"Leave it out, or use {kind}s that depend on a record's own class and group and on public numbers.",
        )
