"""Architectures of the user's own: a file, a registered class, a module in hand; checkpoints that say what they are."""

from __future__ import annotations

from pathlib import Path

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
