"""Coresets against brute force and hand-made geometry."""

import pytest
import torch

from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.selection import herding, k_center, random_choice
from ddaudit.errors import BadInput
from ddaudit.sets import inspect, save


def test_herding_follows_the_mean_greedily():
    z = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    chosen = herding(z, 6, torch.Generator()).tolist()
    taken: list[int] = []
    for _ in range(6):
        rest = [i for i in range(30) if i not in taken]
        taken.append(min(rest, key=lambda i: float((z.mean(0) - z[[*taken, i]].mean(0)).norm())))
    assert chosen == taken


def test_k_center_takes_the_corners():
    corners = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    z = torch.cat(
        [
            torch.tensor([[5.0, 5.0]]),
            corners,
            5 + 0.1 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0)),
        ]
    )
    chosen = set(k_center(z, 5, torch.Generator()).tolist())
    assert {1, 2, 3, 4} <= chosen


def test_random_choice_repeats_only_when_it_must():
    g = torch.Generator().manual_seed(0)
    assert len(set(random_choice(torch.zeros(10, 1), 10, g).tolist())) == 10
    assert sorted(random_choice(torch.zeros(3, 1), 6, g).tolist()) == [0, 0, 1, 1, 2, 2]


def test_selected_images_are_the_named_records(tiny):
    for name in ("random", "herding", "k-center", "k-means", "forgetting", "el2n", "full"):
        made = distill(
            resolve(name, profile="small", options={}), tiny.train, data=tiny, ipc=3, seed=0
        )
        index = torch.tensor(made.card.member_indices)
        assert torch.equal(made.images, tiny.train.pixels(index))
        assert torch.equal(made.labels, tiny.train.labels[index])
        assert len(made) == (len(tiny.train) if name == "full" else 12)


def test_selection_sees_only_its_members(tiny):
    members = torch.zeros(2, len(tiny.train), dtype=torch.bool)
    members[0, :120], members[1, 120:] = True, True
    for name in ("random", "herding", "full"):
        sets = distill_many(
            resolve(name, profile="small"), tiny.train, members, data=tiny, ipc=2, seed=0
        )
        for row, made in zip(members, sets, strict=True):
            assert bool(row[torch.tensor(made.card.member_indices)].all())


def test_group_balanced_random_spreads_over_groups(tiny):
    made = distill(resolve("random+fair"), tiny.train, data=tiny, ipc=4, seed=0)
    groups = tiny.train.groups[torch.tensor(made.card.member_indices)].view(4, 4)
    assert torch.equal(groups.sum(1), torch.full((4,), 2))


def test_unknown_strategy_is_one_line():
    with pytest.raises(BadInput, match=r"loop\.strategy is one of"):
        resolve("random", options={"loop.strategy": "best"})


@pytest.mark.parametrize("name", ["random", "herding", "k-center", "k-means", "forgetting", "el2n"])
def test_a_class_that_runs_out_of_records_is_said_on_the_card(tiny, name, tmp_path):
    made = distill(resolve(name, profile="small"), tiny.train, data=tiny, ipc=70, seed=0)
    unique = len(set(made.card.member_indices))
    assert unique <= len(tiny.train) < len(made) == 280
    assert made.card.notes[0].startswith(f"{unique} of 280 images are unique")
    (warning,) = [
        w for w in inspect(save(made, tmp_path / "s.safetensors")).warnings if "copies" in w
    ]
    assert f"{280 - unique} of 280 images are copies" in warning
    enough = distill(resolve(name, profile="small"), tiny.train, data=tiny, ipc=3, seed=0)
    assert enough.card.notes == []


def test_k_center_takes_every_record_before_one_again():
    z = torch.tensor([[0.0], [1.0], [5.0], [5.0]])
    chosen = k_center(z, 10, torch.Generator()).tolist()
    assert sorted(chosen[:4]) == sorted(chosen[4:8]) == [0, 1, 2, 3]
