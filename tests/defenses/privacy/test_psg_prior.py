"""PSG with a generator: the published loops, a ledger that counts them, a set that teaches."""

import pytest
import torch

from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation import distill, distill_sizes, resolve
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.targets import Joint
from ddaudit.errors import BadInput
from ddaudit.models import Arch, build
from ddaudit.training import PROTOCOLS, predict, train_many

FAST = {
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "reader.batch": 60,
    "reader.delta": 1e-3,
}


def test_loops_and_optimiser_are_the_published_ones():
    """Sheet A.1: 1000 networks, outer 2, inner 10, batch_loop 10, Adam 0.01; the same at every IPC."""
    recipe = resolve("psg-prior")
    assert {recipe.loop.queries(ipc) for ipc in (1, 10, 50)} == {1000 * 2 * 10}
    assert (recipe.loop.optimiser, recipe.loop.lr) == ("adam", 0.01)
    assert recipe.loop.schedule(50).inner == 10
    assert (recipe.synthesis.code, recipe.synthesis.kind) == (10, "dcgan")
    assert recipe.at("small").loop.queries(1) == 400


def test_the_claim_holds_and_counts_every_query(tiny):
    recipe = resolve(
        "psg-prior", profile="small", options={**FAST, "loop.iterations": 1, "reader.epsilon": 5.0}
    )
    claim = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card.privacy
    (entry,) = claim.ledger
    assert (entry.count, entry.q) == (20, 60 / 240)
    assert 4.9 < claim.epsilon <= 5.0
    assert claim.cross_checks["prv"] <= 5.0 * 1.01


def test_one_record_moves_the_gradient_sum_by_the_clip(tiny):
    data, clip = tiny.train, 0.1
    net = build(
        Arch.parse("ConvNetD2W8"),
        shape=data.shape,
        num_classes=4,
        seed=0,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )

    def total(members):
        gate = PrivateSource(data, members, noise_seed=0)
        gate.plan(Plan(torch.ones(len(data)), clip, 1e-9, 1, 1.0))
        return gate.noisy_sum(
            "q",
            lambda index: GradientMatch().signals(
                net, 2 * data.pixels(index) - 1, data.labels[index]
            ),
            lambda index: Joint().rows(data, index),
        )

    everyone = torch.ones(1, len(data), dtype=torch.bool)
    full = total(everyone)
    for record in (0, 77, 200):
        without = everyone.clone()
        without[0, record] = False
        moved = float((full - total(without)).norm())
        assert 0.99 * clip < moved <= clip * (1 + 1e-3)  # gradients are long, so clipping is active


def test_networks_learn_from_it(tiny):
    """Four classes, so chance is 0.25."""
    recipe = resolve(
        "psg-prior",
        profile="small",
        options={
            **FAST,
            "loop.iterations": 8,
            "reader.batch": 30,
            "reader.sigma": 0.3,
            "reader.noise_seed": 0,
        },
    )
    made = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)
    (net,) = train_many(
        [(made.images, made.labels)],
        arch=Arch.parse("ConvNetD2W8"),
        num_classes=4,
        mean=tiny.mean,
        std=tiny.std,
        protocol=PROTOCOLS["quick"].for_data(""),
        seeds=[0],
        device="cpu",
    )
    right = predict(net, tiny.test.images).argmax(1).cpu() == tiny.test.labels
    assert float(right.float().mean()) > 0.6


def test_its_questions_depend_on_the_set(tiny):
    recipe = resolve("psg-prior", profile="small", options=FAST)
    assert not recipe.loop.reusable(recipe, 1)
    with pytest.raises(BadInput, match="depend on the synthetic set"):
        distill_sizes(recipe, tiny.train, [1, 2], data=tiny, seed=0)
