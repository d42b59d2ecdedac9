"""Sets that are stored as factors, in the layouts of HaBa, RTP and FreD; RFAD's archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddaudit.data import Dataset
from ddaudit.distillation import resolve
from ddaudit.distillation.canvas import Start
from ddaudit.errors import BadInput
from ddaudit.sets import detect, import_set

_NO_ZCA = {"zca": "false"}


class StyleTranslator(nn.Module):
    """As Huage001/DatasetFactorization defines it: names and shapes of its state."""

    def __init__(self, inputs: int, channels: int, size: int) -> None:
        super().__init__()
        self.enc = nn.Conv2d(inputs, channels, 3)
        self.scale = nn.Parameter(torch.rand(1, channels, size - 2, size - 2))
        self.shift = nn.Parameter(torch.rand(1, channels, size - 2, size - 2))
        self.dec = nn.ConvTranspose2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.scale * self.enc(x) + self.shift)


def _haba(folder: Path, *, inputs: int = 3, tag: str = "best") -> Tensor:
    """Files of 8 bases in 2 styles; returns what they decode to, (8, 2, 3, 8, 8)."""
    torch.manual_seed(0)
    bases = 5 * torch.randn(8, inputs, 8, 8)
    styles = nn.ModuleList(StyleTranslator(inputs, 3, 8) for _ in range(2))
    torch.save(bases, folder / f"images_{tag}.pt")
    name = "weights_best.pt" if tag == "best" else f"styles_{tag}.pt"
    torch.save(styles.state_dict(), folder / name)
    with torch.no_grad():
        return torch.stack([style(bases) for style in styles], 1)


@pytest.mark.parametrize("inputs", [3, 1])
def test_haba_bases_are_seen_in_every_style(tmp_path: Path, tiny: Dataset, inputs: int) -> None:
    want = _haba(tmp_path, inputs=inputs)
    assert detect(tmp_path) == detect(tmp_path / "images_best.pt") == "haba"
    x = import_set(tmp_path, data=tiny, options=_NO_ZCA)
    torch.testing.assert_close(x.images, want.flatten(0, 1) * 0.25 + 0.4)
    assert x.labels.tolist() == [c for c in range(4) for _ in range(4)]
    assert (x.card.method, x.card.ipc) == ("haba", 2)
    style = 3 * inputs * 9 + 3 + 3 * 3 * 9 + 3 + 2 * 3 * 36
    assert x.card.bytes is not None
    assert (x.card.bytes.images, x.card.bytes.decoder) == (4 * 8 * inputs * 64, 4 * 2 * style)


def test_haba_files_of_an_iteration(tmp_path: Path, tiny: Dataset) -> None:
    for tag in ("900", "1000"):
        _haba(tmp_path, tag=tag)
    x = import_set(tmp_path, data=tiny, options=_NO_ZCA)
    assert len(x) == 16
    (tmp_path / "styles_1000.pt").unlink()
    with pytest.raises(BadInput, match="has no hallucinators beside it"):
        import_set(tmp_path, format="haba", data=tiny, options=_NO_ZCA)


def test_ddaudits_own_hallucinators_go_through_the_layout(tmp_path: Path, tiny: Dataset) -> None:
    """What a recipe's canvas decodes to, and what its factors in HaBa's files decode to."""
    synthesis = resolve("haba-dm", options={"synthesis.contrast": 0}).synthesis
    assert synthesis is not None
    mean, std = (torch.tensor(v)[:, None, None] for v in (tiny.mean, tiny.std))
    everybody = torch.ones(1, len(tiny.train), dtype=torch.bool)
    draws = torch.Generator().manual_seed(0)
    canvas = synthesis.start(Start(tiny.train, everybody, 1, mean, std, draws))
    bases, *weights = canvas.parameters
    names = ("scale", "shift", "enc.weight", "enc.bias", "dec.weight", "dec.bias")
    torch.save(bases.detach()[0], tmp_path / "images_best.pt")
    state = {f"{i // 6}.{names[i % 6]}": w.detach() for i, w in enumerate(weights)}
    torch.save(state, tmp_path / "weights_best.pt")
    x = import_set(tmp_path, data=tiny, options=_NO_ZCA)
    torch.testing.assert_close(x.images, canvas.decode().detach()[0] * 0.25 + 0.4)
    assert x.labels.tolist() == canvas.labels.tolist()
    assert x.card.bytes is not None
    assert x.card.bytes.decoder == canvas.decoder_bytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("1.shift"), "'0.scale' is missing or too much|'1"),
        (lambda s: s.update({"0.shift": torch.zeros(1, 3, 4, 4)}), "do not fit each other"),
        (lambda s: s.update({"0.scale": "x"}), "'0.scale' is no tensor of numbers"),
        (lambda s: s.clear(), "holds no state of hallucinators"),
    ],
)
def test_hallucinators_that_are_something_else(
    tmp_path: Path, tiny: Dataset, change, words: str
) -> None:
    _haba(tmp_path)
    state = dict(torch.load(tmp_path / "weights_best.pt", weights_only=True))
    change(state)
    torch.save(state, tmp_path / "weights_best.pt")
    with pytest.raises(BadInput, match=words):
        import_set(tmp_path, format="haba", data=tiny, options=_NO_ZCA)


def test_haba_without_bases_is_refused(tmp_path: Path, tiny: Dataset) -> None:
    _haba(tmp_path)
    torch.save(torch.zeros(0, 3, 8, 8), tmp_path / "images_best.pt")
    with pytest.raises(BadInput, match=r"images_best\.pt: holds no bases"):
        import_set(tmp_path, format="haba", data=tiny, options=_NO_ZCA)


def test_haba_needs_the_classes_and_as_many_bases_of_each(tmp_path: Path, tiny: Dataset) -> None:
    _haba(tmp_path)
    with pytest.raises(BadInput, match="does not say how many classes"):
        import_set(tmp_path, options={**_NO_ZCA, "mean": "0.4,0.4,0.4", "std": "0.2,0.2,0.2"})
    torch.save(torch.randn(7, 3, 8, 8), tmp_path / "images_best.pt")
    with pytest.raises(BadInput, match="7 bases, not equally many for 4 classes"):
        import_set(tmp_path, data=tiny, options=_NO_ZCA)


def _rtp(path: Path, *, side: int, bases: int = 3, per_class: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    basis, imgs = nn.Embedding(bases, 3 * side * side), nn.Embedding(4 * per_class, bases)
    state = {"basis.weight": basis.weight.detach(), "imgs.weight": imgs.weight.detach()}
    torch.save({"compressor": state}, path)
    return imgs.weight.detach(), basis.weight.detach()


def test_a_memory_is_recalled_and_enlarged(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "imgs_embedding_basis_minibatch_tiny_compressor.pt"
    addresses, bases = _rtp(path, side=4)
    assert detect(path) == "rtp"
    x = import_set(path, data=tiny, options=_NO_ZCA)
    small = torch.einsum("mb,bp->mp", addresses, bases).view(-1, 3, 4, 4)
    large = nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(x.images, large * 0.25 + 0.4)
    assert x.labels.tolist() == [c for c in range(4) for _ in range(5)]
    assert x.card.bytes is not None
    assert x.card.bytes.images == 4 * (3 * 48 + 20 * 3)
    _rtp(path, side=8)
    assert import_set(path, data=tiny, options=_NO_ZCA).shape == (3, 8, 8)


def test_a_memory_of_images_without_bases(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "a_compressor.pt"
    rows = torch.randn(4, 3 * 64)
    torch.save({"compressor": {"imgs.weight": rows}}, path)
    x = import_set(path, data=tiny, options=_NO_ZCA)
    torch.testing.assert_close(x.images, rows.view(4, 3, 8, 8) * 0.25 + 0.4)


def test_memories_of_other_data_are_refused(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "a_compressor.pt"
    _rtp(path, side=5)
    with pytest.raises(BadInput, match="rows of 75 numbers are no images of"):
        import_set(path, data=tiny, options=_NO_ZCA)
    torch.save({"compressor": {"imgs.weight": torch.zeros(3)}}, path)
    with pytest.raises(BadInput, match=r"'imgs\.weight' is no matrix of numbers"):
        import_set(path, data=tiny, options=_NO_ZCA)
    _rtp(path, side=8)
    with pytest.raises(BadInput, match="says neither classes nor image size"):
        import_set(path, options={**_NO_ZCA, "mean": "0.4,0.4,0.4", "std": "0.2,0.2,0.2"})


def test_fred_writes_its_decoded_images_as_dc_does(tmp_path: Path, tiny: Dataset) -> None:
    """``data`` is a list of lists of one (images, labels)."""
    path = tmp_path / "res_DM_tiny_ConvNetD3_2ipc.pt"
    images, labels = torch.full((8, 3, 8, 8), 2.0), torch.arange(4).repeat_interleave(2)
    torch.save({"data": [[(images, labels)]], "accs_all_exps": {"ConvNetD3": [0.5]}}, path)
    x = import_set(path, data=tiny, options=_NO_ZCA)
    assert float(x.images[0, 0, 0, 0]) == pytest.approx(2 * 0.25 + 0.4)
    assert x.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("name", ["best.npz", "800.npz"])
def test_rfad_archive(tmp_path: Path, name: str) -> None:
    """Arrays as distillation.py saves them: k a 0-d float64, jit a Python float."""
    images = np.zeros((4, 1, 8, 8), dtype=np.float32)
    images[3, 0, 5, 7] = 2
    labels = np.eye(4, dtype=np.float32) - 0.25
    labels[1] = [0.3, 0.2, -0.9, 0.1]
    extra = {"valid_loss": 0.1, "best_iter": 40} if name == "best.npz" else {}
    path = tmp_path / name
    np.savez(path, images=images, labels=labels, k=torch.tensor(1.5).double(), jit=5e-3, **extra)
    assert detect(path) == "rfad"
    x = import_set(path, options={"mean": "0.1307", "std": "0.3081"})
    assert float(x.images[3, 0, 5, 7]) == pytest.approx(2 * 0.3081 + 0.1307)
    assert x.labels.tolist() == [0, 0, 2, 3]
    assert x.num_classes == 4
    assert "log scale 1.5, relative ridge 0.005" in " ".join(x.card.notes)
    if name == "best.npz":
        assert detect(tmp_path) == "rfad"


def test_other_archives_are_not_rfads(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((4, 1, 8, 8), np.float32), labels=np.arange(4))
    assert detect(path) == "npz"
    np.savez(path, images=np.zeros((4, 1, 8, 8), np.float32), labels=np.eye(4), k=np.ones(3), jit=1)
    with pytest.raises(BadInput, match="'k' is no number"):
        import_set(path, options={"mean": "0.1", "std": "0.3"})
