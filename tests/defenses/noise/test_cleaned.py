"""Wrong labels: what is told from right ones, the contrast of RDC, and what composes."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.data import load_data
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.contrast import GoldenContrast, supervised_contrast
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import View
from ddaudit.distillation.screening import Cleaned, clean
from ddaudit.errors import BadInput


@pytest.mark.parametrize(
    ("labels", "temperature", "public"),
    [
        # DISL-Lab/RDC-ICCV2025, commit 5bc01d2, IDM/losses.py, SupConLoss with base_temperature = temperature:
        ([0, 0, 1, 1, 2], 0.5, 0.7710192799568176),
        ([0, 0, 1, 1, 2], 0.07, 0.46559786796569824),
        ([0, 1, 1, 1, 0], 0.5, 1.5910680294036865),
        ([0, 1, 1, 1, 0], 0.07, 4.88547420501709),
    ],
)
def test_the_contrast_has_the_value_of_the_public_code(labels, temperature, public):
    z = [[1.0, 0.5, 0.0], [0.8, 0.1, 0.3], [-0.2, 1.0, 0.4], [0.1, 0.9, -0.6], [0.5, 0.5, 0.5]]
    found = supervised_contrast(
        F.normalize(torch.tensor(z), dim=1), torch.tensor(labels), temperature
    )
    assert float(found) == pytest.approx(public, rel=1e-5)


def test_the_term_is_the_sum_of_three_contrasts(tiny):
    """Records of one image and class: mixtures are known."""
    net = Fresh("ConvNetD1W8").make(
        shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu")
    )
    x = torch.randn(1, 6, *tiny.shape, generator=torch.Generator().manual_seed(0)).requires_grad_(
        True
    )
    y, real = torch.tensor([0, 0, 1, 1, 2, 3]), torch.randn(1, *tiny.shape)
    term = replace(GoldenContrast(share=0.6), records=(real, torch.tensor([2])))
    view = View(x, x, y, 4, net, torch.ones(3, 1, 1), 0)
    mixed = F.normalize(net.body.features(0.6 * x[0] + 0.4 * real), dim=1)
    wanted = (
        supervised_contrast(F.normalize(net.body.features(x[0]), dim=1), y, 0.07)
        + 0.6 * supervised_contrast(mixed, y, 0.07)
        + 0.4 * supervised_contrast(mixed, torch.full((6,), 2), 0.07)
    )
    torch.testing.assert_close(term.loss(view)[0], wanted)
    assert torch.autograd.grad(term.loss(view).sum(), x)[0].abs().max() > 0
    with pytest.raises(BadInput, match="records of one run"):
        GoldenContrast().loss(view)


def test_two_kinds_of_losses_are_told_apart():
    g = torch.Generator().manual_seed(0)
    low, high = (
        torch.randn(n, generator=g).mul(0.5).add(m).exp() for n, m in ((300, -3.0), (60, 1.0))
    )
    found = clean(torch.cat([low, high]))
    assert found[:300].float().mean() > 0.99
    assert found[300:].float().mean() < 0.02


def noisy(data, share: float = 0.25):
    """Labels of every fourth record turned to the next class."""
    train = data.train
    wrong = torch.arange(len(train)) % round(1 / share) == 0
    # Records stand class by class in turn: pick wrong ones of all classes.
    wrong = wrong[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    labels = torch.where(wrong, (train.labels + 1) % 4, train.labels)
    return replace(data, train=replace(train, labels=labels)), wrong


def screened(data, **options) -> Job:
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    everyone[0, :2] = False
    job = Job(data.train, everyone, data, 1, 0, torch.device("cpu"))
    return Cleaned(arch="ConvNetD1W8", epochs=6, networks=1, **options).screen(job)


def test_wrong_labels_are_left_out_or_put_right(tiny):
    data, wrong = noisy(tiny)
    out = screened(data)
    kept = out.members[0]
    assert not kept[:2].any(), "records that the run may not see stay out"
    assert torch.equal(out.train.labels, data.train.labels)
    rate = float(wrong[kept].float().mean())
    assert rate < 0.5 * float(wrong[2:].float().mean()), rate
    again = screened(data, relabel=0.5)
    changed = again.train.labels != data.train.labels
    assert changed.any()
    assert not (changed & ~again.members[0]).any()
    right = again.train.labels == tiny.train.labels
    assert float(right[changed].float().mean()) > 0.6


@pytest.mark.parametrize("name", ["digits", "digits-noisy:rate=0.2,kind=asymmetric"])
def test_right_labels_are_kept_where_none_is_wrong_or_few_classes_hold_them(name):
    """A mixture of two distributions finds two, whatever there is; that networks agree is another witness."""
    data, truth = load_data(name), load_data("digits").train.labels
    right = data.train.labels == truth
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    job = Job(data.train, everyone, data, 1, 0, torch.device("cpu"))
    lost, wrong = [], []
    for agree in (False, True):
        rule = Cleaned(arch="ConvNetD2W32", epochs=10, networks=1, agree=agree)
        kept = rule.screen(job).members[0]
        lost.append(float((~kept & right).sum() / right.sum()))
        wrong.append(float((kept & ~right).sum() / kept.sum()))
    assert lost[0] > 0.2
    assert lost[1] < 0.06
    assert wrong[1] < 0.02


def test_a_class_of_which_nothing_is_left_keeps_all(tiny, monkeypatch):
    monkeypatch.setattr(
        "ddaudit.distillation.screening.clean",
        lambda losses: torch.zeros(len(losses), dtype=torch.bool),
    )
    out = screened(tiny)
    assert out.members[0, 2:].all()
    assert torch.equal(out.train.labels, tiny.train.labels)


FAST = {"loop.iterations": 2, "networks.arch": "ConvNetD1W8", "networks.width": None}
SCREEN = {"records.arch": "ConvNetD1W8", "records.epochs": 1, "records.networks": 1}
TEACHER = {"networks.arch": "ConvNetD1W8BN", "networks.epochs": 2, "labels.epochs": 2}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random+cleaned", SCREEN),
        ("dm+cleaned+fair+balanced", FAST | SCREEN),
        ("sre2l+cleaned", TEACHER | SCREEN | {"loop.iterations": 2}),
        ("idm+rdc", FAST | SCREEN | {"networks.records": 8}),
        ("dc+rdc+fair", FAST | SCREEN | {"loop.outer": 1}),
    ],
)
def test_they_compose_and_run(tiny, name, options):
    data, _ = noisy(tiny)
    made = distill(
        resolve(name, profile="small", options=options), data.train, data=data, ipc=1, seed=0
    )
    assert torch.isfinite(made.images).all()
    assert made.card.recipe["records"]["part"] == "Cleaned"
    assert made.card.source_fingerprint == data.train.fingerprint


def test_shadows_are_screened_each_by_its_own_records(tiny):
    recipe = resolve("random+cleaned", profile="small", options=SCREEN)
    members = torch.zeros(2, len(tiny.train), dtype=torch.bool)
    half = torch.arange(len(tiny.train)) % 8 < 4
    members[0, half], members[1, ~half] = True, True
    for row, made in zip(
        members, distill_many(recipe, tiny.train, members, data=tiny, ipc=2, seed=0), strict=True
    ):
        assert row[made.card.member_indices].all()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dm+cleaned+dp", "outside the ledger"),
        ("ndpdc+cleaned", "outside the ledger"),
        ("dm+rdc+dp", "outside the ledger"),
        ("random+rdc", "matches nothing"),
        ("dm+cleaned+rdc", "screened already"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, why):
    with pytest.raises(BadInput, match=why) as refused:
        resolve(name)
    assert "\n" not in str(refused.value)
