"""docs/methods.md says of every method what the method says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddaudit.distillation import METHODS

ROWS = [
    ([name for name in re.findall(r"`([^`]+)`", cells[0]) if name in METHODS], cells[2])
    for line in Path("docs/methods.md").read_text().splitlines()
    if len(cells := [c.strip() for c in line.strip("| ").split(" | ")]) >= 4 and cells[0].startswith("`")
]  # fmt: skip


@pytest.mark.parametrize(("names", "status"), [row for row in ROWS if row[0]])
def test_the_status_is_the_methods_own(names: list[str], status: str) -> None:
    stated = status.split(", ")
    assert [METHODS.get(n).status for n in names] == (
        stated if len(stated) > 1 else stated * len(names)
    )


def test_most_methods_have_a_row() -> None:
    assert len({name for names, _ in ROWS for name in names}) > 50
