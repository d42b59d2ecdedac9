"""``kip``: released archives of KIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ddaudit.errors import BadInput
from ddaudit.sets._types import DistilledSet
from ddaudit.sets.formats import _labels, _names
from ddaudit.sets.formats._base import FORMATS, Format, assemble, flag
from ddaudit.sets.formats._pixels import RANGE_OPTION, channels_first, images_4d, pixels_of
from ddaudit.sets.formats._safe import load_npz, npz_names


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``kip_DATA_NET_ssizeM_*.npz``: ``images`` (M, H, W, C) float, ``labels`` (M, K) centred.

    A name with ``zca`` means whitened images. KIP centres every image and divides it by its own
    norm before whitening; neither is in the file, so those pixels cannot be recovered and are
    refused.

    Source: justincui03/dc_benchmark, data_loader/kip_data_loader.py (layout, names, whitening).
    """
    arrays = load_npz(path, ("images", "labels"))
    images, layout_note = channels_first(images_4d(arrays["images"], path), path)
    given = _labels.tensor(arrays["labels"], path)
    labels, label_note = _labels.from_regression(given, path, options)
    if num_classes is None and arrays["labels"].ndim == 2:
        num_classes = int(arrays["labels"].shape[1])
    zca = flag(options, "zca")
    if zca is None:
        zca = _says_zca(path, channels=images.shape[1])
    if zca:
        raise BadInput(
            path,
            "images are ZCA-whitened after a per-image scaling that the file does not hold",
            "Pixels cannot be recovered; pass --set zca=false only if they were not whitened.",
        )
    named = _names.from_kip_name(path)
    if named.published is not None:
        mean, std = mean or named.published.mean, std or named.published.std
    pixels = pixels_of(images, usual="normalised", mean=mean, std=std, options=options, where=path)
    notes = [*pixels.notes, *(note for note in (layout_note, label_note) if note)]
    notes.append("taken as not ZCA-whitened")
    card = _names.card(named, notes, mean=pixels.mean, std=pixels.std)
    return assemble(path, pixels.images, labels, num_classes=num_classes, card=card)


def _says_zca(path: Path, *, channels: int) -> bool:
    if "zca" in path.stem.lower().split("_"):
        return True
    if channels == 1 or "nozca" in path.stem.lower().split("_"):
        return False
    raise BadInput(
        path,
        "does not say whether its images are ZCA-whitened, as KIP's colour sets are",
        "Pass --set zca=false if they are not; whitened ones cannot be recovered.",
    )


def sniff(path: Path) -> bool:
    """True for an .npz with ``images`` and ``labels`` that is named as KIP names them, images counted."""
    named = path.suffix == ".npz" and _names.from_kip_name(path).method is not None
    return named and {"images", "labels"} <= npz_names(path)


FORMATS.add(
    "kip",
    Format(
        name="kip",
        summary="kip_*.npz of KIP (arrays images, labels), not ZCA-whitened",
        source="Nguyen et al., KIP",
        read=read,
        sniff=sniff,
        options={
            "zca": "false: the images were not ZCA-whitened",
            **RANGE_OPTION,
            **_labels.TARGET_OPTIONS,
        },
    ),
)
