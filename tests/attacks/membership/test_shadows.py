"""Memberships of shadows: independent halves in which every class is present."""

from __future__ import annotations

import pytest
import torch

from ddaudit.attacks.membership.shadows import draw_members
from ddaudit.errors import Unsupported


def test_memberships_are_independent_halves() -> None:
    labels = torch.arange(4000) % 4
    g = torch.Generator().manual_seed(0)
    members = draw_members(labels, 40, num_classes=4, generator=g)
    share = members.double().mean()
    assert float(share) == pytest.approx(0.5, abs=0.004)  # 3 sd
    per_record = members.double().sum(0)
    # binomial(40, 1/2): variance 10, were every record in exactly half of the runs it would be 0
    assert float(per_record.var()) == pytest.approx(10.0, rel=0.1)
    correlation = torch.corrcoef(members.double())
    assert float((correlation - torch.eye(40)).abs().max()) < 0.08


def test_every_class_stays_populated_and_singletons_are_refused() -> None:
    labels = torch.tensor([0] * 50 + [1, 1])
    g = torch.Generator().manual_seed(0)
    members = draw_members(labels, 200, num_classes=2, generator=g)
    assert bool(members[:, 50:].any(1).all())
    with pytest.raises(Unsupported, match="single training record"):
        draw_members(torch.tensor([0, 0, 1]), 3, num_classes=2, generator=g)


def test_many_small_classes_do_not_wait_for_a_lucky_row() -> None:
    """1000 classes of 4: a whole row has all of them once in 1e28 rows."""
    labels = torch.arange(4000) % 1000
    g = torch.Generator().manual_seed(0)
    members = draw_members(labels, 30, num_classes=1000, generator=g)
    held = torch.stack([torch.bincount(labels[row], minlength=1000) for row in members])
    assert int(held.min()) == 1
    # Binomial(4, 1/2) without 0: 4, 6, 4, 1 of 15.
    share = torch.bincount(held.flatten(), minlength=5)[1:] / held.numel()
    assert share.tolist() == pytest.approx([4 / 15, 6 / 15, 4 / 15, 1 / 15], abs=0.01)
