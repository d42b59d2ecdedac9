"""Soft labels: what a teacher writes, what can be undone, and who may not have them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from ddaudit.data import Dataset
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.labels import TeacherLabels, harden, keep_top, temper
from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.training import PROTOCOLS, train_many

CPU = torch.device("cpu")
QUICK = TeacherLabels(width=16, epochs=20)


def relabel(model: TeacherLabels, data: Dataset, *, seed: int = 0) -> torch.Tensor:
    images = data.test.pixels()
    labels, _ = model.relabel(
        images, data.test.labels, train=data.train, data=data, seed=seed, device=CPU
    )
    return labels


def test_labels_are_the_softmax_of_logits_over_the_temperature() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    for temperature in (0.5, 1.0, 20.0):
        written = TeacherLabels(temperature=temperature).soften(logits)
        torch.testing.assert_close(
            written, torch.from_numpy(softmax(logits.numpy() / temperature, axis=1))
        )


def test_top_k_keeps_the_likely_classes_and_shares_the_rest() -> None:
    labels = torch.tensor([[0.5, 0.1, 0.3, 0.1]])
    torch.testing.assert_close(keep_top(labels, 2), torch.tensor([[0.625, 0.0, 0.375, 0.0]]))
    assert torch.equal(keep_top(labels, 4), labels)
    assert torch.equal(keep_top(labels, 1), harden(labels))
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    cut = TeacherLabels(temperature=1.0, top_k=2).soften(logits)
    ratio = torch.exp(torch.tensor(1.0))
    torch.testing.assert_close(cut[0, [0, 2]], torch.stack([ratio, ratio / ratio]) / (1 + ratio))


@given(
    temperature=st.floats(0.5, 20.0),
    factor=st.floats(0.1, 20.0),
    seed=st.integers(0, 1000),
)
def test_temperature_can_be_undone_by_anybody(temperature: float, factor: float, seed: int) -> None:
    logits = 3 * torch.randn(
        4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    released = torch.softmax(logits / temperature, dim=1)
    torch.testing.assert_close(
        temper(released, factor), torch.softmax(logits / (temperature * factor), dim=1)
    )
    # what was cut to zero stays there, at any temperature
    cut = keep_top(released, 3)
    assert torch.equal(temper(cut, factor) > 0, cut > 0)


def test_a_teacher_labels_what_it_has_learnt(tiny: Dataset) -> None:
    labels = relabel(QUICK, tiny)
    assert labels.shape == (len(tiny.test), tiny.num_classes)
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
    assert float((labels.argmax(1) == tiny.test.labels).float().mean()) > 0.95
    assert torch.equal(labels, relabel(QUICK, tiny))
    assert not torch.equal(labels, relabel(QUICK, tiny, seed=1))


def test_labels_come_from_the_records_of_the_run_alone(tiny: Dataset) -> None:
    """Exchange two classes in the records, and the teacher exchanges them in its labels."""
    swap = torch.tensor([1, 0, 2, 3])
    other = replace(tiny, train=replace(tiny.train, labels=swap[tiny.train.labels]))
    agree = relabel(QUICK, other).argmax(1) == swap[tiny.test.labels]
    assert float(agree.float().mean()) > 0.95


def test_training_on_one_hot_labels_is_training_on_hard_ones(tiny: Dataset) -> None:
    """Victims minimise the cross-entropy against the distribution, at temperature 1."""
    images, hard = tiny.train.pixels()[:40], tiny.train.labels[:40]
    soft = torch.nn.functional.one_hot(hard, 4).float()
    protocol = replace(PROTOCOLS["quick"], augment="", epochs_plain=10)
    a, b = (
        train_many(
            [(images, labels)], arch=Arch.parse("ConvNetD2W8"), num_classes=4, mean=tiny.mean,
            std=tiny.std, protocol=protocol, seeds=[3], strategy="loop",
        )[0]
        for labels in (hard, soft)
    )  # fmt: skip
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_soft_changes_labels_and_nothing_else(tiny: Dataset) -> None:
    options = {"labels.width": 16, "labels.epochs": 20, "labels.temperature": "2"}
    recipe = resolve("random+soft", options=options)
    soft = distill(recipe, tiny.train, data=tiny, ipc=3, seed=5)
    hard = distill(resolve("random"), tiny.train, data=tiny, ipc=3, seed=5)
    assert soft.soft
    assert torch.equal(soft.images, hard.images)
    assert torch.equal(soft.hard_labels, hard.labels)
    assert soft.card.recipe is not None
    assert soft.card.recipe["labels"]["part"] == "TeacherLabels"
    assert soft.card.recipe["labels"]["temperature"] == 2.0
    assert soft.card.method == "random+soft"


def test_each_shadow_has_a_teacher_of_its_own_records(tiny: Dataset) -> None:
    recipe = resolve("random+soft", options={"labels.width": 16, "labels.epochs": 20})
    members = torch.rand(2, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    sets = distill_many(recipe, tiny.train, members, data=tiny, ipc=2, seed=0)
    alone = recipe.labels
    assert alone is not None
    for made, row in zip(sets, members, strict=True):
        expected, _ = alone.relabel(
            made.images, made.hard_labels, train=tiny.train.subset(row), data=tiny, seed=0, device=CPU
        )  # fmt: skip
        torch.testing.assert_close(made.labels, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dm+soft+dp", "dm+dp+soft", "ndpdc+soft", "psg+soft"])
def test_private_recipes_refuse_a_teacher_at_once(name: str) -> None:
    with pytest.raises(BadInput, match="outside the ledger"):
        resolve(name)


def test_a_private_recipe_given_a_teacher_by_hand_is_refused_too(tiny: Dataset) -> None:
    smuggled = replace(resolve("ndpdc", profile="small"), labels=TeacherLabels())
    with pytest.raises(BadInput, match="outside the ledger"):
        distill(smuggled, tiny.train, data=tiny, ipc=1, seed=0)


@pytest.mark.parametrize(
    "option",
    [
        {"labels.temperature": "0"},
        {"labels.temperature": "inf"},
        {"labels.top_k": "0"},
        {"labels.epochs": "0"},
        {"labels.augment": "upside-down"},
    ],
)
def test_impossible_options_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        resolve("random+soft", options=option)


def test_factors_are_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        temper(torch.ones(1, 2) / 2, 0.0)
