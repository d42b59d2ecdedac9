"""Options of protocols in the engine: against torch written out, and the same by every strategy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build
from ddaudit.training import PROTOCOLS, EvaluationProtocol, Extras, predict, train_many
from ddaudit.training.views import draw_boxes

SMALL = Arch.parse("ConvNetD2W8")
# A bias before a norm has a gradient of 0 but for rounding, which AdamW divides by itself.
NO_NORM = Arch.parse("ConvNetD2W8NN")
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
ADAM = {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.01}
COSINE = {"lr_schedule": "cosine", "epochs_plain": 6, "epochs": 6}
OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": ADAM,
    "cosine": COSINE,
    "views": {"crop": (0.3, 1.0), "flip": True, "cutmix": 0.7},
    "cutmix after DSA's draw": {"augment": "color_crop_cutout_flip_scale_rotate", "cutmix": 1.0},
    "kl": {"loss": "kl", "temperature": 4.0, "cutmix": 1.0},
    "soft-ce": {"loss": "soft-ce"},
    "hard-ce": {"loss": "hard-ce", "cutmix": 1.0},
    "mse": {"loss": "mse", "cutmix": 1.0},
    "rded": {**ADAM, **COSINE, "loss": "kl", "temperature": 20.0, "crop": (0.08, 1.0), "flip": True,
             "cutmix": 1.0},
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stored:
    boxes: Tensor
    flips: Tensor
    logits: Tensor
    partners: Tensor | None = None
    patches: Tensor | None = None


def protocol(steps: int = 12, **changes: Any) -> EvaluationProtocol:
    plain = {"augment": "", "max_steps": steps, "batch_size": 8}
    return replace(PROTOCOLS["quick"], **{**plain, **changes})


def soft_set(seed: int, n: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=g), torch.randn(n, 4, generator=g).mul(2).softmax(1)


def train(
    sets: Sequence[tuple[Tensor, Tensor]], how: EvaluationProtocol, strategy: str = "loop",
    extras: Sequence[Extras] | None = None,
) -> list[Network]:  # fmt: skip
    return train_many(
        sets, arch=arch_for(how), num_classes=4, mean=MEAN, std=STD, protocol=how,
        seeds=range(7, 7 + len(sets)), strategy=strategy, extras=extras,  # type: ignore[arg-type]
    )  # fmt: skip


def difference(a: Network, b: Network) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)


def arch_for(how: EvaluationProtocol) -> Arch:
    return NO_NORM if how.optimiser == "adamw" else SMALL


def start(arch: Arch = SMALL) -> Network:
    return build(arch, shape=(3, 8, 8), num_classes=4, seed=7, mean=MEAN, std=STD)


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


# ---- every strategy --------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_stacked_equals_loop(option: str) -> None:
    sets = [soft_set(s) for s in range(3)]
    how = protocol(**OPTIONS[option])
    loop, stacked = train(sets, how), train(sets, how, "stacked")
    assert [n.trained_with for n in stacked] == ["stacked"] * 3
    assert max(difference(a, b) for a, b in zip(loop, stacked, strict=True)) < 5e-5
    neutral = {"loss": "ce", "augment": "", "crop": None, "flip": False, "cutmix": 0.0}
    plain = train(sets, protocol(**{**OPTIONS[option], **neutral, "lr_schedule": "step"}))
    assert (difference(loop[0], plain[0]) > 1e-3) == (option not in ("adamw", "soft-ce"))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["rded", "mse"])
def test_compiled_equals_loop(option: str) -> None:
    sets = [soft_set(s, 21) for s in range(2)]
    how = protocol(**OPTIONS[option])
    loop, compiled = train(sets, how), train(sets, how, "compiled")
    assert [n.trained_with for n in compiled] == ["compiled"] * 2
    assert max(difference(a, b) for a, b in zip(loop, compiled, strict=True)) < 5e-5


@pytest.mark.parametrize("strategy", ["loop", "stacked"])
def test_a_neighbour_changes_no_view(strategy: str) -> None:
    how = protocol(**OPTIONS["views"])
    [alone] = train([soft_set(0)], how, strategy)
    assert difference(alone, train([soft_set(0), soft_set(1)], how, strategy)[0]) < 5e-5


# ---- against torch, written out ----------------------------------------------------------------


def test_adamw_with_cosine_is_torchs() -> None:
    images, labels = soft_set(0)
    epochs = 25
    how = protocol(
        None, **ADAM, lr_schedule="cosine", epochs_plain=epochs, batch_size=64  # type: ignore[arg-type]
    )  # fmt: skip
    [ours] = train([(images, labels)], how)
    theirs = start(NO_NORM)
    optimizer = torch.optim.AdamW(theirs.body.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(theirs.body(normalised(images)), labels).backward()
        optimizer.step()
        schedule.step()
    assert difference(ours, theirs) < 2e-4  # full batches come in another order
    [constant] = train([(images, labels)], replace(how, lr_schedule="step", decay=1.0))
    assert difference(constant, theirs) > 2e-3


def test_two_cuts_are_torchs_multi_step_schedule() -> None:
    # IDC's: milestones at 2/3 and 5/6 of the epochs, momentum kept.
    images, labels = soft_set(0)
    epochs = 12
    how = protocol(
        None, lr_schedule="thirds", decay=0.2, epochs_plain=epochs, batch_size=64  # type: ignore[arg-type]
    )  # fmt: skip
    [ours] = train([(images, labels)], how)
    theirs = start()
    optimizer = torch.optim.SGD(
        theirs.body.parameters(), lr=how.lr, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, milestones=[2 * epochs // 3, 5 * epochs // 6], gamma=0.2
    )
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(theirs.body(normalised(images)), labels).backward()
        optimizer.step()
        schedule.step()
    assert difference(ours, theirs) < 2e-5
    [once] = train([(images, labels)], replace(how, lr_schedule="step"))
    assert difference(once, theirs) > 1e-4


def test_kl_training_is_torchs() -> None:
    images, labels = soft_set(0)
    how = protocol(None, loss="kl", temperature=4.0, epochs_plain=8, batch_size=64,  # type: ignore[arg-type]
                   lr_schedule="cosine")  # fmt: skip
    [ours] = train([(images, labels)], how)
    theirs = start()
    optimizer = torch.optim.SGD(
        theirs.body.parameters(), lr=how.lr, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    teacher = F.softmax(labels.log() / 4, 1)
    for _ in range(8):
        optimizer.zero_grad()
        student = F.log_softmax(theirs.body(normalised(images)) / 4, 1)
        F.kl_div(student, teacher, reduction="batchmean").backward()
        optimizer.step()
        schedule.step()
    assert difference(ours, theirs) < 1e-5


# ---- label stores ------------------------------------------------------------------------------


def test_a_store_is_replayed_to_the_letter() -> None:
    """Each pass sees the stored crops with the stored labels: the loop written out gives the same network."""
    images, labels = soft_set(0, 6)
    g = torch.Generator().manual_seed(3)
    store = Stored(
        boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 6, 4).clone(),
        flips=torch.tensor([[True] * 6, [False] * 6]),
        logits=torch.randn(2, 6, 4, generator=g).half(),
        partners=torch.tensor([[1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 5]], dtype=torch.int32),
        patches=torch.tensor([[[0, 0, 4, 8]] * 6, [[0, 0, 0, 0]] * 6], dtype=torch.int16),
    )
    how = EvaluationProtocol(
        name="fkd", epochs=4, batch_size=8, lr=0.05, augment="", lr_schedule="cosine",
        labels="store", loss="kl", temperature=2.0,
    )  # fmt: skip
    [ours] = train([(images, labels)], how, extras=[Extras(store=store)])
    theirs = start()
    optimizer = torch.optim.SGD(theirs.body.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    mirrored = images.flip(3)
    mixed = torch.cat([mirrored[[1, 2, 3, 4, 5, 0], :, :4], mirrored[:, :, 4:]], 2)
    for epoch in range(4):
        x = (mixed, images)[epoch % 2]
        teacher = F.softmax(store.logits[epoch % 2].float() / 2, 1)
        optimizer.zero_grad()
        student = F.log_softmax(theirs.body(normalised(x)) / 2, 1)
        F.kl_div(student, teacher, reduction="batchmean").backward()
        optimizer.step()
        schedule.step()
    assert difference(ours, theirs) < 1e-5


def test_a_store_with_ground_truth_is_mse_gt() -> None:
    """MSE to the stored logits plus weighted cross-entropy with the most likely classes; half of a cosine."""
    images, labels = soft_set(0, 6)
    g = torch.Generator().manual_seed(3)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(1, 6, 4).clone()
    unmirrored = torch.zeros(1, 6, dtype=torch.bool)
    store = Stored(whole, unmirrored, torch.randn(1, 6, 4, generator=g).half())
    how = EvaluationProtocol(
        name="mse-gt", epochs=6, batch_size=8, lr=0.05, augment="", lr_schedule="half-cosine",
        labels="store", loss="mse", hard_weight=0.3,
    )  # fmt: skip
    theirs = start()
    optimizer = torch.optim.SGD(theirs.body.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for _ in range(6):
        optimizer.zero_grad()
        logits = theirs.body(normalised(images))
        truth = F.cross_entropy(logits, labels.argmax(1))
        (F.mse_loss(logits, store.logits[0].float()) + 0.3 * truth).backward()
        optimizer.step()
        schedule.step()
    for given in (labels, labels.argmax(1)):
        [ours] = train([(images, given)], how, extras=[Extras(store=store)])
        assert difference(ours, theirs) < 1e-5
    with pytest.raises(BadInput, match="trains on no store"):
        protocol(hard_weight=0.3)


def random_store(m: int) -> Stored:
    g = torch.Generator().manual_seed(9)
    boxes = torch.stack([draw_boxes((0.3, 1.0), g, m, 8, 8) for _ in range(3)])
    flips = torch.rand(3, m, generator=g) < 0.5
    return Stored(boxes, flips, torch.randn(3, m, 4, generator=g).half())


def test_stores_are_not_stacked_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    sets, extras = [soft_set(0), soft_set(1)], [Extras(store=random_store(20))] * 2
    how = protocol(labels="store", loss="kl")
    with caplog.at_level(logging.INFO, "ddaudit.training"):
        networks = train(sets, how, "stacked", extras)
    assert [n.trained_with for n in networks] == ["loop"] * 2
    assert "label stores" in caplog.text
    assert difference(networks[0], train(sets, how, "loop", extras)[0]) == 0.0


def test_stores_that_do_not_fit_are_one_line() -> None:
    how = protocol(labels="store", loss="kl")
    with pytest.raises(BadInput, match="the set has none"):
        train([soft_set(0)], how)
    with pytest.raises(BadInput, match="of 6 images on 20"):
        train([soft_set(0)], how, extras=[Extras(store=random_store(6))])


def test_a_shift_of_logits_is_logit_adjustment() -> None:
    """Cross-entropy of z + log(share): as torch's written out, and rarer classes are named more often afterwards."""
    images, _ = soft_set(0, 24)
    labels = torch.tensor([0] * 15 + [1] * 5 + [2] * 3 + [3])
    shift = torch.bincount(labels).div(24).log()
    how = protocol(None, epochs_plain=6, batch_size=64, lr_schedule="cosine")  # type: ignore[arg-type]
    [ours] = train([(images, labels)], how, "auto", [Extras(shift=shift)])
    theirs = start()
    optimizer = torch.optim.SGD(
        theirs.body.parameters(), lr=how.lr, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(theirs.body(normalised(images)) + shift, labels).backward()
        optimizer.step()
        schedule.step()
    assert difference(ours, theirs) < 1e-5
    [plain] = train([(images, labels)], how)
    rare = [float(predict(net, images).softmax(1)[:, 3].mean()) for net in (ours, plain)]
    assert rare[0] > rare[1]


# ---- outliers ----------------------------------------------------------------------------------


def test_networks_are_unsure_of_outliers_they_were_shown() -> None:
    g = torch.Generator().manual_seed(1)
    noise = 0.3 * torch.rand(2, 20, 3, 8, 8, generator=g)
    images, labels = torch.cat([noise[0], 0.7 + noise[1]]), torch.arange(2).repeat_interleave(20)
    stripes = torch.zeros(30, 3, 8, 8)
    stripes[..., ::2] = 0.7 + 0.3 * torch.rand(30, 3, 8, 4, generator=g)
    how = protocol(80, outlier_weight=0.5)
    extras = [Extras(outliers=stripes[:20])]
    [exposed] = train([(images, labels)], how, extras=extras)
    [plain] = train([(images, labels)], replace(how, outlier_weight=0.0), extras=extras)

    def sure(network: Network, x: Tensor) -> float:
        return float(predict(network, x)[:, :2].softmax(1).amax(1).mean())

    assert sure(exposed, stripes[20:]) < 0.6 < 0.8 < sure(plain, stripes[20:])
    assert float((predict(exposed, images).argmax(1) == labels).float().mean()) == 1.0


def test_outliers_are_asked_for() -> None:
    with pytest.raises(BadInput, match="trains on outliers"):
        train([soft_set(0)], protocol(outlier_weight=0.5))
    unread = [Extras(outliers=torch.rand(4, 3, 8, 8))]
    assert difference(train([soft_set(0)], protocol(), extras=unread)[0],
                      train([soft_set(0)], protocol())[0]) == 0.0  # fmt: skip
