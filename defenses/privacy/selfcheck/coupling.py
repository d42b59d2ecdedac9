"""Does one record set the weight or the signal of another? Made-up records, one of which is changed.

Noise is calibrated for a record that adds at most one clip to a sum. Where it also moves what others add, the
sum moves by more, and the claim is wrong however honest the reader is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.data.splits import empty_like
from ddaudit.defenses.privacy.cells import cell_weights
from ddaudit.defenses.privacy.selfcheck.questions import inverted
from ddaudit.distillation import Recipe
from ddaudit.distillation.loops import Job
from ddaudit.distillation.objectives import row_norms
from ddaudit.distillation.parts import Layout, Opening, Query, Reader, TargetRule
from ddaudit.distillation.reading import load_batch
from ddaudit.errors import DDAuditError
from ddaudit.findings import CLAIMED, Check

RULE = "rule: no record sets the weight of another"
SIGNALS = "signals: no record sets the signal of another"

_RECORDS = 96
_CLASSES = 4
_CHANGED = 6
"""Records that are changed, one at a time."""
_EXACT = 1e-6
"""Weights are looked up, not computed in batches: what moves by more is moved by the other record."""
_ROUNDING = 1e-4
"""Relative to a signal's norm: batches of equal size, but kernels may split them otherwise."""


def check_rule(rule: TargetRule, train: ImageData, *, subject: str, seed: int = 0) -> Check:
    """Change one made-up record, and see how far the weights of the others move.

    A record gets other pixels (its own negative; another record's), another class, another group, or leaves: the
    data, or only the question. The rule is bound once to the unchanged records, as what it learns then is public.
    Bound anew it may see counts, and only those: pixels are changed and the places of two records exchanged, and
    where it assumes nothing, everything else is changed as well. Costs no privacy: no real record is touched.

    Args:
        rule: the target rule of a recipe, as it is.
        train: its image shape, classes and groups are imitated.
        subject: whose rule it is.
        seed: of the made-up records.

    Returns:
        One check; its value is the largest move, as a share of what a record may add to a sum.
    """
    data = _made_up(train, seed)
    try:
        worst = _largest_move(rule, data, seed)
    except (DDAuditError, RuntimeError, IndexError) as error:
        return _check(RULE, False, None, f"It refused made-up records: {error}", subject)
    detail = (
        f"Largest move of another record's weights, over {_CHANGED} changed records of {len(data)}."
    )
    return _check(RULE, worst <= _EXACT, worst, detail, subject)


def check_signals(recipe: Recipe, data: Dataset, *, subject: str, seed: int = 0) -> list[Check]:
    """Change the pixels of one made-up record of a batch, and see how far the signals of the others move.

    Finds networks with batch normalisation and objectives that centre or whiten what they measure. The recipe's own
    loop runs on made-up records up to its first question, whose signals are then tried: whatever asks is covered,
    matching, kernels, DP-SGD or sums of pixels.

    Args:
        recipe: as it is; its reader is never asked.
        data: its shape and classes are imitated, its public constants used.
        subject: whose signals they are.
        seed: of the made-up records and of the network.

    Returns:
        One check; none for recipes without a reader or a rule.
    """
    if recipe.reader is None or recipe.target is None:
        return []
    made = _made_up(data.train, seed)
    try:
        query, opening = _first_question(recipe, data, made, seed)
        batch = made.subset(torch.arange(min(24, len(made))))

        def signals(records: ImageData) -> Tensor:
            index = torch.arange(len(records))
            x, y = load_batch(records, index, opening, query.augment)
            return query.objective.signals(query.net, x, y).detach().double()

        worst = _largest_signal_move(signals, batch)
    except (DDAuditError, RuntimeError, IndexError) as error:
        return [_check(SIGNALS, False, None, f"It refused made-up records: {error}", subject)]
    detail = "Largest move of another record's signal in a batch of 24, relative to its norm."
    return [_check(SIGNALS, worst <= _ROUNDING, worst, detail, subject)]


def _largest_signal_move(signals: Callable[[ImageData], Tensor], batch: ImageData) -> float:
    before, worst = signals(batch), 0.0
    for record in range(min(_CHANGED, len(batch))):
        others = torch.arange(len(batch)) != record
        moved = row_norms(
            signals(_with_pixels(batch, record, inverted(batch.images[record], batch.space)))
            - before
        )
        size = row_norms(before).clamp_min(1e-12)
        worst = max(worst, float((moved / size)[others].max()))
    return worst


class _Asked(Exception):
    """The first question of a loop, instead of an answer."""

    def __init__(self, query: Query) -> None:
        super().__init__(query.id)
        self.query = query


class _Listening:
    """A source that answers nothing and hands its first question out."""

    def __init__(self, layout: Layout, clip: float | None) -> None:
        self.layout, self.clip = layout, clip

    def targets(self, query: Query) -> NoReturn:
        raise _Asked(query)

    def claims(self) -> list[None]:
        return [None]


class _Listener:
    """A private reader in whose place nothing is read; what else a loop asks of the reader, its own reader says."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.opening: Opening | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> _Listening:
        self.opening = opening
        return _Listening(
            cell_weights(opening.rule, data).layout, getattr(self._reader, "clip", None)
        )


def _first_question(
    recipe: Recipe, data: Dataset, made: ImageData, seed: int
) -> tuple[Query, Opening]:
    """What a recipe's loop asks first, and how it opened its reader.

    Raises:
        DDAuditError: it asks nothing.
    """
    assert recipe.reader is not None
    listener = _Listener(recipe.reader)
    empty = empty_like(made)
    like = replace(data, train=made, validation=empty, test=empty, extra={})
    every = torch.ones(1, len(made), dtype=torch.bool)
    job = Job(made, every, like, 1, seed, torch.device("cpu"))
    try:
        recipe.loop.run(replace(recipe, reader=cast("Reader", listener)), job)
    except _Asked as asked:
        if listener.opening is not None:
            return asked.query, listener.opening
    raise DDAuditError("the method asked its reader nothing")


def _largest_move(rule: TargetRule, data: ImageData, seed: int) -> float:
    every = torch.arange(len(data))
    bound = rule.bind(data)
    before = bound.rows(data, every).double()
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for record in torch.randperm(len(data), generator=generator)[:_CHANGED].tolist():
        others = every[every != record]
        found = [bound.rows(data, others) - before[:, others]]
        for changed in _changes(data, record):
            found.append((bound.rows(changed, every) - before)[:, others])
        left = data.subset(others)
        found.append(bound.rows(left, torch.arange(len(left))) - before[:, others])
        for changed, kept in _alike_in_counts(data, record):
            found.append((rule.bind(changed).rows(changed, every) - before)[:, kept])
        if not rule.assumed(data):
            for changed in [*_changes(data, record), left]:
                now = rule.bind(changed).rows(changed, torch.arange(len(changed)))
                now = now if len(changed) == len(others) else now[:, others]
                found.append(now - before[:, others])
        worst = max(worst, *(float(d.norm(dim=0).max()) for d in found))
    return worst


def _changes(data: ImageData, record: int) -> Iterator[ImageData]:
    """One record with other pixels, class or group."""
    yield from _pixel_changes(data, record)
    label = data.labels.clone()
    label[record] = (label[record] + 1) % data.num_classes
    yield replace(data, labels=label)
    if data.groups is not None and len(data.group_names) > 1:
        group = data.groups.clone()
        group[record] = (group[record] + 1) % len(data.group_names)
        yield replace(data, groups=group)


def _alike_in_counts(data: ImageData, record: int) -> Iterator[tuple[ImageData, Tensor]]:
    """Changes that no count shows, each with the records that were not touched."""
    every = torch.arange(len(data))
    for changed in _pixel_changes(data, record):
        yield changed, every[every != record]
    other = (record + 1) % len(data)
    order = every.clone()
    order[[record, other]] = order[[other, record]]
    swapped = data.subset(order)
    yield replace(swapped, images=data.images), every[(every != record) & (every != other)]


def _pixel_changes(data: ImageData, record: int) -> Iterator[ImageData]:
    yield _with_pixels(data, record, inverted(data.images[record], data.space))
    # A copy of a record of the same cell shows at every bandwidth of a density.
    same = data.labels == data.labels[record]
    if data.groups is not None:
        same &= data.groups == data.groups[record]
    same[record] = False
    if bool(same.any()):
        yield _with_pixels(data, record, data.images[int(same.nonzero()[0])])


def _with_pixels(data: ImageData, record: int, image: Tensor) -> ImageData:
    images = data.images.clone()
    images[record] = image
    return replace(data, images=images)


def _made_up(train: ImageData, seed: int) -> ImageData:
    """Records in clusters of several widths; classes and groups of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    classes = min(_CLASSES, train.num_classes)
    groups = max(len(train.group_names), 2)
    share = torch.rand(_RECORDS, generator=generator)
    labels = (share.square() * classes).long()
    group = (torch.rand(_RECORDS, generator=generator).square() * groups).long()
    centres = torch.rand(2 * classes, *train.shape, generator=generator)
    width = 0.3 ** torch.randint(1, 4, (_RECORDS, 1, 1, 1), generator=generator)
    noise = torch.randn(_RECORDS, *train.shape, generator=generator)
    x = centres[2 * labels + group % 2] + width * noise
    return replace(
        train,
        images=(x.clamp(0, 1) * 255).to(torch.uint8),
        space="pixels",
        modality="image",
        labels=labels,
        class_names=train.class_names[:classes],
        groups=None if train.groups is None else group,
        group_names=train.group_names or (() if train.groups is None else ("one", "other")),
    )


def _check(name: str, passed: bool, value: float | None, detail: str, subject: str) -> Check:
    return Check(
        name=name,
        passed=passed,
        value=value,
        expected="0",
        detail=detail,
        affects=[CLAIMED],
        subject=subject,
    )
