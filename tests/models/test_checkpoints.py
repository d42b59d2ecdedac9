"""Weights from files: the field's names load, everything unsafe or foreign is one line."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build, load_checkpoint, load_state
from ddaudit.training import predict

RGB32 = (3, 32, 32)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def load(path: Path, name: str = "ConvNet", **changes: Any) -> Network:
    options: dict[str, Any] = {"shape": RGB32, "num_classes": 10, "mean": MEAN, "std": STD}
    return load_checkpoint(path, arch=Arch.parse(name), **{**options, **changes})


def dc_style_state(seed: int = 0) -> dict[str, Tensor]:
    """A ConvNet-3 as the DC code family writes it, put together from plain torch layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for source in (3, 128, 128):
            layers += [nn.Conv2d(source, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU(),
                       nn.AvgPool2d(2)]  # fmt: skip
        model = nn.ModuleDict(
            {"features": nn.Sequential(*layers), "classifier": nn.Linear(2048, 10)}
        )
    return model.state_dict()


@pytest.mark.parametrize("form", ["pth", "legacy.pt", "safetensors", "wrapped.pth", "parallel.pth"])
def test_dc_style_state_dicts_load(tmp_path: Path, form: str) -> None:
    state = dc_style_state(seed=3)
    path = tmp_path / f"net.{form}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "wrapped.pth":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel.pth":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "pth")
    network = load(path)
    assert not network.training
    for key, value in state.items():
        assert torch.equal(network.body.state_dict()[key], value)


@pytest.mark.parametrize("name", ["ConvNetD2W32", "ConvNetBN", "ResNet18BN", "MLP"])
def test_our_own_state_dicts_round_trip(tmp_path: Path, name: str) -> None:
    shape = (3, 16, 16)
    network = build(Arch.parse(name), shape=shape, num_classes=4, seed=5, mean=MEAN, std=STD).eval()
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors", name, shape=shape, num_classes=4, mean=(0.0,) * 3)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(predict(again, x), predict(network, x))  # the file carries its normalisation


def test_released_resnet_and_mlp_names_are_translated() -> None:
    def renamed(name: str, old: str, new: str) -> tuple[Network, Network]:
        source, target = (
            build(Arch.parse(name), shape=RGB32, num_classes=10, seed=s, mean=MEAN, std=STD)
            for s in (1, 2)
        )
        state = {k.replace(old, new): v for k, v in source.body.state_dict().items()}
        return source, load_state(target, state)

    for name, old, new in (("ResNet18AP", "features.", ""), ("MLP", "classifier.", "fc_3.")):
        source, target = renamed(name, old, new)
        x = torch.rand(2, *RGB32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(predict(source, x), predict(target, x))


class Bomb:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("open('bombed', 'w')",))


def _truncated() -> bytes:
    buffer = io.BytesIO()
    torch.save(dc_style_state(), buffer)
    return buffer.getvalue()[:5000]


def _deflated() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\0" * 1_000_000)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("pth", b""),
        ("pth", b"not a checkpoint"),
        ("pth", _truncated()),
        ("pth", _deflated()),
        ("pth", pickle.dumps(Bomb())),
        ("pth", pickle.dumps({"features.0.weight": [1, 2, 3]})),
        ("pt", pickle.dumps([1, 2, 3])),
        ("safetensors", b""),
        ("safetensors", b"\xff" * 64),
    ],
)
def test_unreadable_files_are_one_line(
    tmp_path: Path, suffix: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not Path("bombed").exists()


def test_pickled_code_in_a_real_archive_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**dc_style_state(), "extra": Bomb()}, "net.pth")
    with pytest.raises(BadInput, match="more than weights"):
        load(Path("net.pth"))
    assert not Path("bombed").exists()


def _without(key: str) -> dict[str, Tensor]:
    return {k: v for k, v in dc_style_state().items() if k != key}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_without("classifier.bias"), "lacks"),
        ({**dc_style_state(), "fc.weight": torch.zeros(1)}, "unexpected"),
        ({**dc_style_state(), "classifier.weight": torch.zeros(100, 2048)}, r"\(100, 2048\)"),
        ({**dc_style_state(), "features.0.bias": torch.full((128,), torch.nan)}, "NaN"),
        (
            {**dc_style_state(), "features.0.bias": torch.zeros(1).expand(10**12)},
            "more than the 256 MB",
        ),
        ({}, "no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, state: dict[str, Tensor], message: str
) -> None:
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(BadInput, match=message):
        load(tmp_path / "net.pth")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.uint16, torch.int64, torch.bool])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_quantised_weights_are_refused(tmp_path: Path, dtype: torch.dtype, form: str) -> None:
    path, state = tmp_path / f"net.{form}", dc_style_state()
    state["features.0.weight"] = (100 * state["features.0.weight"]).abs().to(dtype)
    save_file(state, path) if form == "safetensors" else torch.save(state, path)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        BadInput,
        match=rf"features\.0\.weight' holds integers \({name}\): quantised weights are not",
    ):
        load(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_weights_of_few_bits_load_and_their_nan_is_seen(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) for k, v in dc_style_state().items()}
    torch.save(state, tmp_path / "net.pth")
    body = load(tmp_path / "net.pth").body.state_dict()
    assert all(torch.equal(body[key], value.float()) for key, value in state.items())
    state["classifier.bias"] = torch.full((10,), torch.nan).to(dtype)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(BadInput, match=r"'body\.classifier\.bias' holds NaN or infinity"):
        load(tmp_path / "net.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such"):
        load(tmp_path / "absent.pth")


BEARD = {
    "BACON_ConvNet_CIFAR10_50_None_0.6995.pth": 0.6863,
    "DC_ConvNet_CIFAR10_50_None.pth": 0.5394,
    "MTT_ConvNet_CIFAR10_50_None_0.6966.pth": 0.6741,
}
"""Clean accuracy on the 10 000 test images of CIFAR-10 (JPEG), from the data folder's README."""


def _cifar10_jpeg_test(root: Path, step: int) -> tuple[Tensor, Tensor]:
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    file = root / "cifar10_jpeg" / "test.parquet"
    if not file.is_file():
        pytest.skip("no cifar10_jpeg under DDAUDIT_DATA")
    # Class-balanced order (row i has class i mod 10): take whole blocks of ten.
    rows = [i for i in range(10_000) if (i // 10) % step == 0]
    table = pq.read_table(file).take(rows).to_pydict()
    images = [np.asarray(Image.open(io.BytesIO(r["bytes"])).convert("RGB")) for r in table["img"]]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(table["label"])


def _beard_accuracy(root: Path, name: str, step: int) -> float:
    file = root / "beard_checkpoints" / name
    if not file.is_file():
        pytest.skip("no beard_checkpoints under DDAUDIT_DATA")
    images, labels = _cifar10_jpeg_test(root, step)
    return float((predict(load(file), images).argmax(1) == labels).float().mean())


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "accuracy"), BEARD.items())
def test_beard_checkpoints_classify_a_tenth_of_cifar10(
    data_root: Path, name: str, accuracy: float
) -> None:
    # 1000 of the 10 000 images: 3 standard errors of a proportion is 4.7 points at most.
    assert _beard_accuracy(data_root, name, step=10) == pytest.approx(accuracy, abs=0.047)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(("name", "accuracy"), BEARD.items())
def test_beard_checkpoints_reach_their_accuracy(
    data_root: Path, name: str, accuracy: float
) -> None:
    assert _beard_accuracy(data_root, name, step=1) == pytest.approx(accuracy, abs=2e-4)
