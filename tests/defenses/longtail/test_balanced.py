"""Balanced targets: known answers on a long tail, with and without noise."""

from dataclasses import replace

import pytest
import torch

from ddaudit.data import ImageData
from ddaudit.defenses.fairness.fairdd import Barycentre, ByGroup
from ddaudit.defenses.longtail.balanced import Balanced
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.parts import Layout, Opening, Query
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.targets import ByClass, Joint, Weighted
from ddaudit.errors import BadInput

COUNTS = (40, 10, 2)


class Values:
    """Every record's signal is its first pixel."""

    shareable = True

    def signals(self, net, x, y):
        return x.flatten(1)[:, :1]

    def real(self, net, x, y, rows):
        return rows @ self.signals(net, x, y)


@pytest.fixture
def tail() -> ImageData:
    """40, 10 and 2 records; class c shows the value 51 c + 51, and each class has a majority group and one other."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    return ImageData(
        images=(51 * labels + 51).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2),
        labels=labels,
        class_names=("head", "middle", "tail"),
        groups=(torch.arange(len(labels)) % 10 == 9).long(),
        group_names=("most", "few"),
    )


def ask(reader, rule, data):
    opening = Opening(rule, torch.zeros(1, 1, 1), torch.ones(1, 1, 1), 1, 0, torch.device("cpu"))
    source = reader.open(data, torch.ones(1, len(data), dtype=torch.bool), opening)
    return source, source.targets(Query("q", Values(), None, (None,) * 3))


def test_a_joint_row_becomes_the_mean_of_class_means(tail):
    """Classes at 0.2, 0.4 and 0.6: their mean is 0.4, while 40 + 10 + 2 records average (8 + 4 + 1.2) / 52."""
    for reader in (Minibatch(), Minibatch(per_class=10)):
        _, plain = ask(reader, Joint(), tail)
        _, even = ask(reader, Weighted(Joint(), Balanced()), tail)
        assert float(even.values) == pytest.approx(0.4, abs=1e-6)
        assert abs(float(plain.values) - 0.4) > 0.04
    assert float(ask(Minibatch(), Joint(), tail)[1].values) == pytest.approx(13.2 / 52)


@pytest.mark.parametrize("sampling", ["uniform", "full"])
def test_it_holds_behind_the_private_gate(tail, sampling):
    reader = PoissonGaussian(sigma=1e-9, delta=1e-3, sampling=sampling, batch=52, noise_seed=0)
    _, found = ask(reader, Weighted(Joint(), Balanced()), tail)
    assert float(found.values) == pytest.approx(0.4, abs=1e-5)
    source, _ = ask(replace(reader, sigma=2.0), Weighted(Joint(), Balanced()), tail)
    assert source.claims()[0].public[0] == "class counts"


def test_no_column_is_longer_than_one(tail):
    every = torch.arange(len(tail))
    for rule in (Joint(), ByClass(), ByGroup(), Barycentre()):
        rows = Weighted(rule, Balanced()).rows(tail, every)
        assert float(rows.norm(dim=0).max()) <= 1 + 1e-6
    # Within rows of one class the weight would only weaken a noisy sum.
    assert torch.equal(
        Weighted(ByClass(), Balanced()).rows(tail, every), ByClass().rows(tail, every)
    )


def test_classes_count_alike_in_a_loss_of_sums(tail):
    """All records drawn: masses 40, 10 and 2 weigh a plain loss by their squares; balanced, by a third each."""
    reader = PoissonGaussian(sigma=1.0, delta=1e-3, sampling="full", noise_seed=0)
    _, plain = ask(reader, ByClass(), tail)
    _, even = ask(reader, Weighted(ByClass(), Balanced()), tail)
    assert plain.weights[0].tolist() == pytest.approx([1600, 100, 4])
    assert even.weights[0].tolist() == pytest.approx([1704 / 3] * 3)


def test_a_class_without_a_group_counts_as_much_as_the_others():
    layout = Layout(torch.tensor([0, 0, 1, 1, 2, 2]), ("",) * 6, even=True)
    found = layout.weigh(torch.tensor([[1.0, 1, 1, 0, 0, 0]]))
    assert found[0].tolist() == pytest.approx([0.75, 0.75, 1.5, 0, 0, 0])
    assert replace(layout, even=False).weigh(found) is found


def test_groups_are_drawn_evenly(tiny):
    reader = resolve("dm+fair+balanced").reader
    assert reader == Minibatch(by_group=True)
    groups = (torch.arange(len(tiny.train)) // 4 % 10 == 0).long()
    data = replace(tiny.train, groups=groups)
    opening = Opening(ByGroup(), *tiny_constants(), 1, 0, torch.device("cpu"))
    everyone = torch.ones(1, len(data), dtype=torch.bool)
    taken = []

    class Seen(Values):
        def real(self, net, x, y, rows):
            taken.append((rows[0] > 0).sum(1))
            return super().real(net, x, y, rows)

    for by_group in (False, True):
        source = Minibatch(per_class=8, by_group=by_group).open(data, everyone, opening)
        source.targets(Query("q", Seen(), None, (None,) * 4))
    assert taken[1].tolist() == [4] * 8
    assert taken[0].tolist() != [4] * 8


def tiny_constants():
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


FAST = {"loop.iterations": 3, "networks.arch": "ConvNetD2W8", "networks.width": None}
PRIVATE = {**FAST, "reader.delta": 1e-3, "reader.batch": 20}


@pytest.mark.parametrize(
    ("name", "options", "public"),
    [
        ("dm+balanced", FAST, None),
        ("dm+fair+balanced", FAST, None),
        ("dm+fair+balanced+dp", PRIVATE, "(class, group) counts"),
        ("dm+balanced+dp", {**PRIVATE, "reader.counts": "noisy"}, None),
        ("psg+balanced", {**PRIVATE, "loop.outer": 1}, "class counts"),
    ],
)
def test_they_compose_and_run(tiny, name, options, public):
    made = distill(
        resolve(name, profile="small", options=options), tiny.train, data=tiny, ipc=1, seed=0
    )
    assert made.card.recipe["target"]["part"] == "Weighted"
    claim = made.card.privacy
    assert (claim is not None) == ("dp" in name or "psg" in name)
    if public:
        assert public in claim.public
    elif claim:
        assert not any("counts" in words for words in claim.public)


def test_dm_alone_is_balanced_already(tiny):
    plain, even = (
        distill(resolve(n, profile="small", options=FAST), tiny.train, data=tiny, ipc=1, seed=0)
        for n in ("dm", "dm+balanced")
    )
    assert torch.equal(plain.images, even.images)
    assert any("changes nothing" in note for note in even.card.deviations)


def test_what_it_refuses():
    with pytest.raises(BadInput, match="as many records of each class"):
        resolve("random+balanced")
