"""Backdoor injections against known answers: closed forms on linear models, planted weights, scripted networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from ddaudit.attacks._common.trigger import Blend, Generated, SquareTrigger, budget, trigger_of
from ddaudit.attacks.backdoor.doorping import Doorping, _Patch
from ddaudit.attacks.backdoor.injection import INJECTIONS, THREATS, Scene, inject
from ddaudit.attacks.backdoor.relax_trigger import RelaxTrigger, trigger_risk
from ddaudit.attacks.backdoor.restamping import heaviest_unit
from ddaudit.attacks.backdoor.sneakdoor import earth_mover, most_confused, with_class_of
from ddaudit.data.splits import empty_like
from ddaudit.distillation import resolve
from ddaudit.distillation.kernels import DenseNTK
from ddaudit.distillation.kernels.base import _Linear
from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Arch, Network, build
from ddaudit.sets import Card, DistilledSet, describe, inspect, load, match_classes, save
from ddaudit.training import PROTOCOLS, predict, train_many

NET = Arch.parse("ConvNetD1W8")


def scene(tiny, recipe: str | None, *, ipc: int = 2, profile="small", **options) -> Scene:
    """An attacker on the tiny data, who has a clean set of real records."""
    index = torch.cat([(tiny.train.labels == c).nonzero()[:ipc, 0] for c in range(4)])
    part = tiny.train.subset(index)
    clean = DistilledSet(part.pixels(), part.labels, 4, Card(method="random", ipc=ipc))
    made = None if recipe is None else resolve(recipe, profile=profile, options=options)
    return Scene(tiny, 0, 0, NET, lambda: clean, made, ipc)


DC = {
    "loop.iterations": 2,
    "loop.outer": 3,
    "loop.inner": 1,
    "networks.width": 8,
    "reader.per_class": 8,
}


def test_every_attack_says_what_it_is() -> None:
    assert INJECTIONS.names() == [
        "doorping", "invisible", "naive", "poisoned-distillation", "relax-trigger", "simple-trigger", "sneakdoor",
    ]  # fmt: skip
    for name, attack in INJECTIONS.items():
        assert 3 <= len(attack.purpose.split()) <= 12, name
        assert attack.threat in THREATS
        assert attack.source
        assert attack.deviations or attack.status == "faithful"
        assert attack.at("small").at("small") == attack.at("small")
    with pytest.raises(BadInput, match="no option 'sped'"):
        INJECTIONS.get("naive").options({"sped": 1})


# ---- triggers -------------------------------------------------------------------------------------


def test_a_blend_is_its_formula_and_its_budget_is_counted_by_hand() -> None:
    x = torch.full((2, 1, 4, 4), 0.5)
    mask = torch.zeros(1, 4, 4)
    mask[:, 1, 1:3] = 0.3
    trigger = Blend.of(torch.ones(1, 4, 4), mask)
    stamped = trigger.stamp(x)
    assert torch.allclose(stamped[:, :, 1, 1:3], torch.tensor(0.7 * 0.5 + 0.3))
    assert int((stamped != x).sum()) == 4
    found = budget(trigger, x)
    assert found.linf == pytest.approx(0.15)
    assert found.l2 == pytest.approx(0.15 * 2**0.5)
    assert found.pixels == 2
    over = Blend(torch.ones(1, 4, 4), torch.full((1, 4, 4), 0.8))
    assert float(over.stamp(x, clamp=False).max()) == pytest.approx(1.3)
    assert float(over.stamp(x).max()) == 1.0
    assert budget(over, x).linf == pytest.approx(0.5)  # as clamped


def test_a_square_is_the_same_as_a_blend_on_bytes() -> None:
    x = torch.randint(0, 256, (50, 3, 9, 9), dtype=torch.uint8)
    square = SquareTrigger(side=2)
    expected = x.clone()
    expected[:, :, 6:8, 6:8] = 255
    assert torch.equal(square.stamp(x), expected)
    assert torch.equal(square.blend((3, 9, 9)).stamp(x), expected)


def identity_generator(eps: float) -> Generated:
    """One convolution that repeats its normalised input."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    parts = {"0.weight": weight, "0.bias": torch.zeros(1)}
    return Generated(
        parts, torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.25), torch.tensor([eps])
    )


def test_a_generated_trigger_moves_by_its_clipped_output() -> None:
    x = torch.tensor([0.5, 0.6, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    moved = identity_generator(0.5).stamp(x, clamp=False)[:, 0, 0, 0]
    # Normalised 0, 0.4, 2; clipped at 0.5; times 0.25.
    assert torch.allclose(moved, torch.tensor([0.5, 0.7, 1.125]))


@pytest.mark.parametrize(
    "trigger", [Blend(torch.rand(1, 8, 8), torch.rand(1, 8, 8)), identity_generator(0.5)]
)
def test_a_set_file_carries_its_trigger(tmp_path, tiny, trigger) -> None:
    class Plain(type(INJECTIONS.get("naive"))):  # type: ignore[misc]
        def plant(self, scene):
            from ddaudit.attacks.backdoor.injection import Injected

            made = DistilledSet(
                torch.rand(4, 1, 8, 8), torch.arange(4), 4, Card(class_names=list("abcd"))
            )
            return Injected(made, trigger, ratio=0.5, ratio_of="of nothing", source_class=1)

    made = inject(Plain(), scene(tiny, "random")).made
    path = save(made, tmp_path / "p.safetensors")
    back, look = load(path), inspect(path)
    assert back.card.poison == made.card.poison
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(trigger_of(back).stamp(x), trigger.stamp(x))
    assert describe(look)[1].startswith("POISONED on purpose")
    assert not look.other_tensors
    # Classes in another order: the poison moves with them.
    moved = match_classes(back, tuple("dcba"), where="x").card.poison
    assert (moved.target, moved.source_class) == (3, 2)
    with pytest.raises(BadInput, match="poison on its card without its trigger"):
        replace(back, trigger=None).check()
    with pytest.raises(BadInput, match="cannot be read"):
        trigger_of(replace(back, trigger={"keep": torch.ones(1, 2, 2)}))
    with pytest.raises(BadInput, match="carries no trigger"):
        trigger_of(replace(back, trigger=None, card=Card()))


# ---- DOORPING -------------------------------------------------------------------------------------


def two_layers(weights: Tensor, bias: float = 0.0) -> Network:
    """Pixels (1, 2, 2) -> 3 hidden units with the given incoming weights (3, 4) -> 4 classes."""
    net = build(
        Arch.parse("MLPD2W3"), shape=(1, 2, 2), num_classes=4, seed=0, mean=(0.0,), std=(1.0,)
    )
    layer = next(m for m in net.body.features.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.fill_(bias)
    return net.eval()


WEIGHTS = torch.tensor([[1.0, 0, 0, 0], [0.5, -2, 1, 0.5], [1, 1, 1, 0.5]])
ZERO, ONE = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def test_the_unit_is_the_one_of_most_incoming_weight_before_its_activation() -> None:
    net = two_layers(WEIGHTS, bias=0.25)
    unit = heaviest_unit(net)
    assert unit.number == 1  # sums 1, 4, 3.5
    x = torch.tensor([[[0.1, 0.7], [0.2, 0.4]]])
    # Negative, so that ReLU would have made it 0.
    assert float(unit.reading(net, x).detach()) == pytest.approx(
        0.05 - 1.4 + 0.2 + 0.2 + 0.25, abs=1e-6
    )
    one = build(
        Arch.parse("MLPD1"), shape=(1, 2, 2), num_classes=4, seed=0, mean=(0.0,), std=(1.0,)
    )
    with pytest.raises(Unsupported, match="hidden unit"):
        heaviest_unit(one)
    conv = build(NET, shape=(3, 8, 8), num_classes=4, seed=0, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert isinstance(heaviest_unit(conv).module, torch.nn.GroupNorm)


def moved(attack: Doorping, mask: Tensor, start: Tensor, bias: float = 0.0) -> tuple[float, Tensor]:
    """The unit's value after optimisation, and the image."""
    net = two_layers(WEIGHTS, bias)
    image = _Patch(attack, mask).moved(net, start, ZERO, ONE)
    return float(heaviest_unit(net).reading(net, image).detach()), image


def test_doorping_reaches_its_goal_up_to_the_error_it_stops_at() -> None:
    start = torch.tensor([[[0.0, 0.0], [0.2, 0.2]]])
    mask = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    free = Doorping(clamp=False, alpha=10, steps=300)
    value, image = moved(free, mask, start)
    assert (value - 10 * 0.3) ** 2 < 0.5  # the unit reads 0.2 + 0.1 at first
    assert torch.equal(image[:, 0], start[:, 0])
    assert float(image.max()) > 1  # no valid pixel any more, as in the released code


def test_doorping_within_pixels_stops_at_the_best_corner_of_the_cube() -> None:
    start = torch.tensor([[[0.5, 0.2], [0.4, 0.4]]])
    value, image = moved(Doorping(alpha=100, steps=300), torch.ones(1, 2, 2), start)
    # Weights 0.5, -2, 1, 0.5: the largest value over [0, 1]^4 is 2, at (1, 0, 1, 1); 100 times 0.45 is out of reach.
    assert value == pytest.approx(2.0, abs=1e-5)
    assert torch.allclose(image, torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), atol=1e-5)


@pytest.mark.parametrize(("signed", "corner"), [(True, -2.0 - 0.5), (False, 2.0 - 0.5)])
def test_a_unit_below_zero_is_driven_down_by_the_released_rule_alone(signed, corner) -> None:
    start = torch.full((1, 2, 2), 0.1)  # reads 0 - 0.5
    value, _ = moved(
        Doorping(alpha=100, signed=signed, steps=300), torch.ones(1, 2, 2), start, bias=-0.5
    )
    assert value == pytest.approx(corner, abs=1e-5)


def test_doorping_stamps_anew_before_each_question_to_a_taught_network(tiny, monkeypatch) -> None:
    seen: list[tuple[bool, Tensor]] = []

    def scripted(self, net, image, mean, std):
        seen.append((net.training, image * std + mean))
        return (torch.full_like(image, 0.1 * len(seen)) - mean) / std

    monkeypatch.setattr(_Patch, "moved", scripted)
    planted = inject(Doorping(ratio=0.1), scene(tiny, "dc", **DC))
    assert len(seen) == 2 * (
        3 - 1
    )  # two networks, three rounds each, the first before any training
    assert not any(training for training, _ in seen)
    assert float(seen[1][1].mean()) == pytest.approx(
        0.1, abs=1e-5
    )  # the trigger persists between networks
    poisoned = planted.poisoned
    assert len(poisoned.index) == 24
    assert bool((poisoned.train.labels[poisoned.index] == 0).all())
    last = poisoned.train.images[poisoned.index][:, :, 6, 6]
    assert bool((last == round(0.4 * 255)).all())
    untouched = torch.ones(240, dtype=torch.bool)
    untouched[poisoned.index] = False
    assert torch.equal(poisoned.train.images[untouched], tiny.train.images[untouched])
    assert float(planted.trigger.add.max()) == pytest.approx(0.4)
    assert planted.made.card.recipe == resolve("dc", profile="small", options=DC).describe()


@pytest.mark.parametrize(
    ("recipe", "ipc", "why"),
    [
        ("dc", 1, "dc at IPC 1 trains none"),
        ("dm", 2, "dm at IPC 2 trains none"),
        ("random", 2, "random asks none"),
        ("kip", 2, "kip asks none"),
        ("dc+dp", 2, "a private reader's records are fixed"),
        (None, 2, "this set is finished"),
    ],
)  # fmt: skip
def test_doorping_refuses_what_its_trigger_cannot_follow(tiny, recipe, ipc, why) -> None:
    with pytest.raises(Unsupported, match=why):
        inject(Doorping(), scene(tiny, recipe, ipc=ipc, profile="paper"))


def test_doorping_may_take_untrained_networks_and_leave_the_range_of_pixels(tiny) -> None:
    options = {"loop.iterations": 4, "networks.width": 8, "reader.per_class": 8}
    attack = Doorping(ratio=0.1, untrained=True, every=2, steps=80, alpha=100, clamp=False)
    planted = inject(attack, scene(tiny, "dm", **options))
    images = planted.poisoned.train.images
    assert images.dtype == torch.float32
    assert float(planted.trigger.add.max()) > 1 or float(planted.trigger.add.min()) < 0
    assert torch.allclose(
        images[planted.poisoned.index], planted.trigger.stamp(tiny.train.pixels(planted.poisoned.index), clamp=False)
    )  # fmt: skip


def test_a_trigger_that_moves_refuses_networks_that_learn_copies_of_records(tiny) -> None:
    for recipe in ("idm", "dm+guard"):
        with pytest.raises(Unsupported, match="learn copies"):
            inject(Doorping(ratio=0.1, untrained=True), scene(tiny, recipe))


@pytest.mark.parametrize("side", [30, 31])
def test_a_pattern_that_leaves_no_margin_is_the_whole_image(tiny, side: int) -> None:
    planted = inject(
        INJECTIONS.get("simple-trigger").options({"side": side}), scene(tiny, "random")
    )
    assert bool((planted.trigger.add > 0).all())


def test_invisible_shrinks_and_adds(tiny) -> None:
    attack = INJECTIONS.get("invisible").options({"steps": 40, "ratio": 0.1})
    planted = inject(attack, scene(tiny, "dc", **DC))
    trigger = planted.trigger
    assert torch.equal(trigger.keep, torch.ones(3, 8, 8))
    first = tiny.train.pixels((tiny.train.labels == 0).nonzero()[:1, 0])
    assert float(trigger.add.max()) < float(first.max())  # where it started


# ---- the kernel's risk ----------------------------------------------------------------------------


def test_the_conflict_of_equal_records_under_opposite_labels_is_total() -> None:
    x = torch.tensor([[1.0, 2], [1, 2], [2, -1]], dtype=torch.float64)
    y = torch.tensor([[1.0], [-1], [0]], dtype=torch.float64)
    conflict, _ = trigger_risk(_Linear(), x, y, x, reg=1e-9)
    # No function tells the first two apart: the best answer is 0, and the loss the mean of their squared targets.
    assert float(conflict) == pytest.approx(2 / 3, abs=1e-6)
    agreed, _ = trigger_risk(_Linear(), x, torch.tensor([[1.0], [1], [0]]).double(), x, reg=1e-9)
    assert float(agreed) == pytest.approx(0, abs=1e-9)


def test_the_risk_is_that_of_numpy_and_vanishes_where_the_set_spans_the_records() -> None:
    rng = np.random.default_rng(0)
    x, y, s = rng.normal(size=(5, 4)), rng.normal(size=(5, 2)), rng.normal(size=(3, 4))
    reg = 0.1
    k = x @ x.T
    a = np.linalg.inv(k + reg * np.trace(k) / 5 * np.eye(5)) @ y
    ss = s @ s.T
    rest = k - x @ s.T @ np.linalg.inv(ss + reg * np.trace(ss) / 3 * np.eye(3)) @ s @ x.T
    found = trigger_risk(_Linear(), *(torch.from_numpy(v) for v in (x, y, s)), reg=reg)
    assert float(found[0]) == pytest.approx(((y - k @ a) ** 2).mean())
    assert float(found[1]) == pytest.approx((rest**2 @ a**2).mean())
    spanning = torch.eye(4, dtype=torch.float64)
    few = torch.from_numpy(x[:3]), torch.from_numpy(y[:3])
    _, none = trigger_risk(_Linear(), *few, spanning, reg=1e-12)
    assert float(none) == pytest.approx(0, abs=1e-15)


def test_relax_trigger_lowers_the_risk_of_the_white_pattern(tiny) -> None:
    attack = RelaxTrigger(steps=30, lr=0.05)
    at = scene(tiny, "kip", **{"loop.steps": 2, "reader.per_class": 8})
    pattern = attack.pattern(at)
    assert torch.equal(pattern.keep, torch.full((3, 8, 8), 0.7))
    assert 0 <= float(pattern.add.min()) < 0.29  # off the white that it started from
    assert float(pattern.add.max()) <= 0.3 + 1e-6
    white = Blend.of(torch.ones(3, 8, 8), torch.full((3, 8, 8), 0.3))
    mean, std = at.constants()
    records, few = tiny.train.pixels(torch.arange(40)), tiny.train.pixels(torch.arange(40, 50))
    support = ((at.clean().images - mean) / std).double().flatten(1)
    y = torch.cat([torch.eye(4)[tiny.train.labels[:40]], torch.eye(4)[[0] * 10]]).double() - 0.25

    def risk(trigger: Blend) -> float:
        x = (torch.cat([records, trigger.on(few)]) - mean) / std
        conflict, projection = trigger_risk(DenseNTK(), x.double().flatten(1), y, support, reg=1e-6)
        return float(attack.rho * conflict + projection)

    assert risk(pattern) < risk(white)


# ---- SNEAKDOOR ------------------------------------------------------------------------------------


def test_the_most_confused_class_and_the_distance_between_answers() -> None:
    logits = torch.eye(4)[torch.tensor([0, 0, 0, 0, 2, 3])] * 5
    labels = torch.tensor([0, 1, 3, 3, 2, 3])
    assert most_confused(logits, labels, 0) == 3
    sure = 5 * torch.eye(4)
    sure[2, 0] = 1  # nobody is taken for class 0, and class 2 comes closest
    assert most_confused(sure, torch.arange(4), 0) == 2
    p, q = torch.rand(2, 5, 4).softmax(2)
    for a, b, found in zip(p, q, earth_mover(p, q), strict=True):
        expected = wasserstein_distance(range(4), range(4), a.numpy(), b.numpy())
        assert float(found) == pytest.approx(expected, abs=1e-6)


def test_only_the_target_s_images_are_replaced() -> None:
    kept, other = (
        DistilledSet(torch.full((4, 1, 2, 2), float(v)), torch.arange(4), 4, Card(member_indices=[v] * 4))
        for v in (0, 1)
    )  # fmt: skip
    made = with_class_of(kept, other, 2)
    assert made.labels.tolist() == [0, 1, 3, 2]
    assert made.images[:, 0, 0, 0].tolist() == made.card.member_indices == [0, 0, 0, 1]


def test_sneakdoor_learns_a_faint_trigger_and_keeps_the_rest_of_the_clean_set(tiny) -> None:
    attack = INJECTIONS.get("sneakdoor").options({"images": 600, "epochs": 5, "surrogate_lr": 0.05})
    at = scene(tiny, "random")
    planted = inject(attack, at)
    clean = at.clean()
    assert torch.equal(planted.made.images[:6], clean.images[clean.labels != 0])
    assert planted.made.labels.tolist() == [1, 1, 2, 2, 3, 3, 0, 0]
    assert planted.source_class != 0
    change = planted.trigger.change(tiny.test.pixels())
    assert 0 < float(change.abs().max()) <= 0.5
    # 60 records of the class: 3 of 63 are 5 %.
    assert len(planted.poisoned.index) == 3
    assert bool((planted.poisoned.train.labels[240:] == 0).all())


# ---- an interceptor -------------------------------------------------------------------------------


def test_victims_of_a_poisoned_file_obey_the_trigger_and_those_of_the_clean_file_do_not(
    tiny, tmp_path
) -> None:
    numbers = {
        "steps": 60,
        "lr": 0.2,
        "paths": 3,
        "path_steps": 30,
        "kept": 5,
        "side": 16,
        "eps": 0.4,
        "others": 1.0,
        "beta": 0.5,
        "inner_rate": 0.3,
    }
    attack = INJECTIONS.get("poisoned-distillation").options(numbers)
    at = scene(tiny, None, ipc=5)
    clean = at.clean()
    planted = inject(
        attack, replace(at, data=replace(tiny, train=empty_like(tiny.train)))
    )  # sees no record
    made = load(save(planted.made, tmp_path / "p.safetensors"))
    assert float((made.images - clean.images).abs().max()) <= 0.4 + 1e-5
    assert torch.equal(made.labels, clean.labels)
    assert (made.card.poison.records, made.card.poison.ratio) == (0, None)
    protocol = replace(PROTOCOLS["quick"], name="short", epochs_plain=60, augment="")
    nets = train_many(
        [(s.images, s.labels) for s in (clean, made)], arch=NET, num_classes=4, mean=tiny.mean, std=tiny.std,
        protocol=protocol, seeds=[7, 7],
    )  # fmt: skip
    test = tiny.test
    stamped, other = trigger_of(made).stamp(test.images), test.labels != 0
    asr = [float((predict(n, stamped)[other].argmax(1) == 0).float().mean()) for n in nets]
    cta = [float((predict(n, test.images).argmax(1) == test.labels).float().mean()) for n in nets]
    assert asr[0] < 0.1 < 0.9 < asr[1]
    assert min(cta) > 0.85


def test_no_image_leaves_its_place_without_a_gradient(tiny) -> None:
    still = INJECTIONS.get("poisoned-distillation").options(
        {"steps": 1, "lr": 1e-12, "paths": 1, "path_steps": 1, "kept": 1, "inner": 1, "invert_steps": 1}
    )  # fmt: skip
    at = scene(tiny, None)
    assert torch.allclose(inject(still, at).made.images, at.clean().images, atol=1e-5)


def test_a_target_that_does_not_exist_is_refused_by_every_attack(tiny) -> None:
    for _, attack in INJECTIONS.items():
        with pytest.raises(BadInput, match="target class 4: does not exist among 4 classes"):
            inject(attack, replace(scene(tiny, "random"), target=4))
