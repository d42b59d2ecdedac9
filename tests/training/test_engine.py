"""The engine: equal results by every strategy, the published loop, independence of neighbours."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.data import Dataset
from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Arch, Network, build
from ddaudit.training import (
    PROTOCOLS,
    EvaluationProtocol,
    at_once,
    predict,
    reuse_memory,
    train_many,
)
from ddaudit.training import engine as engine_module
from ddaudit.training._data import orders
from ddaudit.training._plan import plan

DSA = "color_crop_cutout_flip_scale_rotate"
SMALL = Arch.parse("ConvNetD2W8")
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
Sets = Sequence[tuple[Tensor, Tensor]]


def protocol(augment: str = "", *, steps: int = 12, **changes: float) -> EvaluationProtocol:
    return replace(PROTOCOLS["quick"], augment=augment, max_steps=steps, **changes)  # type: ignore[arg-type]


def random_set(seed: int, n: int = 20, *, classes: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=g), torch.randint(classes, (n,), generator=g)


def train(sets: Sets, seeds: Sequence[int], how: EvaluationProtocol, strategy: str = "loop",
          arch: Arch = SMALL, classes: int = 4) -> list[Network]:  # fmt: skip
    return train_many(
        sets, arch=arch, num_classes=classes, mean=MEAN, std=STD, protocol=how, seeds=seeds,
        strategy=strategy,  # type: ignore[arg-type]
    )  # fmt: skip


def difference(a: Network, b: Network) -> float:
    """Largest difference of any weight."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)


def accuracy(network: Network, images: Tensor, labels: Tensor) -> float:
    return float((predict(network, images).argmax(1) == labels).float().mean())


# ---- what is learnt --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["loop", "stacked"])
def test_learns_separable_data(tiny: Dataset, strategy: str) -> None:
    pick = torch.arange(40)
    sets = [(tiny.train.pixels(pick), tiny.train.labels[pick])] * 2
    networks = train(sets, [0, 1], protocol(DSA, steps=120), strategy)
    for network in networks:
        assert accuracy(network, tiny.test.images, tiny.test.labels) > 0.95
        assert not network.training
        assert network.trained_with == strategy


def published_loop(
    network: Network, images: Tensor, labels: Tensor, epochs: int, *, renew: bool = True
) -> Network:
    """The released evaluation loop on one full batch, written out with plain torch parts."""
    x = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def sgd(lr: float) -> torch.optim.SGD:
        return torch.optim.SGD(
            network.body.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, foreach=False
        )

    optimizer = sgd(0.01)
    for epoch in range(epochs + 1):
        optimizer.zero_grad()
        F.cross_entropy(network.body(x), labels).backward()
        optimizer.step()
        if epoch == epochs // 2 + 1:
            if renew:
                optimizer = sgd(0.001)
            else:
                optimizer.param_groups[0]["lr"] = 0.001
    return network


def test_equals_the_published_loop_with_a_new_optimizer_at_the_cut() -> None:
    images, labels = random_set(0)
    how = replace(PROTOCOLS["dc"], augment="", epochs_plain=20)
    [ours] = train([(images, labels)], [5], how)

    def start() -> Network:
        return build(SMALL, shape=(3, 8, 8), num_classes=4, seed=5, mean=MEAN, std=STD)

    theirs = published_loop(start(), images, labels, 20)
    kept = published_loop(start(), images, labels, 20, renew=False)
    assert difference(ours, theirs) < 1e-5
    assert difference(kept, theirs) > 1e-3  # the test can tell: momentum kept is another result


def test_every_image_is_seen_once_a_pass() -> None:
    batches = orders([3, 4], size=10, batch_size=4, device=torch.device("cpu"))
    seen = [next(batches) for _ in range(6)]
    assert [b.shape[1] for b in seen] == [4, 4, 2, 4, 4, 2]
    first, second = torch.cat(seen[:3], 1), torch.cat(seen[3:], 1)
    for row in (*first, *second):
        assert sorted(row.tolist()) == list(range(10))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


# ---- strategies --------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["", DSA])
@pytest.mark.parametrize("name", ["ConvNetD2W8", "ConvNetD2W8LN", "ConvNetD1W8NNNP", "MLP"])
def test_stacked_equals_loop(name: str, augment: str) -> None:
    arch = Arch.parse(name)
    sets = [random_set(s) for s in range(5)]
    how = protocol(augment, steps=15, batch_size=8)
    loop = train(sets, [7, 8, 9, 10, 11], how, "loop", arch)
    stacked = train(sets, [7, 8, 9, 10, 11], how, "stacked", arch)
    assert [n.trained_with for n in stacked] == ["stacked"] * 5
    assert max(difference(a, b) for a, b in zip(loop, stacked, strict=True)) < 2e-5
    assert difference(loop[0], loop[1]) > 1e-2  # networks do differ from each other


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNetD2W8", "ConvNetD2W8BN"])
def test_compiled_equals_loop(name: str) -> None:
    arch = Arch.parse(name)
    sets = [random_set(s, 21) for s in range(2)]
    how = protocol(DSA, steps=15, batch_size=8)  # 8, 8, 5: the last batch runs uncompiled
    loop = train(sets, [7, 8], how, "loop", arch)
    compiled = train(sets, [7, 8], how, "compiled", arch)
    assert [n.trained_with for n in compiled] == ["compiled"] * 2
    assert max(difference(a, b) for a, b in zip(loop, compiled, strict=True)) < 2e-5


def test_without_a_compiler_compiled_becomes_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    [network] = train([random_set(0)], [0], protocol(), "compiled")
    assert network.trained_with == "loop"


def test_a_failing_compiler_becomes_a_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("no such header")

    monkeypatch.setattr(engine_module, "Compiled", broken)
    with caplog.at_level(logging.WARNING, "ddaudit.training"):
        [network] = train([random_set(0)], [0], protocol(), "compiled")
    assert "no such header" in caplog.text
    assert network.trained_with == "loop"
    [reference] = train([random_set(0)], [0], protocol())
    assert difference(network, reference) == 0.0


def test_batch_norm_is_not_stacked_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    arch = Arch.parse("ConvNetD2W8BN")
    sets = [random_set(s) for s in range(2)]
    with caplog.at_level(logging.INFO, "ddaudit.training"):
        stacked = train(sets, [0, 1], protocol(), "stacked", arch)
    assert [n.trained_with for n in stacked] == ["loop", "loop"]
    assert "batch norm" in caplog.text
    loop = train(sets, [0, 1], protocol(), "loop", arch)
    assert max(difference(a, b) for a, b in zip(stacked, loop, strict=True)) == 0.0
    assert float(stacked[0].state_dict()["body.features.1.running_mean"].abs().max()) > 0


@pytest.mark.parametrize(
    ("name", "shape", "size", "count", "expected"),
    [
        ("ConvNetD2W32", (3, 8, 8), 10, 8, "stacked"),  # tiny steps, many networks
        ("ConvNetD2W32", (3, 8, 8), 10, 2, "loop"),  # too few networks
        ("ConvNetD2W32", (3, 8, 8), 200, 8, "loop"),  # arithmetic, but little of it
        ("ConvNetD2W32BN", (3, 8, 8), 10, 8, "loop"),
        ("ConvNet", (1, 28, 28), 60_000, 5, "compiled"),  # hours
    ],
)
def test_auto_picks_by_size(
    name: str, shape: tuple[int, int, int], size: int, count: int, expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ddaudit.training._plan._has_compiler", lambda _device: True)
    network = build(
        Arch.parse(name), shape=shape, num_classes=10, seed=0,
        mean=[0.5] * shape[0], std=[0.5] * shape[0],
    )  # fmt: skip
    how = PROTOCOLS["quick"].for_data(DSA)
    chosen = plan("auto", network, count=count, size=size, protocol=how, device=torch.device("cpu"))
    assert chosen.strategy == expected
    assert chosen.reason


def test_unknown_strategy_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown strategy"):
        train([random_set(0)], [0], protocol(), "fast")


# ---- seeds and neighbours ----------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "tolerance"), [("loop", 0.0), ("stacked", 2e-5)])
def test_a_network_does_not_depend_on_its_neighbours(strategy: str, tolerance: float) -> None:
    how = protocol(DSA, batch_size=8)
    sets = [random_set(0), random_set(1), random_set(2)]
    [alone] = train([sets[1]], [42], how, strategy)
    among = train(sets, [1, 42, 3], how, strategy)[1]
    reordered = train([*sets[::-1], sets[0]], [3, 42, 1, 9], how, strategy)[1]
    assert difference(alone, among) <= tolerance
    assert difference(alone, reordered) <= tolerance


def test_chunks_do_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [random_set(s) for s in range(5)]
    whole = train(sets, range(5), protocol(DSA), "stacked")
    monkeypatch.setattr("ddaudit.training._plan._STACK_CHUNK", 2)
    parts = train(sets, range(5), protocol(DSA), "stacked")
    assert max(difference(a, b) for a, b in zip(whole, parts, strict=True)) < 2e-5


def test_same_seed_same_network_and_no_global_randomness() -> None:
    how = protocol(DSA)
    before = torch.get_rng_state()
    [a] = train([random_set(0)], [1], how)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    [b] = train([random_set(0)], [1], how)
    [c] = train([random_set(0)], [2], how)
    assert difference(a, b) == 0.0
    assert difference(a, c) > 1e-2


def test_sets_of_different_sizes_and_labels_come_back_in_order() -> None:
    soft = (random_set(3)[0], torch.eye(4)[random_set(3)[1]])
    sets = [random_set(0, 6), random_set(1, 20), soft, random_set(2, 6)]
    together = train(sets, [0, 1, 2, 3], protocol(DSA), "stacked")
    for k, network in enumerate(together):
        [alone] = train([sets[k]], [k], protocol(DSA), "loop")
        assert difference(network, alone) < 2e-5


# ---- kinds of images and labels ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["loop", "stacked"])
def test_uint8_equals_float(tiny: Dataset, strategy: str) -> None:
    images, labels = tiny.train.images[:30], tiny.train.labels[:30]
    bytes_, floats = (images, labels), (images.float() / 255, labels)
    how = protocol(DSA, batch_size=8)
    a = train([bytes_] * 2, [0, 1], how, strategy)
    b = train([floats] * 2, [0, 1], how, strategy)
    assert max(difference(x, y) for x, y in zip(a, b, strict=True)) == 0.0
    assert images.dtype == torch.uint8
    assert torch.equal(predict(a[0], images), predict(a[0], images.float() / 255))


@pytest.mark.parametrize("strategy", ["loop", "stacked"])
def test_one_hot_soft_labels_equal_hard_labels(strategy: str) -> None:
    images, labels = random_set(0)
    one_hot = F.one_hot(labels, 4).float()
    hard = train([(images, labels)] * 2, [0, 1], protocol(), strategy)
    soft = train([(images, one_hot)] * 2, [0, 1], protocol(), strategy)
    assert max(difference(a, b) for a, b in zip(hard, soft, strict=True)) < 1e-5


def test_soft_labels_are_what_predictions_become() -> None:
    images, _ = random_set(0, 8)
    target = torch.tensor([0.5, 0.25, 0.125, 0.125]).repeat(8, 1)
    [network] = train([(images, target)], [0], protocol(steps=200, weight_decay=0.0))
    torch.testing.assert_close(predict(network, images).softmax(1), target, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.rand(0, 3, 8, 8), torch.zeros(0, dtype=torch.long)),
        (torch.rand(4, 3, 8), torch.zeros(4, dtype=torch.long)),
        (torch.rand(4, 3, 8, 8), torch.zeros(3, dtype=torch.long)),
        (torch.rand(4, 3, 8, 8), torch.full((4,), 4)),
        (torch.rand(4, 3, 8, 8), torch.zeros(4)),
        (torch.rand(4, 3, 8, 8), torch.rand(4, 5)),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), torch.zeros(4, dtype=torch.long)),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(images: Tensor, labels: Tensor) -> None:
    with pytest.raises(BadInput, match="training set"):
        train([(images, labels)], [0], protocol())


def test_inputs_are_left_as_they_were() -> None:
    images, labels = random_set(0)
    images.requires_grad_()
    copy = images.detach().clone()
    train([(images, labels)], [0], protocol(DSA))
    assert torch.equal(images.detach(), copy)
    assert images.grad is None


# ---- predict ---------------------------------------------------------------------------------------


def test_predict_is_batched_gradient_free_and_restores_training_mode() -> None:
    arch = Arch.parse("ConvNetD2W8BN")
    network = build(arch, shape=(3, 8, 8), num_classes=4, seed=0, mean=MEAN, std=STD)
    images, _ = random_set(0)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    logits = predict(network, images, batch_size=7)
    assert network.training
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert logits.dtype == torch.float32
    assert logits.shape == (20, 4)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, network.eval()(images).detach(), atol=1e-5, rtol=1e-5)
    scale = torch.ones(1, requires_grad=True)  # temperature scaling trains on these logits
    (logits * scale).sum().backward()
    assert predict(network, images[:0]).shape == (0, 4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    """The most likely class of NaN logits is class 0 in every score that asks."""
    network = build(SMALL, shape=(3, 8, 8), num_classes=4, seed=0, mean=MEAN, std=STD)
    images, _ = random_set(0)
    images[3] = value
    with pytest.raises(Unsupported, match="not finite for 1 of 20 records"):
        predict(network, images)


# ---- memory ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_are_reused_without_page_faults() -> None:
    def faults() -> int:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(16 << 20)  # 64 MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

    pages = (64 << 20) // resource.getpagesize()
    if faults() < 8 * pages:
        pytest.skip("this allocator keeps memory, or uses huge pages, by itself")
    with reuse_memory(), reuse_memory():
        faults()
        assert faults() < pages


# ---- CUDA --------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["loop", "stacked", "auto"])
def test_cuda_equals_cpu(strategy: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    sets = [random_set(s) for s in range(3)]
    cpu = train(sets, [0, 1, 2], protocol(DSA), "loop")
    cuda = train_many(
        sets, arch=SMALL, num_classes=4, mean=MEAN, std=STD, protocol=protocol(DSA),
        seeds=[0, 1, 2], device="cuda", strategy=strategy,  # type: ignore[arg-type]
    )  # fmt: skip
    assert all(n.device.type == "cuda" for n in cuda)
    assert max(difference(a, b.cpu()) for a, b in zip(cpu, cuda, strict=True)) < 1e-3


def test_no_cut_keeps_the_optimiser() -> None:
    images, labels = random_set(0)
    how = replace(PROTOCOLS["dc"], augment="", epochs_plain=20, decay=1.0)
    [ours] = train([(images, labels)], [5], how)
    theirs = build(SMALL, shape=(3, 8, 8), num_classes=4, seed=5, mean=MEAN, std=STD)
    x = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    sgd = torch.optim.SGD(theirs.body.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(21):
        sgd.zero_grad()
        F.cross_entropy(theirs.body(x), labels).backward()
        sgd.step()
    assert difference(ours, theirs) < 1e-5


def test_the_end_of_a_training_cut_short_is_told() -> None:
    images, labels = random_set(0, 40)
    told: list[int] = []
    how = replace(protocol("", steps=7), batch_size=8)  # five steps a pass
    train_many(
        [(images, labels)], arch=SMALL, num_classes=4, mean=MEAN, std=STD, protocol=how, seeds=[0],
        after_pass=lambda _, passes, __: told.append(passes),
    )  # fmt: skip
    assert told == [0, 1, 2]


def test_networks_train_and_answer_in_full_float32(monkeypatch) -> None:
    seen: list[bool] = []
    net = build(SMALL, shape=(3, 8, 8), num_classes=4, seed=5, mean=MEAN, std=STD)
    net.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    predict(net, random_set(0)[0])
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32, "put back"


def test_batches_shrink_with_the_size_of_images() -> None:
    sizes = {side: at_once(torch.empty(9, 3, side, side)) for side in (8, 32, 64, 512, 4096)}
    assert sizes == {8: 512, 32: 512, 64: 128, 512: 2, 4096: 1}
    assert at_once(torch.empty(0, 3, 32, 32), 256) == 256
