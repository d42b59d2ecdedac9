"""Networks: published parameter counts, shapes, padding rule, seeded initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build
from ddaudit.models._pool import AvgPool2

GREY8, RGB8, GREY28, RGB32 = (1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32)


def make(
    name: str, shape: tuple[int, int, int], *, seed: int = 0, num_classes: int = 10
) -> Network:
    return build(
        Arch.parse(name), shape=shape, num_classes=num_classes, seed=seed,
        mean=[0.5] * shape[0], std=[0.25] * shape[0],
    )  # fmt: skip


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        # methods sheet, section 1.1
        ("ConvNet", GREY28, 317_706),
        ("ConvNet", RGB32, 320_010),
        # LeCun et al. 1998, LeNet-5 with ReLU and a dense second convolution: the textbook 61,706
        ("LeNet", GREY28, 61_706),
        # He et al. 2016 ResNet-18 with a 3x3 stem and 10 classes: the 11,173,962 of public CIFAR-10 code
        ("ResNet18BN", RGB32, 11_173_962),
        # Simonyan & Zisserman configuration A, batch norm, one linear layer: 9,231,114 in public CIFAR-10 code
        ("VGG11BN", RGB32, 9_231_114),
        ("MLP", GREY28, 784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10),
    ],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones(
    name: str, shape: tuple[int, int, int], count: int
) -> None:
    assert parameters(make(name, shape)) == count


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("ConvNet", GREY28, 2048),
        ("ConvNet", RGB32, 2048),
        ("ConvNetD2W32", GREY8, 32 * 2 * 2),
        ("ConvNetD2W32", RGB8, 32 * 2 * 2),
        ("ConvNetNP", RGB8, 128 * 8 * 8),
        ("ConvNetMP", RGB32, 2048),
        ("ConvNetGN", RGB32, 2048),
        ("ConvNetLN", RGB32, 2048),
        ("ConvNetNN", RGB32, 2048),
        ("ConvNetASwishBN", RGB32, 2048),
        ("AlexNet", GREY28, 192 * 4 * 4),
        ("AlexNet", RGB32, 192 * 4 * 4),
        ("AlexNetBN", RGB8, 192),
        ("LeNet", RGB32, 84),
        ("MLP", RGB8, 128),
        ("VGG11", GREY28, 512),
        ("VGG11", RGB32, 512),
        ("ResNet18", GREY28, 512),
        ("ResNet18", RGB32, 512),
        ("ResNet18AP", GREY28, 512 * 3 * 3),  # the released code's two cases
        ("ResNet18AP", RGB32, 512 * 4 * 4),
        ("ResNet18BN", RGB8, 512),
    ],
)
def test_every_architecture_embeds_and_classifies(
    name: str, shape: tuple[int, int, int], width: int
) -> None:
    network = make(name, shape, num_classes=7).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    embedding = network.embed(x)
    assert embedding.shape == (2, width)
    logits = network(x)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(network.body.classifier(embedding), logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-6  # two images, two answers: no dead layer


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ConvNetD4", RGB8), ("ConvNetD6", RGB32), ("VGG11", RGB8), ("LeNet", RGB8), ("ResNet18", RGB8),
     ("ResNet18AP", RGB8)],
)  # fmt: skip
def test_too_deep_for_the_image_is_refused(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(BadInput, match=r"8x8|32x32"):
        make(name, shape)


def test_first_convolution_pads_grey_28_to_32() -> None:
    sizes = {s: _maps(make("ConvNet", s), s) for s in (GREY28, RGB32)}
    assert sizes[GREY28] == sizes[RGB32] == [32, 16, 8]
    assert make("ConvNet", GREY28).body.features[0].padding == (3, 3)
    assert _maps(make("ConvNetD2W32", GREY8), GREY8) == [8, 4]


def _maps(network: Network, shape: tuple[int, int, int]) -> list[int]:
    """Side of the map after every convolution."""
    sizes: list[int] = []
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[-1]))
    network(torch.zeros(1, *shape))
    return sizes


def test_instance_norm_is_one_affine_group_per_channel() -> None:
    norms = [m for m in make("ConvNet", RGB32).modules() if isinstance(m, nn.GroupNorm)]
    assert [(m.num_groups, m.num_channels, m.affine) for m in norms] == [(128, 128, True)] * 3


def test_initialisation_is_pytorchs_default_from_the_seed() -> None:
    network = make("ConvNet", RGB32, seed=11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        first, *_rest = nn.Conv2d(3, 128, 3, padding=1), None
        torch.testing.assert_close(network.body.features[0].weight, first.weight, rtol=0, atol=0)
    weight = network.body.features[4].weight
    bound = 1 / math.sqrt(128 * 9)  # uniform in +- 1 / sqrt(fan in)
    assert 0.98 * bound < float(weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("name", ["ConvNet", "MLP", "AlexNetBN", "ResNet18BN"])
def test_initialisation_depends_on_the_seed_alone(name: str) -> None:
    a = make(name, RGB8, seed=1).state_dict()
    torch.rand(3)  # moves the global generator
    b, c = make(name, RGB8, seed=1).state_dict(), make(name, RGB8, seed=2).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    make("ConvNet", RGB8)
    assert torch.equal(torch.get_rng_state(), before)


def test_network_normalises_pixels() -> None:
    network = build(
        Arch.parse("ConvNetD2W32"), shape=RGB8, num_classes=10, seed=0,
        mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0),
    )  # fmt: skip
    pixels = torch.rand(4, *RGB8, generator=torch.Generator().manual_seed(0))
    expected = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.25, 2.0]
    ).view(3, 1, 1)
    torch.testing.assert_close(network.normalize(pixels), expected)
    torch.testing.assert_close(network(pixels), network.body(expected))
    assert not list(network.normalize.parameters())
    assert network.shape == RGB8
    assert network.num_classes == 10
    assert network.trained_with is None


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5,) * 3, (0.5, 0.0, 0.5))])
def test_bad_normalisation_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="normalisation"):
        build(Arch(depth=2), shape=RGB8, num_classes=2, seed=0, mean=mean, std=std)


@pytest.mark.parametrize("size", [(100, 8, 8, 16), (40, 16, 16, 16), (64, 16, 9, 11), (2, 3, 5, 4)])
def test_pooling_equals_torchs(size: tuple[int, int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours, theirs = AvgPool2()(x), F.avg_pool2d(y, 2)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [
        ("ConvNet", RGB32, [128, 128, 128]),
        ("ConvNetD2W32", GREY8, [32, 32]),
        ("AlexNet", RGB32, [128, 192, 256, 192, 192]),
        ("ResNet18", RGB32, [64, 64, 64, 128, 128, 256, 256, 512, 512]),
        ("MLP", GREY8, [128, 128]),
    ],
)  # fmt: skip
def test_blocks_are_the_outputs_of_activations_and_end_in_the_embedding(
    name: str, shape: tuple[int, int, int], channels: list[int]
) -> None:
    body = make(name, shape).body
    x = torch.randn(2, *shape)
    *maps, embedding = body.blocks(x)
    assert [m.shape[1] for m in maps] == channels
    assert torch.equal(embedding, body.features(x))
    assert all((m >= 0).all() for m in maps)  # after ReLU


def test_maps_of_convnet_are_those_before_pooling() -> None:
    # What DataDAM hooks and CAFE cuts out: features[:3], then up to features[7] of four modules a block.
    body = make("ConvNetD2W32", RGB8).body
    x = torch.randn(2, *RGB8)
    first, second, _ = body.blocks(x)
    assert isinstance(body.features, nn.Sequential)
    assert torch.equal(first, body.features[:3](x))
    assert torch.equal(second, body.features[:7](x))
