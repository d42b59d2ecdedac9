"""Other people's files are opened without running what is in them, and damage is named."""

from __future__ import annotations

import fractions
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddaudit.errors import BadInput
from ddaudit.sets.formats._safe import load_arrays, load_npz, load_torch, npz_names

_PACKAGE = Path(__file__).parents[3] / "ddaudit"
_ROOT = _PACKAGE / "sets"


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: [b], lambda b: {"data": [[b, b]]}])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_bomb_is_refused_and_does_not_go_off(
    tmp_path: Path, bomb: object, marker: Path, wrap, zipped: bool
) -> None:
    path = tmp_path / "res_DM_MNIST_ConvNet_1ipc.pt"
    torch.save(wrap(bomb), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"holds pickled code \(.*open\); refused"):
        load_torch(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_bare_pickle_bomb_is_refused(
    tmp_path: Path, bomb: object, marker: Path, protocol: int
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(bomb, protocol))
    with pytest.raises(BadInput, match="refused"):
        load_torch(path)
    assert not marker.exists()


def test_numpy_bomb_is_refused(tmp_path: Path, bomb: object, marker: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.array([bomb], dtype=object), label=np.zeros(1))
    marker.unlink(missing_ok=True)
    with pytest.raises(BadInput, match="holds pickled code; refused"):
        load_npz(path, ("image", "label"))
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(BadInput, match="refused"):
        load_npz(path, ("image",))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"text", "is truncated or not a NumPy archive"), (b"", "is empty")],
)
def test_an_archive_that_cannot_be_read_is_not_one_that_lacks_arrays(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "transform.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        load_arrays(path, ("transform_inv",))


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(BadInput, match="refused"):
        load_torch(path)


@pytest.mark.parametrize("keep", [0, 3, 50, 400])
def test_truncated_torch_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(64), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"truncated|empty"):
        load_torch(path)


@pytest.mark.parametrize("keep", [0, 3, 50, 400])
def test_truncated_npz(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros(64))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"truncated|empty"):
        load_npz(path, ("image",))
    assert npz_names(path) == set()


def test_npz_with_other_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(BadInput, match=r"holds no array 'image' \(arrays: x\)"):
        load_npz(tmp_path / "a.npz", ("image",))
    np.save(tmp_path / "b.npy", np.zeros(1))
    with pytest.raises(BadInput, match="single NumPy array"):
        load_npz(tmp_path / "b.npy", ("image",))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize(
    "value", [np.float64(0.8125), np.float32(0.25), np.int64(-7), np.float64("nan")]
)
def test_numpy_scalars_come_through_as_numbers(tmp_path: Path, value, module: bytes) -> None:
    # DC/DSA/DM files carry their accuracies as NumPy scalars, pickled by NumPy 1 in most of them.
    path = tmp_path / "a.pt"
    torch.save({"acc": [value]}, path, _use_new_zipfile_serialization=False)
    written = re.search(rb"numpy\._?core\.multiarray", path.read_bytes())
    assert written is not None
    path.write_bytes(path.read_bytes().replace(written.group(), module))
    (read,) = load_torch(path)["acc"]
    assert type(read) in (float, int)
    np.testing.assert_equal(read, value.item())


def test_numpy_scalars_of_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"acc": np.float64(0.8125)}, path, _use_new_zipfile_serialization=False)
    little = b"X\x01\x00\x00\x00<"  # the pickled string "<" in the state of the dtype
    assert path.read_bytes().count(little) == 1
    path.write_bytes(path.read_bytes().replace(little, little[:-1] + b">"))
    assert load_torch(path)["acc"] == np.frombuffer(np.float64(0.8125).tobytes(), ">f8")[0]


def test_other_numpy_things_do_not_come_through(tmp_path: Path) -> None:
    torch.save({"x": np.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="refused"):
        load_torch(tmp_path / "a.pt")
    torch.save({"x": np.str_("text")}, tmp_path / "b.pt")
    assert load_torch(tmp_path / "b.pt") == {"x": None}


def test_what_others_allowed_is_refused_and_stays_allowed_for_them(tmp_path: Path) -> None:
    torch.save({"acc": np.float64(1)}, tmp_path / "a.pt")
    torch.save({"when": fractions.Fraction(1, 3)}, tmp_path / "b.pt")
    with torch.serialization.safe_globals([fractions.Fraction]):
        before = set(torch.serialization.get_safe_globals())
        load_torch(tmp_path / "a.pt")
        with pytest.raises(BadInput, match=r"\(fractions\.Fraction\); refused"):
            load_torch(tmp_path / "b.pt")
        assert set(torch.serialization.get_safe_globals()) == before


def test_every_torch_load_is_restricted() -> None:
    calls = [
        line
        for file in _PACKAGE.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<!safetensors\.)torch\.load\(", line)
    ]
    assert calls, "the pattern matches nothing any more"
    assert all("weights_only=True" in line for line in calls)


def test_slow_libraries_are_imported_only_where_used() -> None:
    sources = [file.read_text(encoding="utf-8") for file in _ROOT.rglob("*.py")]
    used = re.compile(r"^ +(?:import|from) (?:pyarrow|PIL)\b", re.MULTILINE)
    at_import = re.compile(r"^(?:import|from) (?:pyarrow|PIL)\b", re.MULTILINE)
    assert any(used.search(text) for text in sources), "the pattern matches nothing any more"
    assert not any(at_import.search(text) for text in sources)


def test_a_pytorch_file_with_a_flipped_byte_is_damaged(tmp_path: Path) -> None:
    """PyTorch's own reader returns the wrong pixel without a word."""
    path = tmp_path / "a.pt"
    torch.save({"images": torch.rand(4, 1, 8, 8), "labels": torch.arange(4)}, path)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (entry,) = [e for e in archive.infolist() if e.filename.endswith("data/0")]
    raw[entry.header_offset + entry.file_size] ^= 0x40
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=r"checksum of '.*data/0' in it does not fit"):
        load_torch(path)
