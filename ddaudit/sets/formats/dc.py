"""``dc``: result files of DC, DSA, DM and their descendants (CAFE, DataDAM)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets._types import DistilledSet
from ddaudit.sets.formats import _labels, _names
from ddaudit.sets.formats._base import FORMATS, Format, assemble, integer
from ddaudit.sets.formats._pixels import images_4d
from ddaudit.sets.formats._safe import load_torch
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
    """Read ``{'data': [[X, y], ...], 'accs_all_exps': {...}}``: one [X, y] per experiment.

    X is float (C * ipc, ch, H, W) in normalised space, never clipped; y int64, class by class. The
    last experiment is taken unless ``experiment`` says otherwise, as DC-BENCH does. DataDAM's
    release holds one [X, y] directly.

    Source: VICO-UoE/DatasetCondensation, main.py and main_DM.py; justincui03/dc_benchmark,
    data_loader.
    """
    content = load_torch(path)
    if not isinstance(content, Mapping) or "data" not in content:
        raise BadInput(
            path, "holds no 'data' list", "Is it another format? Try --format idc or mtt."
        )
    stored, note = _experiment(content["data"], options, path)
    notes = [note] if note else []
    images = images_4d(stored[0], path)
    labels = _labels.hard(_labels.tensor(stored[1], path), path)
    named = _names.from_result_name(path)
    known = named.published
    if known is not None:
        num_classes = known.num_classes if num_classes is None else num_classes
        mean, std = mean or known.mean, std or known.std
    pixels = undo_preprocessing(
        images,
        mean=mean,
        std=std,
        options=options,
        # Its own code never whitens; others write the same layout and do.
        whitened=True if "zca" in re.split(r"[^a-z0-9]+", path.stem.lower()) else None,
        where=path,
    )
    notes += pixels.notes
    notes += _accuracies(content.get("accs_all_exps"))
    card = _names.card(named, notes, mean=pixels.mean, std=pixels.std)
    return assemble(path, pixels.images, labels, num_classes=num_classes, card=card)


def _experiment(data: Any, options: Mapping[str, str], path: Path) -> tuple[Any, str | None]:
    if not isinstance(data, list | tuple) or not data:
        raise BadInput(path, "holds an empty 'data' list", "Did the run finish?")
    if _is_pair(data):
        return data, None
    index = integer(options, "experiment", default=len(data) - 1)
    if not -len(data) <= index < len(data):
        what = f"holds {len(data)} experiments, so there is no experiment {index}"
        raise BadInput(path, what, f"They are numbered 0 to {len(data) - 1}.")
    chosen = data[index]
    if isinstance(chosen, list) and len(chosen) == 1:
        chosen = chosen[0]  # FreD wraps the pair once more
    if not _is_pair(chosen):
        raise BadInput(path, f"experiment {index} is not a pair [images, labels]")
    number = index % len(data)
    return chosen, f"experiment {number} (of 0 to {len(data) - 1}) of the file"


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(part, Tensor) for part in value)
    )


def _accuracies(record: Any) -> list[str]:
    """The file's own accuracies, over all its experiments, as notes."""
    if not isinstance(record, Mapping):
        return []
    notes = []
    for network, values in record.items():
        numbers = _numbers(values)
        if isinstance(network, str) and numbers:
            average = sum(numbers) / len(numbers)
            notes.append(
                f"the file reports test accuracy {average:.4f} on {network} "
                f"(mean of {len(numbers)} networks over all its experiments)"
            )
    return notes


def _numbers(values: Any) -> list[float]:
    """The numbers of a number, a list or a tensor; none where it is anything else."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
        numbers: list[float] = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
        return numbers
    return []


def sniff(path: Path) -> bool:
    """True for the released file names."""
    return path.suffix == ".pt" and _names.from_result_name(path) != _names.Named()


FORMATS.add(
    "dc",
    Format(
        name="dc",
        summary="res_METHOD_DATA_NET_Nipc.pt of DC, DSA, DM, CAFE; DataDAM's syn_data_*.pt",
        source="VICO-UoE/DatasetCondensation",
        read=read,
        sniff=sniff,
        options={
            "experiment": "which of the file's experiments, from 0; default: the last",
            **ZCA_OPTIONS,
        },
    ),
)
