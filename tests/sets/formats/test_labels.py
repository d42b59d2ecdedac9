"""Label tensors of every layout: one reading of columns, and nothing endless becomes a class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddaudit.errors import BadInput
from ddaudit.sets.formats import _labels

FILE = Path("set.npz")
INDICES = torch.tensor([2, 0, 1])


def test_a_column_of_indices_is_hard_labels_for_every_reader():
    """The largest of one value is always the first: read as targets, a column would be class 0 throughout."""
    column = INDICES[:, None].float()
    assert _labels.hard(column, FILE).tolist() == [2, 0, 1]
    assert _labels.hard_or_soft(column, FILE, {})[0].tolist() == [2, 0, 1]
    assert _labels.from_regression(column, FILE, {})[0].tolist() == [2, 0, 1]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_an_endless_index_is_refused(value: float):
    with pytest.raises(BadInput, match="NaN or infinity"):
        _labels.hard(torch.tensor([0.0, value]), FILE)


def test_two_columns_are_no_indices():
    with pytest.raises(BadInput, match="expected \\(M,\\)"):
        _labels.hard(torch.zeros(3, 2), FILE)


@pytest.mark.parametrize("kind", [torch.uint16, torch.float8_e4m3fn])
def test_types_that_pytorch_does_not_compute_with_are_widened(kind: torch.dtype):
    stored = _labels.tensor(INDICES.to(kind), FILE)
    assert _labels.hard(stored, FILE).tolist() == [2, 0, 1]
