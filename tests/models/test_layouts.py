"""Checkpoints as training scripts write them: unwrapped where it is clear, asked about where it is not."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build, load_checkpoint, load_state, save_checkpoint

State = dict[str, Tensor]
ARCH = Arch.parse("ConvNetD2W32BN")
KNOWN: dict[str, Any] = {"shape": (1, 8, 8), "num_classes": 10, "mean": [0.3], "std": [0.4]}


def net(arch: Arch = ARCH, seed: int = 1) -> Network:
    return build(arch, seed=seed, **KNOWN).eval()


def load(path: Path, content: object, **changes: Any) -> Network:
    torch.save(content, path)
    return load_checkpoint(path, **{"arch": ARCH, **KNOWN, **changes})


def prefixed(text: str) -> Callable[[State], object]:
    return lambda state: {f"{text}{k}": v for k, v in state.items()}


def _trained(state: State) -> object:
    """As PyTorch's ImageNet example saves it; an optimizer's state is numbered, not named."""
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 2)}}
    return {
        "epoch": 3, "arch": "convnet", "state_dict": state, "best_acc1": torch.tensor(91.0),
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"step_size": 1, "last_epoch": 2},
    }  # fmt: skip


LAYOUTS: dict[str, tuple[Callable[[State], object], str | None]] = {
    "plain": (lambda s: s, None),
    "DataParallel, DDP": (prefixed("module."), None),
    "torch.compile": (prefixed("_orig_mod."), None),
    "compile in DataParallel": (prefixed("module._orig_mod."), None),
    "DataParallel in compile": (prefixed("_orig_mod.module."), None),
    "twice DataParallel": (prefixed("module.module."), None),
    "FSDP": (prefixed("_fsdp_wrapped_module."), None),
    "AveragedModel": (
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
        None,
    ),
    "DataParallel of the features only": (
        lambda s: {k.replace("features.", "features.module."): v for k, v in s.items()},
        None,
    ),
    "PyTorch's ImageNet example": (_trained, "state_dict"),
    "DC-BENCH, NumPy accuracy": (lambda s: {"net": s, "acc": np.float64(91.2)}, "net"),
    "DataDAM": (lambda s: {"net_parameters": s}, "net_parameters"),
    "nested": (lambda s: {"model": {"state_dict": s}}, "model.state_dict"),
    "nested and wrapped": (lambda s: {"model": prefixed("module._orig_mod.")(s)}, "model"),
    "by epoch": (lambda s: {"epochs": {3: s}}, "epochs.3"),
    "model_state": (lambda s: {"model_state": s}, "model_state"),
    "params": (lambda s: {"params": s}, "params"),
    "averaged only": (lambda s: {"ema": s}, "ema"),
    "Lightning": (
        lambda s: {"state_dict": prefixed("model.")(s), "hyper_parameters": {"lr": 0.1}},
        "state_dict.model",
    ),
    "net. prefix": (prefixed("net."), "net"),
    "argparse": (lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, sub=[1])}, "model"),
    "bfloat16": (
        lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
        None,
    ),
    "parameters": (
        lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
        None,
    ),
    "averaged and the same": (lambda s: {"model": s, "ema": dict(s)}, "model"),
    "twice the same": (lambda s: {"model": s, "state_dict": dict(s)}, "model"),
    "with a discriminator": (
        lambda s: {"critic": {"fc.weight": torch.ones(2, 2)}, "net": s},
        "net",
    ),
    "with averaged weights of another size": (
        lambda s: {"student": s, "teacher": net(Arch.parse("ConvNetD2W64BN")).body.state_dict()},
        "student",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_clear_is_unwrapped_and_said(tmp_path: Path, name: str) -> None:
    write, entry = LAYOUTS[name]
    source = net()
    read = load(tmp_path / "c.pth", write(source.body.state_dict()))
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    near = 0.05 if name == "bfloat16" else 0.0
    assert float((read(x) - source(x)).detach().abs().max()) <= near
    assert (read.origin is None) == (entry is None)
    if entry is not None:
        assert f"entry '{entry}'" in str(read.origin)


def test_real_wrappers_load(tmp_path: Path) -> None:
    source = net()
    ema = torch.optim.swa_utils.AveragedModel(source.body)
    for wrapped in (nn.DataParallel(source.body), ema, nn.DataParallel(ema)):
        read = load(tmp_path / "c.pth", wrapped.state_dict())
        for key, value in source.body.state_dict().items():
            assert torch.equal(read.body.state_dict()[key], value)


TWO: dict[str, tuple[Callable[[State, State], Mapping[str, Any]], str, str]] = {
    "timm": (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict", "state_dict_ema"),
    "YOLOX, averaged": (
        lambda a, b: {"model": a, "ema": {"module." + k: v for k, v in b.items()}},
        "model",
        "ema",
    ),
    "Lightning": (
        lambda a, b: {
            "state_dict": {
                **{f"model.{k}": v for k, v in a.items()},
                **{f"ema_model.{k}": v for k, v in b.items()},
            }
        },
        "state_dict.model",
        "state_dict.ema_model",
    ),
    "copy inside": (
        lambda a, b: {**a, **{f"ema.{k}": v for k, v in b.items()}},
        ".",
        "ema",
    ),
    "copy inside, wrapped": (
        lambda a, b: {**a, **{f"module.{k}": v for k, v in b.items()}},
        ".",
        "module",
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_of_two_sets_of_weights_one_has_to_be_named(tmp_path: Path, name: str) -> None:
    write, first, second = TWO[name]
    plain, averaged = net(seed=1).body.state_dict(), net(seed=2).body.state_dict()
    content = write(plain, averaged)
    with pytest.raises(BadInput) as caught:
        load(tmp_path / "c.pth", content)
    assert f"2 sets of weights that fit: {first}, {second}" in str(caught.value)
    assert f"c.pth#{first}" in caught.value.todo
    for entry, state in ((first, plain), (second, averaged)):
        read = load(tmp_path / "c.pth", content, entry=entry)
        assert torch.equal(read.body.classifier.weight, state["classifier.weight"])
    with pytest.raises(BadInput, match=r"c\.pth#other: no such weights\. Those that fit: "):
        load(tmp_path / "c.pth", content, entry="other")


MEAN, STD = torch.tensor([0.3]), torch.tensor([0.4])
NORMALISED: dict[str, Callable[[State], Mapping[str, Any]]] = {
    "nn.Sequential": lambda s: {
        "0.mean": MEAN,
        "0.std": STD,
        **{f"1.{k}": v for k, v in s.items()},
    },
    "named, one for all channels": lambda s: {
        "normalize.mean": MEAN.view(1, 1, 1, 1),
        "normalize.std": STD.view(1, 1, 1, 1),
        **{f"model.{k}": v for k, v in s.items()},
    },
    "buffers of the network": lambda s: {"mean": MEAN, "std": STD, **s},
    "mu and sigma": lambda s: {"mu": MEAN, "sigma": STD, **{f"net.{k}": v for k, v in s.items()}},
    "beside the weights": lambda s: {"state_dict": s, "mean": MEAN, "std": STD},
    "numbers beside the weights": lambda s: {"state_dict": s, "mean": [0.3], "std": (0.4,)},
}


@pytest.mark.parametrize("name", NORMALISED)
def test_a_normalisation_in_the_file_is_the_networks(tmp_path: Path, name: str) -> None:
    """It was dropped, and the network saw pixels that it had not been trained on."""
    source, x = net(), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    content = NORMALISED[name](source.body.state_dict())
    read = load(tmp_path / "c.pth", content, mean=[0.0], std=[1.0])
    assert torch.equal(read(x), source(x))
    assert "pixels are normalised by the file's" in str(read.origin)


def test_whole_numbers_are_constants_too_and_huge_ones_none(tmp_path: Path) -> None:
    state = net().body.state_dict()
    read = load(tmp_path / "c.pth", {"state_dict": state, "mean": [0], "std": [1]})
    assert (float(read.normalize.mean), float(read.normalize.std)) == (0.0, 1.0)
    read = load(tmp_path / "c.pth", {"state_dict": state, "mean": [10**400], "std": [1]})
    assert "normalised" not in str(read.origin)


def test_of_two_normalisations_none_is_taken(tmp_path: Path) -> None:
    content = NORMALISED["nn.Sequential"](net().body.state_dict())
    with pytest.raises(BadInput, match=r"2 normalisations of pixels: 0\.mean, 0\.std; 2\.mean"):
        load(tmp_path / "c.pth", {**content, "2.mean": STD, "2.std": STD})
    statistics = {"2.mean": torch.zeros(64), "2.std": torch.ones(64)}  # of features, say
    with pytest.raises(BadInput, match=r"'normalize\.std' is not positive"):
        load(tmp_path / "c.pth", {**content, **statistics, "0.std": torch.zeros(1)})
    assert "0.mean" in str(load(tmp_path / "c.pth", {**content, **statistics}).origin)


def test_averaged_weights_that_cannot_be_read_are_not_passed_over(tmp_path: Path) -> None:
    body = net().body
    shadow = [p.detach() for p in body.parameters()]  # as torch_ema keeps them: without names
    content = {"model": body.state_dict(), "ema": {"decay": 0.99, "shadow_params": shadow}}
    with pytest.raises(BadInput, match=r"averaged weights, too \(ema\.shadow_params\)"):
        load(tmp_path / "c.pth", content)
    read = load(tmp_path / "c.pth", content, entry="model")
    assert "not ema.shadow_params" in str(read.origin)


def test_replay_buffers_have_no_names(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tensors without names"):
        load(tmp_path / "c.pt", [[list(net().body.parameters())]])


def test_an_optimizers_moments_are_no_weights(tmp_path: Path) -> None:
    state, moments = net().body.state_dict(), net(seed=5).body.state_dict()
    content = {"model": state, "optimizer": {"param_groups": [], "state": {"avg": moments}}}
    read = load(tmp_path / "c.pth", content)
    assert torch.equal(read.body.classifier.weight, state["classifier.weight"])


@pytest.mark.parametrize("write", [dict, prefixed("module."), lambda s: {"model": s}])
def test_another_architecture_is_named_with_the_first_mismatch(
    tmp_path: Path, write: Callable[[State], object]
) -> None:
    other = net(Arch.parse("ConvNetD3W16BN"))
    with pytest.raises(BadInput, match=r"is \(16, 1, 3, 3\), expected .*--arch ConvNetW16BN"):
        load(tmp_path / "c.pth", write(other.body.state_dict()))


def test_containers_that_hold_themselves_end() -> None:
    content: dict[str, Any] = {"a": {}}
    content["a"]["b"] = content
    with pytest.raises(BadInput, match="no state dict"):
        load_state(net(), content)
    content["a"]["net"] = net(seed=4).body.state_dict()
    assert load_state(net(), content).origin == "the weights are the file's entry 'a.net'"


def test_networks_of_ones_own_whose_names_look_like_wrappers(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.module = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "    def forward(self, x):\n"
        "        return self.module(x)\n"
    )
    arch = Arch.parse(f"{tmp_path / 'own.py'}:Net")
    source = net(arch)
    theirs = source.body.module.state_dict()
    assert set(theirs) == {"module.1.weight", "module.1.bias"}
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for content in (theirs, {"model": theirs}, {f"module.{k}": v for k, v in theirs.items()}):
        assert torch.equal(load(tmp_path / "c.pth", content, arch=arch)(x), source(x))
    save_checkpoint(tmp_path / "own.safetensors", source)
    read = load_checkpoint(tmp_path / "own.safetensors", arch=arch, **KNOWN)
    assert torch.equal(read(x), source(x))
