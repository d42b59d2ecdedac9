"""Soft labels: rounded probabilities are never softmaxed again, logits never taken for probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets import import_set
from ddaudit.sets.formats._soft import probabilities

WHERE = Path("labels.pt")


def draw(kind: int, rows: int, classes: int, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(kind)
    return torch.randn(rows, classes, generator=g, dtype=torch.float64) * scale


def digits(n: int) -> Callable[[Tensor], Tensor]:
    return lambda p: (p.float() * 10**n).round() / 10**n


STORED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # how it is stored; half the distance of two numbers that are told apart, at p
    "float32": (lambda p: p.float(), lambda p: p * 2**-23),
    "float16": (lambda p: p.half(), lambda p: p * 2**-11 + 2**-25),
    "bfloat16": (lambda p: p.bfloat16(), lambda p: p * 2**-8),
    "bfloat16 in float32": (lambda p: p.bfloat16().float(), lambda p: p * 2**-8),
    "float8": (lambda p: p.to(torch.float8_e4m3fn), lambda p: p * 2**-4 + 2**-10),
    "8 bits": (lambda p: (p * 255).round().to(torch.uint8), lambda p: 0.5 / 255 + 0 * p),
    "8 bits in float32": (lambda p: (p * 255).round().float() / 255, lambda p: 0.5 / 255 + 0 * p),
    "2 digits": (digits(2), lambda p: 0.005 + 0 * p),
    "3 digits": (digits(3), lambda p: 0.0005 + 0 * p),
}


def is_read(stored: Tensor, truth: Tensor, half: Tensor) -> None:
    """It is read as probabilities, each within the rounding of the true one: in the same cell, so 2 halves apart."""
    read, note = probabilities(stored, WHERE, {})
    assert "read as probabilities" in str(note)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read.double().sum(1), torch.ones(len(read)).double(), atol=1e-5, rtol=0)  # fmt: skip
    assert bool(((read - truth).abs() <= 2.1 * half + 1e-6).all())


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("name", STORED)
def test_rounded_probabilities_come_back_within_their_rounding(name: str, classes: int) -> None:
    store, half = STORED[name]
    for scale in (1.0, 4.0):
        truth = draw(classes, 16, classes, scale).softmax(1)
        is_read(store(truth), truth, half(truth))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(STORED)), st.integers(0, 10**6), st.integers(1, 20),
    st.integers(2, 300), st.floats(0.05, 12),
)  # fmt: skip
@example("3 digits", 122, 3, 11, 3.75)
def test_any_rounded_probabilities_come_back(
    name: str, seed: int, rows: int, classes: int, scale: float
) -> None:
    store, half = STORED[name]
    truth = draw(seed, rows, classes, scale).softmax(1)
    assume(name != "8 bits" or int(store(truth).max()) > 1)  # only 0 and 1: flags, or nothing left
    is_read(store(truth), truth, half(truth))


LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda x: x.float(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "2 digits": digits(2),
    "3 digits": digits(3),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(LOGITS)), st.booleans(), st.integers(0, 10**6), st.integers(8, 20),
    st.sampled_from([2, 3, 10, 100, 1000]), st.floats(0.5, 10),
)  # fmt: skip
def test_logits_stay_logits_also_where_a_relu_made_them(
    name: str, relu: bool, seed: int, rows: int, classes: int, scale: float
) -> None:
    x = draw(seed, rows, classes, scale)
    stored = LOGITS[name](x.relu() if relu else x)
    read, note = probabilities(stored, WHERE, {})
    assert "softmax taken" in str(note)
    torch.testing.assert_close(read, stored.float().softmax(1))


def test_the_published_example_is_not_softmaxed_twice() -> None:
    row = torch.tensor([0.957, 0.02, 0.012, 0.009, 0.001, 0, 0, 0, 0, 0])  # sums to 0.999
    read, _ = probabilities(row.bfloat16()[None], WHERE, {})
    assert float(read[0, 0]) == pytest.approx(0.957, abs=0.004)


def test_exact_rows_stay_as_they_are() -> None:
    rows = draw(0, 5, 7).softmax(1).float()
    assert torch.equal(probabilities(rows, WHERE, {})[0], rows)
    one_hot = torch.eye(4, dtype=torch.int64)
    assert torch.equal(probabilities(one_hot, WHERE, {})[0], torch.eye(4))


@pytest.mark.parametrize(
    "stored",
    [
        draw(0, 8, 10).softmax(1) * 0.95,  # no rounding does that
        draw(0, 8, 10).softmax(1) * 1.1 - 0.01,  # learned, a little below 0
        draw(0, 8, 10).softmax(1) * 100,
        (draw(0, 8, 10).softmax(1) * 255).round(),
        torch.tensor([[2, 1, 0], [0, 1, 2]]),
        torch.tensor([[200, 1, 0], [0, 1, 2]], dtype=torch.uint8),
        torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.uint8),
    ],
)
def test_doubt_asks_and_the_option_decides(stored: Tensor) -> None:
    with pytest.raises(BadInput, match=r"--set labels=probabilities or --set labels=logits"):
        probabilities(stored, WHERE, {})
    read, note = probabilities(stored, WHERE, {"labels": "logits"})
    torch.testing.assert_close(read, stored.float().softmax(1))
    assert "as asked" in str(note)
    if float(stored.min()) < 0:
        with pytest.raises(BadInput, match="labels=probabilities: cannot be"):
            probabilities(stored, WHERE, {"labels": "probabilities"})
    else:
        read, note = probabilities(stored, WHERE, {"labels": "probabilities"})
        expected = stored.double() / stored.double().sum(1, keepdim=True)
        torch.testing.assert_close(read, expected.float())


def test_formats_pass_the_option_on(tmp_path: Path) -> None:
    images, soft = np.zeros((4, 1, 2, 2), np.float32), np.full((4, 4), 0.24, np.float64) + np.eye(4) * 1e-4  # fmt: skip
    np.savez(tmp_path / "x.npz", images=images, labels=soft)
    with pytest.raises(BadInput, match="labels=probabilities"):
        import_set(tmp_path / "x.npz")
    made = import_set(tmp_path / "x.npz", options={"labels": "probabilities"})
    assert float(made.labels[0, 0]) == pytest.approx(0.2401 / 0.9601, abs=1e-6)
    assert any("soft labels run from 0.24 to 0.2401" in note for note in made.card.notes)
    with pytest.raises(BadInput, match="not one of probabilities, logits"):
        import_set(tmp_path / "x.npz", options={"labels": "soft"})


def test_targets_of_kernel_regression_are_not_softmaxed_without_a_word(tmp_path: Path) -> None:
    """One-hot less 1 / K: a softmax of it is 0.23 for the class and 0.085 for each of the nine others."""
    stored = torch.nn.functional.one_hot(torch.arange(10), 10).double() - 0.1
    learned = stored + 0.02 * torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    for targets in (stored, learned):
        with pytest.raises(BadInput, match="targets of kernel regression"):
            probabilities(targets, tmp_path, {})
    with pytest.raises(BadInput, match="cannot be"):
        probabilities(100 * stored, tmp_path, {"labels": "centred"})
    made, note = probabilities(stored, tmp_path, {"labels": "centred"})
    assert torch.allclose(made, torch.eye(10))
    assert note is not None
    assert "less 1 / K as asked" in note
    asked, _ = probabilities(stored, tmp_path, {"labels": "logits"})
    assert torch.allclose(asked, stored.softmax(1).float())


def test_one_row_that_is_no_distribution_does_not_make_logits_of_the_others(tmp_path: Path) -> None:
    rows = torch.eye(10, dtype=torch.float64)[torch.arange(20) % 10] * 0.9 + 0.01
    rows[5] = 0
    with pytest.raises(BadInput, match="probabilities or logits"):
        probabilities(rows, tmp_path, {})
