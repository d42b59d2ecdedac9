"""``frepo``: prototype archives of FRePo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats import _labels
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._pixels import channels_first, images_4d
from ddaudit.sets.formats._safe import load_npz, npz_names
from ddaudit.sets.formats._zca import ZCA_OPTIONS, undo_preprocessing


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``np/step*.npz``: ``image`` (M, H, W, C) float, ``label`` (M, K) centred targets.

    Images are mean/std-normalised on MNIST and Fashion-MNIST and ZCA-whitened on every other set;
    labels are one-hot minus 1 / K, divided by sqrt(K / 10), then learned.

    Source: yongchaoz/FRePo, lib/datadistillation/utils.py (save_proto_np),
    lib/dataset/dataloader.py and README. Its CIFAR-10 std (0.247, 0.2435, 0.2616) is not the one
    of DC: give it by the option ``std``.
    """
    arrays = load_npz(path, ("image", "label"))
    images, layout_note = channels_first(images_4d(arrays["image"], path), path)
    given = _labels.tensor(arrays["label"], path)
    labels, label_note = _labels.from_regression(given, path, options, scaled=True)
    if num_classes is None and arrays["label"].ndim == 2:
        num_classes = int(arrays["label"].shape[1])
    pixels = undo_preprocessing(
        images, mean=mean, std=std, options=options, whitened=None, where=path
    )
    notes = pixels.notes + [note for note in (layout_note, label_note) if note]
    card = Card(mean=pixels.mean, std=pixels.std, notes=notes)
    return assemble(path, pixels.images, labels, num_classes=num_classes, card=card)


def sniff(path: Path) -> bool:
    """True for an .npz with ``image`` and ``label``."""
    return path.suffix == ".npz" and {"image", "label"} <= npz_names(path)


FORMATS.add(
    "frepo",
    Format(
        name="frepo",
        summary="np/step*.npz of FRePo (arrays image, label)",
        source="yongchaoz/FRePo",
        read=read,
        sniff=sniff,
        options={**ZCA_OPTIONS, **_labels.TARGET_OPTIONS},
    ),
)
