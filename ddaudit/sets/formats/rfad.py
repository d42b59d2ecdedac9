"""``rfad``: archives of RFAD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ddaudit.errors import BadInput
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats import _labels
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._pixels import images_4d
from ddaudit.sets.formats._safe import load_npz, npz_names
from ddaudit.sets.formats._zca import ZCA_OPTIONS, undo_preprocessing

_NAMES = ("images", "labels", "k", "jit")


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``best.npz`` or ``ITERATION.npz``: ``images`` (M, C, H, W) float, ``labels`` (M, K) centred targets.

    Images are mean/std-normalised, and on colour sets but CelebA whitened; the learned whitening is in them already.
    ``k`` is the logarithm of the Platt scale, ``jit`` the relative ridge: both belong to kernel regression alone.

    Source: yolky/RFAD, distillation.py, data.py and run_distillation.py.
    """
    file = path / "best.npz" if path.is_dir() else path
    arrays = load_npz(file, _NAMES)
    images = images_4d(arrays["images"], file)
    given = _labels.tensor(arrays["labels"], file)
    labels, label_note = _labels.from_regression(given, file, options)
    if num_classes is None and arrays["labels"].ndim == 2:
        num_classes = int(arrays["labels"].shape[1])
    pixels = undo_preprocessing(
        images, mean=mean, std=std, options=options, whitened=None, where=file
    )
    for name in ("k", "jit"):
        if arrays[name].size != 1 or arrays[name].dtype.kind not in "fiu":
            raise BadInput(
                file, f"'{name}' is no number", "Is it another format? Try --format npz."
            )
    scale, ridge = (float(arrays[name].item()) for name in ("k", "jit"))
    regression = f"for kernel regression: log scale {scale:.4g}, relative ridge {ridge:.4g}"
    notes = [*pixels.notes, *filter(None, [label_note]), regression]
    card = Card(method="rfad", mean=pixels.mean, std=pixels.std, notes=notes)
    return assemble(file, pixels.images, labels, num_classes=num_classes, card=card)


def sniff(path: Path) -> bool:
    """True for an .npz with RFAD's four arrays, or a folder with one called best.npz."""
    file = path / "best.npz" if path.is_dir() else path
    return file.suffix == ".npz" and file.is_file() and set(_NAMES) <= npz_names(file)


FORMATS.add(
    "rfad",
    Format(
        name="rfad",
        summary="best.npz of RFAD (arrays images, labels, k, jit; file or folder)",
        source="yolky/RFAD",
        read=read,
        sniff=sniff,
        options={**ZCA_OPTIONS, **_labels.TARGET_OPTIONS},
    ),
)
