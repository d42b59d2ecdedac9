"""IDC's multi-formation files: decoded as its own code does, factor from wherever it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets import import_set
from ddaudit.sets.formats.idc import decode


def _quadrants(*values: float, size: int = 8) -> Tensor:
    """(1, size, size): constant quadrants, row by row."""
    half = size // 2
    rows = torch.tensor(values).view(2, 2).repeat_interleave(half, 0).repeat_interleave(half, 1)
    return rows[None]


def _file(folder: Path, *, classes: int = 2, ipc: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = torch.stack(
        [_quadrants(*(0.1 * c + 0.01 * k for k in range(4))) for c in range(classes)]
    )
    labels = torch.arange(classes).repeat_interleave(ipc)
    torch.save([images.repeat_interleave(ipc, 0), labels], folder / "data.pt")
    return folder / "data.pt"


def test_pixels_are_taken_as_they_are(tmp_path: Path) -> None:
    path = _file(tmp_path)
    x = import_set(path, format="idc")
    assert torch.equal(x.images, torch.load(path, weights_only=True)[0])
    assert (x.card.ipc, x.num_classes, x.card.mean) == (1, 2, None)
    assert "not decoded: no factor was given or found" in " ".join(x.card.notes)


@pytest.mark.parametrize("source", ["option", "args", "folder"])
def test_factor_two_gives_four_images_each(tmp_path: Path, source: str) -> None:
    folder = tmp_path / (
        "conv3in_grad_mse_nd2000_cut_factor2_mix_ipc1" if source == "folder" else "a"
    )
    path = _file(folder, ipc=2)
    if source == "args":
        record = {"dataset": "mnist", "factor": 2, "decode_type": "single"}
        (folder / "args.txt").write_text(json.dumps(record), encoding="utf-8")
    x = import_set(path, options={"factor": "2"} if source == "option" else {})
    assert x.images.shape == (16, 1, 8, 8)
    # A constant quadrant stays constant however it is enlarged; pieces come quadrant by quadrant.
    expected = [0.1 * c + 0.01 * k for c in range(2) for k in range(4) for _ in range(2)]
    torch.testing.assert_close(x.images.flatten(1).mean(1), torch.tensor(expected))
    assert float((x.images.amax((1, 2, 3)) - x.images.amin((1, 2, 3))).max()) < 1e-6
    assert x.labels.tolist() == [0] * 8 + [1] * 8
    assert x.card.ipc == 2  # the stored images: what the set costs
    assert x.card.data == ("mnist" if source == "args" else None)


def test_enlarging_is_bilinear() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    pieces, _ = decode(image, torch.zeros(1).long(), factor=2, kind="single", where=Path("x"))
    # Doubling [0, 1] with half-pixel centres: sample points -0.25, 0.25, 0.75, 1.25, clamped.
    assert pieces[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_sizes_that_do_not_divide_are_padded_with_grey() -> None:
    pieces, labels = decode(
        torch.ones(1, 1, 5, 5), torch.tensor([3]), factor=2, kind="single", where=Path("x")
    )
    assert pieces.shape == (4, 1, 5, 5)
    assert float(pieces[0].min()) == 1  # the first piece is 3 x 3 and lies inside
    assert float(pieces[3].min()) == 0.5  # the last one holds a padded row and column
    assert labels.tolist() == [3] * 4


def test_multi_decodes_with_every_factor(tmp_path: Path) -> None:
    x = import_set(_file(tmp_path), options={"factor": "2", "decode": "multi"})
    assert x.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(x.images[0], _quadrants(0, 0.01, 0.02, 0.03))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"factor": "two"}', "[" * 100_000])
def test_other_args_files_are_passed_over(tmp_path: Path, text: str) -> None:
    path = _file(tmp_path)
    (tmp_path / "args.txt").write_text(text, encoding="utf-8")
    assert len(import_set(path)) == 2


@pytest.mark.parametrize("factor", ["0", "-1", "9", "two"])
def test_factors_that_make_no_sense(tmp_path: Path, factor: str) -> None:
    with pytest.raises(BadInput, match="factor"):
        import_set(_file(tmp_path), options={"factor": factor})


def test_content_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    for content, words in (
        ({"data": 1}, "not a pair"),
        ([torch.zeros(2, 1, 4, 4), torch.arange(3)], "3 labels for 2 images"),
        ([torch.zeros(2, 1, 4, 6), torch.arange(2)], "Not square"),
    ):
        torch.save(content, path)
        with pytest.raises(BadInput, match=words):
            import_set(path, format="idc", options={"factor": "2"})


@pytest.mark.parametrize("factor", ["1", "2"])
def test_a_file_without_images(tmp_path: Path, factor: str) -> None:
    torch.save([torch.zeros(0, 1, 8, 8), torch.arange(0)], tmp_path / "data.pt")
    with pytest.raises(BadInput, match=r"data\.pt: holds no images"):
        import_set(tmp_path, options={"factor": factor})
