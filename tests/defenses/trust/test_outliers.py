"""TrustDD's outliers: how records are spoilt, which gradients are matched, what a set holds."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.outliers import OutlierMatch, invert, jigsaw, pixelate, spoilt_records
from ddaudit.distillation.parts import View
from ddaudit.errors import BadInput
from ddaudit.training import EvaluationProtocol
from ddaudit.training.losses import to_uniform


def test_records_are_spoilt_as_published():
    """The published jigsaw of 32 x 32: quadrants move, with strips of 8 pixels swapped in two of them."""
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = jigsaw(x)
    assert torch.equal(found[:, :, :8, :16], x[:, :, 8:16, :16])
    assert torch.equal(found[:, :, 8:16, :16], x[:, :, :8, :16])
    assert torch.equal(found[:, :, :16, 16:], x[:, :, 16:, :16])
    assert torch.equal(found[:, :, 16:, :16], x[:, :, 16:, 16:])
    assert torch.equal(found[:, :, 16:, 16:24], x[:, :, :16, 24:])
    assert torch.equal(found[:, :, 16:, 24:], x[:, :, :16, 16:24])
    assert jigsaw(x[:, :, :9, :11]).shape == (2, 3, 9, 11)
    assert torch.equal(invert(x), torch.cat([x[:, :1], 1 - x[:, 1:]], 1))
    assert torch.equal(invert(x[:, :1]), 1 - x[:, :1])
    assert len(pixelate(x)[0, 0].unique()) == 36  # 32 / 5 is 6 squares a side


def test_slots_take_turns_and_only_members_are_spoilt(tiny):
    members = torch.zeros(len(tiny.train), dtype=torch.bool)
    members[7] = True
    x = spoilt_records(tiny.train, members, torch.arange(4), torch.Generator().manual_seed(0))
    own = tiny.train.pixels(torch.tensor([7]))
    for k, wanted in enumerate((jigsaw(own), invert(own), pixelate(own))):
        torch.testing.assert_close(x[k : k + 1], wanted)
    assert not torch.equal(x[3:], own)


def test_the_term_matches_gradients_of_the_loss_to_the_uniform_distribution(tiny):
    """logsumexp(z) - mean(z) is the cross-entropy to it: one slot, one spoilt record, by autograd."""
    net = Fresh("ConvNetD1W8").make(
        shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu")
    )
    members = torch.zeros(1, len(tiny.train), dtype=torch.bool)
    members[0, 7] = True
    job = Job(tiny.train, members, tiny, 1, 0, torch.device("cpu"))
    recipe = resolve("trustdd")
    mean, std = recipe.constants(tiny)
    term = OutlierMatch(per_slot=1, augment="").read(job, (mean, std))
    ours = torch.randn(
        1, 4, *tiny.shape, generator=torch.Generator().manual_seed(1)
    ).requires_grad_(True)
    view = View(ours, ours, torch.arange(4), 4, net, std, 0, outliers=ours)
    own = tiny.train.pixels(torch.tensor([7]))

    def gradient(x, create_graph=False):
        params = list(net.body.parameters())
        grads = torch.autograd.grad(to_uniform(net.body(x)), params, create_graph=create_graph)
        return torch.cat([g.flatten() for g in grads])

    real = [gradient((f(own) - mean) / std) for f in (jigsaw, invert, pixelate)]
    made = [gradient(ours[0, k : k + 1], True) for k in range(3)]
    wanted = GradientMatch().distance(net, torch.stack(real)[None], torch.stack(made)[None]).sum()
    (slope,) = torch.autograd.grad(wanted, ours)
    (found,) = torch.autograd.grad(term.loss(view).sum(), ours)
    torch.testing.assert_close(found[:, :3], slope[:, :3], rtol=1e-4, atol=1e-6)


FAST = {"loop.iterations": 2, "networks.arch": "ConvNetD1W8", "networks.width": None}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trustdd", FAST | {"loop.outer": 2, "loop.inner": 1}),
        ("dm+outliers", FAST),
        ("dm+fair+outliers+masked", FAST),
        ("idc+outliers", FAST | {"loop.outer": 1, "networks.records": 8}),
    ],
)
def test_a_set_holds_outliers_and_says_how_to_train_on_them(tiny, name, options):
    recipe = resolve(name, profile="small", options=options)
    made = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)
    assert made.outliers.shape == made.images.shape
    assert torch.isfinite(made.outliers).all()
    stated = EvaluationProtocol.from_card(made.card.protocol)
    assert stated.outlier_weight == 0.5
    assert made.card.bytes.outliers == 4 * made.outliers.nelement()
    longer = replace(recipe, loop=replace(recipe.loop, iterations=4))
    moved = distill(longer, tiny.train, data=tiny, ipc=2, seed=0).outliers - made.outliers
    assert moved.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("random+outliers", "neither gradients nor mean embeddings"),
        ("mtt+outliers", "neither gradients nor mean embeddings"),
        ("ndpdc+outliers", "outside the ledger"),
        ("trustdd+dp", "no private reader shows"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, why):
    with pytest.raises(BadInput, match=why) as refused:
        resolve(name)
    assert "\n" not in str(refused.value)


def test_uniform_labels_are_the_published_loss():
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert float(F.cross_entropy(z, torch.full((5, 4), 0.25))) == pytest.approx(
        float((z.logsumexp(1) - z.mean(1)).mean())
    )
