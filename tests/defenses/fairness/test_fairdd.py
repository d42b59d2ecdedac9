"""FairDD's rows, the barycentre identity, and what it needs from the data."""

from dataclasses import replace

import pytest
import torch

from ddaudit.defenses.fairness.fairdd import Barycentre, ByGroup
from ddaudit.defenses.privacy.cells import cell_weights
from ddaudit.distillation import distill, resolve
from ddaudit.errors import BadInput


def test_rows_are_class_and_group_indicators(tiny):
    index = torch.arange(len(tiny.train))
    rows = ByGroup().rows(tiny.train, index)
    for c in range(4):
        for g in range(2):
            expected = (tiny.train.labels == c) & (tiny.train.groups == g)
            assert torch.equal(rows[2 * c + g].bool(), expected)
    assert torch.equal(ByGroup().layout(tiny.train).slots, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))


def test_barycentre_is_the_unweighted_mean_of_group_means(tiny):
    """Known answer, on groups of very unequal size (but above the smallest share)."""
    groups = (torch.arange(len(tiny.train)) // 4 % 10 == 0).long()
    data = replace(tiny.train, groups=groups)
    z = torch.randn(len(data), 7, generator=torch.Generator().manual_seed(0))
    rows = Barycentre().rows(data, torch.arange(len(data)))
    got = rows @ z / rows.sum(1, keepdim=True)
    for c in range(4):
        means = [z[(data.labels == c) & (groups == g)].mean(0) for g in range(2)]
        assert torch.allclose(got[c], torch.stack(means).mean(0), atol=1e-5)
    assert float(rows.norm(dim=0).max()) <= 1 + 1e-6


def test_group_rows_and_barycentre_have_the_same_optimum():
    """sum_a ||m_a - s||^2 = G ||mean_a m_a - s||^2 + constant, so their gradients in s differ by G only."""
    m = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    s = torch.randn(6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (by_group,) = torch.autograd.grad((m - s).square().sum(), s)
    (by_centre,) = torch.autograd.grad(10 * (m.mean(0) - s).square().sum(), s)
    assert torch.allclose(by_group, by_centre, atol=1e-5)


@pytest.mark.parametrize("name", ["dp-merf+fair", "ndpdc+fair", "dm+fair+dp"])
def test_under_noise_fair_is_one_row_a_class(name):
    """Whether the method was private before or becomes so: rows of single groups would drown in noise."""
    assert resolve(name).target == Barycentre()


def test_a_lone_record_cannot_set_the_scale(tiny):
    groups = torch.zeros(len(tiny.train), dtype=torch.int64)
    groups[:4] = 1  # one record of each class
    rows = Barycentre(smallest_share=0.1).rows(
        replace(tiny.train, groups=groups), torch.arange(len(tiny.train))
    )
    share = rows[:, 4:].sum(1) / rows.sum(1)
    assert bool((share > 0.8).all())


def test_a_group_that_a_class_lacks_weighs_no_more_than_one(tiny):
    """A record more could lie in it: under noise its weight is part of the sensitivity, though nobody has it yet."""
    data = replace(tiny.train, groups=tiny.train.groups * (tiny.train.labels > 0))
    table = cell_weights(Barycentre(), data).table
    assert table.shape == (4, 8)
    assert float(table.norm(dim=0).max()) == 1
    recipe = resolve("dm+fair+dp", options={"loop.iterations": 1, "networks.width": 8})
    made = distill(recipe, data, data=tiny, ipc=1, seed=0)
    assert made.card.privacy is not None


def test_fair_says_what_it_cannot_do(tiny):
    ungrouped = replace(tiny.train, groups=None)
    with pytest.raises(BadInput, match="protected attribute"):
        ByGroup().layout(ungrouped)
    with pytest.raises(BadInput, match="splits one target per class"):
        resolve("psg+fair")
    with pytest.raises(BadInput, match="full training set"):
        resolve("full+fair")
