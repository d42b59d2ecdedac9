"""Architecture names: parse, print, refuse."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaudit.errors import BadInput
from ddaudit.models import Arch, build
from ddaudit.models.arch import ACTS, NORMS, POOLS


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("ConvNet", Arch("convnet", 3, 128, "instance", "relu", "avg")),
        ("ConvNetD2W32", Arch("convnet", 2, 32)),
        ("ConvNetBN", Arch("convnet", norm="batch")),
        ("ConvNetASwishBN", Arch("convnet", norm="batch", act="swish")),
        ("ConvNetAS", Arch("convnet", act="sigmoid")),
        ("ConvNetAR", Arch("convnet")),
        ("ConvNetNP", Arch("convnet", pool="none")),
        ("ConvNetMP", Arch("convnet", pool="max")),
        ("AlexNet", Arch("alexnet", norm="none")),
        ("AlexNetBN", Arch("alexnet", norm="batch")),
        ("VGG11", Arch("vgg11", norm="instance")),
        ("ResNet18AP", Arch("resnet18", pool="avg")),
        ("ResNet18BN_AP", Arch("resnet18", norm="batch", pool="avg")),
        ("mlp", Arch("mlp")),
        ("convnetd4w256", Arch("convnet", 4, 256)),
    ],
)
def test_the_names_of_the_field_are_read(name: str, arch: Arch) -> None:
    assert Arch.parse(name) == arch


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Arch,
        family=st.just("convnet"),
        depth=st.integers(1, 9),
        width=st.integers(1, 128).map(lambda n: 4 * n),
        norm=st.sampled_from(sorted(NORMS)),
        act=st.sampled_from(sorted(ACTS)),
        pool=st.sampled_from(sorted(POOLS)),
    )
)
def test_name_round_trips(arch: Arch) -> None:
    assert Arch.parse(str(arch)) == arch
    assert Arch.parse(str(arch).upper()) == arch


@pytest.mark.parametrize(
    "name", ["MLP", "MLPD2W64", "LeNet", "AlexNetBN", "VGG11BN", "ResNet18BNAP", "ConvNet"]
)
def test_canonical_names_print_as_themselves(name: str) -> None:
    assert str(Arch.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    ["", "Transformer", "ConvNetX", "ConvNetD2D3", "ConvNetD0", "ConvNetW0", "MLPD0", "MLPBN", "LeNetD2", "LeNetBN",
     "VGG11LN", "ConvNetW30GN", "ConvNet W32 please"],
)  # fmt: skip
def test_unknown_names_are_one_line_errors(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        Arch.parse(name)
    assert "\n" not in str(caught.value)


def test_arch_is_frozen_and_hashable() -> None:
    arch = Arch.parse("ConvNet")
    assert len({arch, Arch()}) == 1
    with pytest.raises(FrozenInstanceError):
        arch.depth = 4  # type: ignore[misc]


def test_mlp_depth_counts_linear_layers_with_the_classifier() -> None:
    shapes = {}
    for name in ("MLP", "MLPD1", "MLPD2W64"):
        net = build(
            Arch.parse(name), shape=(1, 1, 20), num_classes=3, seed=0, mean=(0.0,), std=(1.0,)
        )
        shapes[name] = [tuple(p.shape) for p in net.parameters() if p.ndim == 2]
    assert shapes == {
        "MLP": [(128, 20), (128, 128), (3, 128)],
        "MLPD1": [(3, 20)],
        "MLPD2W64": [(64, 20), (3, 64)],
    }
