"""Terms against closed forms, and what they may see and change in a loop."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddaudit.distillation import Defense, distill, distill_many, resolve
from ddaudit.distillation.parts import View
from ddaudit.distillation.terms import (
    Adversarial,
    Contrast,
    CrossEntropy,
    TotalVariation,
    added,
    total_variation,
)
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network
from ddaudit.models.network import Body

FAST = {"loop.iterations": 3, "networks.arch": "ConvNetD2W8", "networks.width": None}


def linear(weight, shape=(1, 2, 2)):
    """A network that is one matrix (K, D), without bias."""
    classifier = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    classifier.weight.data = weight
    ones = ((0.0,), (1.0,))
    return Network(
        Body(nn.Flatten(), classifier),
        arch=Arch("mlp"),
        shape=shape,
        num_classes=len(weight),
        mean=ones[0],
        std=ones[1],
    )


def view(images, labels, net=None, std=1.0, classes=None):
    std = torch.full((images.shape[2], 1, 1), std)
    return View(images, images, labels, classes or int(labels.max()) + 1, net, std, 0)


def test_total_variation_of_known_images():
    flat = torch.ones(2, 1, 4, 4)
    board = ((torch.arange(4)[:, None] + torch.arange(4)) % 2).float().expand(2, 1, 4, 4)
    stripes = (torch.arange(4) % 2).float().expand(2, 1, 4, 4)
    assert [float(total_variation(x)) for x in (flat, board, stripes)] == [0.0, 2.0, 1.0]
    runs = torch.stack([flat, board])
    assert TotalVariation().loss(view(runs, torch.tensor([0, 1]))).tolist() == [0.0, 2.0]


def test_cross_entropy_is_that_of_the_network_on_each_run():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 1, 2, 2, generator=g), torch.tensor([0, 1, 2])
    net = linear(torch.randn(3, 4, generator=g))
    got = CrossEntropy().loss(view(x, y, net))
    want = torch.stack([F.cross_entropy(net.body(run), y) for run in x])
    assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_worst_image_of_a_linear_classifier_is_known(steps):
    """Two classes: the margin falls by epsilon times the L1 norm of the weights' difference, in pixels."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(1, 5, 1, 2, 2, generator=g), torch.tensor([0, 1, 0, 1, 1])
    w = torch.randn(2, 4, generator=g)
    got = Adversarial(epsilon=0.1, steps=steps).loss(view(x, y, linear(w), std=0.5))
    sign = 1.0 - 2.0 * y
    margin = sign * (x[0].flatten(1) @ (w[0] - w[1])) - 0.1 / 0.5 * (w[0] - w[1]).abs().sum()
    assert got.item() == pytest.approx(F.softplus(-margin).mean().item(), rel=1e-5)


def test_the_perturbation_is_a_constant_in_the_gradient():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, 1, 2, 2, generator=g).requires_grad_(True)
    y, net = torch.tensor([0, 1, 0, 1]), linear(torch.randn(2, 4, generator=g))
    (got,) = torch.autograd.grad(Adversarial(epsilon=0.1, steps=1).loss(view(x, y, net)).sum(), x)
    flat = x[0].detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(net.body(flat), y), flat)
    moved = flat + 0.1 * slope.sign()
    (want,) = torch.autograd.grad(F.cross_entropy(net.body(moved), y), flat)
    assert torch.allclose(got[0], want, atol=1e-6)


def test_contrast_of_orthogonal_and_of_equal_classes():
    apart = torch.eye(4).view(1, 4, 1, 2, 2)[:, [0, 0, 1, 1]]
    y, net = torch.tensor([0, 0, 1, 1]), linear(torch.zeros(2, 4))
    loss = Contrast(temperature=0.5).loss(view(apart, y, net))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1 / 0.5)), rel=1e-5)
    same = torch.ones(1, 4, 1, 2, 2)
    assert float(Contrast().loss(view(same, y, net))) == pytest.approx(math.log(2), rel=1e-5)


def test_terms_add_up_with_their_weights():
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 3, 1, 2, 2, generator=g), torch.tensor([0, 1, 2])
    seen = view(x, y, linear(torch.randn(3, 4, generator=g)))
    terms = (TotalVariation(weight=2.0), CrossEntropy(weight=0.5))
    want = 2 * terms[0].loss(seen).sum() + 0.5 * terms[1].loss(seen).sum()
    assert float(added(terms, seen)) == pytest.approx(float(want), rel=1e-6)
    assert added((), seen) is None


def test_a_term_moves_the_images_of_every_matching_method(tiny):
    def smooth(recipe):
        return replace(recipe, terms=(*recipe.terms, TotalVariation(weight=5.0)))

    defense = Defense("smooth", "smooth images", "this test", smooth)
    kernel = {"loop.steps": 3}
    for name, options in (("dm", FAST), ("dc", {**FAST, "loop.outer": 1}), ("kip", kernel)):
        recipe = resolve(name, profile="small", options=options)
        plain, smoothed = (
            distill(r, tiny.train, data=tiny, ipc=1, seed=0).images
            for r in (recipe, defense.apply(recipe))
        )
        assert total_variation(smoothed) < 0.98 * total_variation(plain), name


def test_runs_stay_apart_under_terms(tiny):
    """Changing one record changes exactly the runs that may see it."""
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    options = {**FAST, "synthesis.init": "noise", "reader.per_class": 1000}
    recipe = resolve("dm-contrast", profile="small", options=options)
    recipe = replace(recipe, terms=(*recipe.terms, CrossEntropy(), Adversarial()))
    assert recipe.loop.shareable(recipe, 1)
    before, after = (
        distill_many(recipe, d, members, data=tiny, ipc=1, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
    assert same == [not bool(m) for m in members[:, record]]


def test_the_contrast_of_dm_contrast_falls_while_it_distils(tiny):
    net = resolve("dm").networks.make(
        shape=tiny.shape, num_classes=4, seed=9, device=torch.device("cpu")
    )
    losses = []
    for iterations in (1, 40):
        options = {**FAST, "loop.iterations": iterations, "terms.contrast.weight": 20}
        recipe = resolve("dm-contrast", profile="small", options=options)
        made = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)
        images = ((made.images - 0.4) / 0.25)[None]
        losses.append(float(Contrast().loss(view(images, made.labels, net))))
    assert losses[1] < losses[0]


def test_options_of_terms_are_named_by_position_or_class_and_stand_on_the_card(tiny):
    recipe = resolve(
        "dm-contrast",
        profile="small",
        options={**FAST, "terms.0.weight": "0.3", "terms.totalvariation.weight": "1"},
    )
    assert recipe.terms == (Contrast(weight=0.3), TotalVariation(weight=1.0))
    card = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card
    assert card.recipe["terms"][1] == {"part": "TotalVariation", "weight": 1.0}
    assert "terms.0.weight = 0.3 (source: 0.1)" in card.deviations


def test_bad_terms_are_one_line(tiny):
    for path, message in (
        ("terms.5.weight", r"Give one of 0 \(Contrast\), 1 \(TotalVariation\)"),
        ("terms", "Say which: terms.0.OPTION=VALUE"),
        ("terms.contrast", "Give one of 0"),
        ("terms.0.size", "no option 'size' in Contrast"),
        ("terms.0.weight", "Contrast.weight must be positive"),
    ):
        with pytest.raises(BadInput, match=message):
            resolve("dm-contrast", options={path: "-1"})
    with pytest.raises(BadInput, match="There is none here"):
        resolve("dm", options={"terms.0.weight": "1"})
    with pytest.raises(BadInput, match="minimises no loss that terms could be added to"):
        replace(resolve("random"), terms=(TotalVariation(),))
    kip = replace(resolve("kip", options={"loop.steps": 1}), terms=(CrossEntropy(),))
    with pytest.raises(BadInput, match="CrossEntropy: needs a network"):
        distill(kip, tiny.train, data=tiny, ipc=1, seed=0)
