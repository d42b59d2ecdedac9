"""Columns of tables: how the cells of one become inputs of a network."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddaudit.data.classes import is_missing, number_of
from ddaudit.errors import BadInput

MOST_CATEGORIES, MOST_GROUPS = 100, 20
"""A column with more texts than this is a name or a number with a typo; a group with few records measures nothing."""
FEWEST_DISTINCT = 20
"""Records from which on a column that never repeats is told of: an identifier, perhaps."""

FEW_WORDS = 3
FEW_SIGNED = 10
_SIGNED = re.compile(r"[$€£¥]?\s?[+-]?\d[\d,]*(\.\d+)?\s?[%$€£¥]?")
"""A number with a currency or percent sign, or with commas between thousands: no range, date or time."""

Row = dict[str, str]


@dataclass(frozen=True, eq=False)
class Column:
    """How one input column becomes numbers.

    Attributes:
        name: as in the header.
        centre, scale: of a number: (x - centre) / scale; ``low`` and ``high`` bound x first, where declared.
        categories: of a text: one 0/1 input each, in this order; empty for a number.
    """

    name: str
    centre: float = 0.0
    scale: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    categories: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs it becomes."""
        return tuple(f"{self.name}={c}" for c in self.categories) or (self.name,)

    def encode(self, values: Sequence[str]) -> NDArray[np.float32]:
        """(N, inputs) float32. A missing value is 0 in every input: the centre of a number, no category.

        Raises:
            BadInput: a text in a column of numbers.
        """
        if self.categories:
            known = {c: i for i, c in enumerate(self.categories)}
            out = np.zeros((len(values), len(known)), dtype=np.float32)
            for row, value in enumerate(values):
                if value in known:
                    out[row, known[value]] = 1.0
            return out
        try:
            numbers = np.array([self.centre if is_missing(v) else float(v) for v in values])
        except ValueError as error:
            what = f"holds a text where a number is declared ({error})"
            raise BadInput(
                f"column '{self.name}'", what, "Correct the cell, or the range."
            ) from None
        scaled = (numbers.clip(self.low, self.high) - self.centre) / self.scale
        return scaled.astype(np.float32)[:, None]


def from_data(name: str, train: list[Row], rows: list[Row], path: Path) -> Column:
    """A column as the training records show it; categories of all records, so that test has no unknown ones."""
    present = [row[name] for row in rows if not is_missing(row[name])]
    if not present:
        raise BadInput(path, f"column '{name}' is empty", f"Add drop={name}.")
    numbers = [number_of(value) for value in present]
    if all(number is not None for number in numbers):
        known = [number_of(row[name]) for row in train if not is_missing(row[name])]
        values = np.array([v for v in known if v is not None] or [0.0], dtype=np.float64)
        with np.errstate(over="ignore"):
            centre, spread = float(values.mean()), float(values.std())
        if not math.isfinite(centre) or not math.isfinite(spread):
            largest = float(np.abs(values).max())
            what = f"column '{name}' holds numbers up to {largest:.3g}, whose spread no float holds"
            raise BadInput(path, what, f"Correct these cells or leave them empty; or drop={name}.")
        # A constant column has no spread; 1 keeps it finite.
        return Column(name, centre, spread or 1.0)
    infinite = [v for v in present if _infinite(v)]
    if infinite and any(number is not None for number in numbers):
        what = f"column '{name}' holds numbers that are not finite ({len(infinite)}, such as '{infinite[0]}')"
        raise BadInput(path, what, f"Correct them or leave these cells empty; or drop={name}.")
    odd = [v for v, number in zip(present, numbers, strict=True) if number is None]
    # Many different numbers and two or three words are numbers with words for "none", however often these stand there.
    counted = {number for number in numbers if number is not None}
    few_words = len(set(odd)) <= FEW_WORDS and len(counted) > FEW_SIGNED
    if 2 * len(odd) < len(present) or (few_words and len(odd) < len(present)):
        what = f"column '{name}' holds {len(present) - len(odd)} numbers and {len(odd)} texts ('{odd[0]}', say)"
        raise BadInput(path, what, f"Correct the cells or leave them empty; or drop={name}.")
    categories = sorted(set(present))
    if len(categories) > FEW_SIGNED and all(map(_SIGNED.fullmatch, odd)):
        what = f"column '{name}' holds {len(categories)} numbers with signs or separators ('{odd[0]}', say)"
        raise BadInput(
            path, what, f"Write plain numbers (49 for 49%, 1049 for $1,049); or drop={name}."
        )
    if len(categories) > MOST_CATEGORIES:
        what = f"column '{name}' holds {len(categories)} different texts ('{odd[0]}', say)"
        raise BadInput(
            path, what, f"An identifier? drop={name} leaves it out. A number? Correct the cells."
        )
    return Column(name, categories=tuple(categories))


def from_ranges(name: str, value: list[object], where: object) -> Column:
    """A column from its declared range (standardised as if uniform in it) or categories."""
    texts = [v for v in value if isinstance(v, str)]
    if len(texts) == len(value):
        if len(set(texts)) < len(texts):
            raise BadInput(where, f"lists a category of '{name}' twice")
        return Column(name, categories=tuple(texts))
    numbers = [float(v) for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
    if (
        len(value) != 2
        or len(numbers) != 2
        or not numbers[0] < numbers[1]
        or not all(map(math.isfinite, numbers))
    ):
        what = f"column '{name}' is neither [low, high] nor a list of texts"
        raise BadInput(where, what)
    low, high = numbers
    return Column(name, (low + high) / 2, (high - low) / math.sqrt(12), low, high)


def identifies(values: Sequence[str]) -> bool:
    """Whether no two records share a text or whole number, which measurements with decimals seldom do anyway."""
    if len(values) < FEWEST_DISTINCT or len(set(values)) < len(values):
        return False
    numbers = [number_of(value) for value in values]
    return all(number is None or number.is_integer() for number in numbers)


def _infinite(text: str) -> bool:
    """True for "inf", "-Infinity", and numbers too large for a float."""
    try:
        return math.isinf(float(text))
    except ValueError:
        return False
