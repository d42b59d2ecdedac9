"""Architectures of the user's own: a file, a registered class, a module in hand; checkpoints that say what they are."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Arch, build, load_checkpoint, save_checkpoint, wrap
from ddaudit.training import PROTOCOLS, train_many

FILE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, num_classes, image_size=(8, 8), width=6):
        super().__init__()
        self.map = nn.Conv2d(in_channels, width, 3, padding=1)
        self.fc = nn.Linear(width * image_size[0] * image_size[1], num_classes)
    def forward(self, x):
        return self.fc(self.map(x).relu().flatten(1))

class Wants(nn.Module):
    def __init__(self, secret): super().__init__()

class Wrong(Net):
    def forward(self, x): return x

class Soft(Net):
    def forward(self, x): return super().forward(x).softmax(1)
"""
SHAPE = {"shape": (3, 8, 8), "num_classes": 4, "mean": (0.4,) * 3, "std": (0.25,) * 3}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


def test_a_class_in_a_file_is_an_architecture(file: Path) -> None:
    arch = Arch.parse(f"{file}:Net")
    one, same, other = (build(arch, seed=s, **SHAPE) for s in (0, 0, 1))
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))
    assert one.embed(x).shape == (5, 6 * 64)
    assert torch.allclose(one.body.module.fc(one.embed(x)), one(x))
    assert Arch.parse(str(arch)) == arch


def test_edited_code_is_another_architecture(file: Path) -> None:
    before = str(Arch.parse(f"{file}:Net"))
    file.write_text(FILE.replace("width=6", "width=7"))
    after = Arch.parse(f"{file}:Net")
    assert str(after) != before
    assert build(after, seed=0, **SHAPE).body.module.map.out_channels == 7


def test_the_engine_trains_it(file: Path, tiny) -> None:
    arch = Arch.parse(f"{file}:Net")
    train, quick = tiny.train, PROTOCOLS["quick"].for_data("")
    nets = train_many(
        [(train.pixels(), train.labels)] * 2,
        arch=arch, num_classes=4, mean=tiny.mean, std=tiny.std, protocol=quick, seeds=[0, 1], device="cpu",
    )  # fmt: skip
    right = nets[0](tiny.test.pixels()).argmax(1) == tiny.test.labels
    assert right.float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{file}:Nut", "has no class or function 'Nut'"),
        ("{file}:Wants", "wants the argument 'secret'.*num_classes"),
        ("{file}:Wrong", r"gives \(2, 3, 8, 8\), not \(2, 4\) logits"),
        ("{file}:Soft", "gives probabilities .*Leave the softmax out"),
        ("gone.py:Net", "there is no file gone.py"),
        ("{bad}:Net", r"cannot be imported \(ZeroDivisionError"),
        ("ConvNeXt", "unknown architecture.*FILE.py:ClassName"),
    ],
)
def test_what_cannot_be_had_is_one_line(file: Path, name: str, message: str) -> None:
    bad = file.with_name("bad.py")
    bad.write_text("1 / 0")
    with pytest.raises(BadInput, match=message):
        build(Arch.parse(name.format(file=file, bad=bad)), seed=0, **SHAPE)


def test_packages_register_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddaudit.models import ARCHS

    info = tmp_path / "net_zoo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: net-zoo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ddaudit.archs]\nzoonet = net_zoo_under_test:Net\n")
    (tmp_path / "net_zoo_under_test.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ARCHS, "_found", None)
    for name in ("zoonet", "net-zoo/zoonet"):
        assert build(Arch.parse(name), seed=0, **SHAPE).embed(torch.rand(1, 3, 8, 8)).shape[0] == 1
    monkeypatch.setattr(ARCHS, "_found", None)


def test_private_recipes_trust_no_unknown_architecture(file: Path) -> None:
    from ddaudit.distillation import resolve

    with pytest.raises(BadInput, match="clips per record"):
        resolve("dm+dp", options={"networks.arch": f"{file}:Net"}).check_private()


def test_a_checkpoint_says_which_arch_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "n.pt"
    for name in ("ConvNetD2W8BN", "MLP", "ResNet18BN"):
        torch.save(build(Arch.parse(name), seed=0, **SHAPE).state_dict(), path)
        with pytest.raises(BadInput, match=f"does not fit ConvNetD1W16.*fit --arch .*{name}"):
            load_checkpoint(path, arch=Arch.parse("ConvNetD1W16"), **SHAPE)
    torch.save({"a.weight": torch.zeros(3)}, path)
    with pytest.raises(BadInput, match="Is it a ConvNetD1W16"):
        load_checkpoint(path, arch=Arch.parse("ConvNetD1W16"), **SHAPE)


def test_a_saved_network_brings_its_arch_and_constants(tmp_path: Path, file: Path) -> None:
    x = torch.rand(3, 3, 8, 8)
    for name in ("ConvNetD2W8BN", f"{file}:Net"):
        made = build(Arch.parse(name), seed=3, **{**SHAPE, "mean": (0.1,) * 3}).eval()
        save_checkpoint(tmp_path / "n.safetensors", made)
        # Code runs where the user names it, not where a file does.
        own = made.arch if made.arch.own else Arch.parse("MLP")
        read = load_checkpoint(tmp_path / "n.safetensors", arch=own, **SHAPE)
        assert torch.equal(read(x), made(x))
        assert read.arch == made.arch


def test_a_file_that_names_code_does_not_run_it(tmp_path: Path, file: Path) -> None:
    made = build(Arch.parse(f"{file}:Net"), seed=3, **SHAPE)
    save_checkpoint(tmp_path / "n.safetensors", made)
    mark = tmp_path / "ran"
    file.write_text(f"open({str(mark)!r}, 'w')\n" + file.read_text())
    with pytest.raises(BadInput, match=r"somebody's own .*--arch"):
        load_checkpoint(tmp_path / "n.safetensors", arch=Arch.parse("MLP"), **SHAPE)
    assert not mark.exists()


def test_a_module_without_a_linear_end_has_no_embedding() -> None:
    net = wrap(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), (3, 8, 8), 4)
    assert net(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    with pytest.raises(Unsupported, match="no linear layer"):
        net.embed(torch.rand(2, 3, 8, 8))


def test_blocks_of_an_architecture_of_the_users_own_are_refused() -> None:
    body = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8), 3).body
    with pytest.raises(Unsupported, match="blocks"):
        body.blocks(torch.zeros(2, 1, 8, 8))


def stand_in_for_timm() -> ModuleType:
    """What is asked of timm, with one model of any size and one of a fixed size."""
    timm = ModuleType("timm")

    class Sized(nn.Module):
        def __init__(self, num_classes: int, in_chans: int, img_size: tuple[int, int] = (224, 224)):
            super().__init__()
            self.fc = nn.Linear(in_chans * img_size[0] * img_size[1], num_classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    class Free(nn.Module):
        def __init__(self, num_classes: int, in_chans: int):
            super().__init__()
            self.map, self.fc = nn.Conv2d(in_chans, 5, 3), nn.Linear(5, num_classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.map(x).relu().mean((2, 3)))

    kinds = {"test_resnet": Free, "test_vit": Sized}

    def create_model(name: str, pretrained: bool, **given: object) -> nn.Module:
        assert not pretrained
        return kinds[name](**given)

    timm.__version__ = "0"
    timm.create_model = create_model
    timm.is_model = lambda name: name.partition(".")[0] in kinds
    timm.list_models = lambda: list(kinds)
    timm.get_pretrained_cfg = lambda name: SimpleNamespace(fixed_input_size=name == "test_vit")
    return timm


@pytest.fixture(params=["stand-in", "timm"])
def timm(request, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The real library where it is installed (1.0.31 was tried)."""
    if request.param == "timm":
        return pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    made = stand_in_for_timm()
    monkeypatch.setitem(sys.modules, "timm", made)
    return made


def test_models_of_timm_fit_the_data(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"timm:test_resnet": (1, 8, 8), "timm:test_vit": (3, 32, 32)}
    for name, (channels, *size) in shapes.items():
        arch = Arch.parse(name)
        given = {
            "shape": (channels, *size),
            "num_classes": 4,
            "mean": (0.5,) * channels,
            "std": (0.2,) * channels,
        }
        one, same, other = (build(arch, seed=s, **given).eval() for s in (0, 0, 1))
        x = torch.rand(5, channels, *size)
        assert one(x).shape == (5, 4)
        assert torch.equal(one(x), same(x))
        assert not torch.equal(one(x), other(x))
        assert one.embed(x).ndim == 2
        assert Arch.parse(str(arch)) == arch
    monkeypatch.setattr(timm, "__version__", "another")
    assert Arch.parse(str(arch)) != arch


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_resnett", "timm has no such model. Did you mean .*test_resnet"),
        ("timm:hf-hub:ann/net", "timm has no such model"),
        ("timm:test_vit.r160_in1k", "victims start untrained. Write timm:test_vit."),
    ],
)
def test_what_timm_lacks_is_one_line(timm: ModuleType, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Arch.parse(name)


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        BadInput, match=r"needs timm, which is not installed. pip install 'ddaudit\[timm\]'"
    ):
        Arch.parse("timm:resnet18")
