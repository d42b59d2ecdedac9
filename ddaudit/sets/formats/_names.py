"""What a file name tells (method, data set, images per class), and published constants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddaudit.sets._types import Card

_NETWORK = re.compile(
    r"(ConvNet|MLP|LeNet|AlexNet|VGG|ResNet|FC|Linear|ViT|WRN|DenseNet|MobileNet)[A-Za-z0-9]*"
)
"""Networks of the condensation code of the field, by the beginning of their names."""


@dataclass(frozen=True)
class Published:
    """Shape and normalisation of a data set as the condensation code of the field has it."""

    num_classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Named:
    """What a file name says; None where it is silent."""

    method: str | None = None
    data: str | None = None
    ipc: int | None = None
    published: Published | None = None


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Source: VICO-UoE/DatasetCondensation, utils.py, get_dataset.
PUBLISHED = {
    "mnist": Published(10, (1, 28, 28), (0.1307,), (0.3081,)),
    "fashionmnist": Published(10, (1, 28, 28), (0.2861,), (0.3530,)),
    "svhn": Published(10, (3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": Published(10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Published(100, (3, 32, 32), (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tinyimagenet": Published(200, (3, 64, 64), *_IMAGENET),
}
_ALIASES = {"fashion": "fashionmnist", "fmnist": "fashionmnist", "tiny": "tinyimagenet"}


def from_result_name(path: Path) -> Named:
    """Parse ``res_{METHOD}_{DATASET}_{NET}_{ipc}ipc.pt`` and its relatives.

    The first release of DC wrote no method (``res_{DATASET}_{NET}_{ipc}ipc.pt``); DataDAM's is
    ``syn_data_{DATASET}_ipc_{ipc}.pt``. Data sets and networks may hold underscores (``CIFAR10_S_90``,
    ``ResNet18BN_AP``): where the network is none of the field's, the name says only how many images there are.
    """
    parsed = re.fullmatch(r"res_(\w+)_(\d+)ipc", path.stem)
    if parsed:
        words, ipc = _before_network(parsed.group(1).split("_")), int(parsed.group(2))
        if not words:
            return Named(ipc=ipc) if "_" in parsed.group(1) else Named()
        if len(words) == 1 or canonical(words[0]) in PUBLISHED:
            return _named("dc", "_".join(words), ipc)
        return _named(words[0].lower(), "_".join(words[1:]), ipc)
    parsed = re.fullmatch(r"syn_data_(\w+)_ipc_(\d+)", path.stem)
    if parsed:
        return _named(None, parsed.group(1), int(parsed.group(2)))
    return Named()


def from_kip_name(path: Path) -> Named:
    """Parse ``kip_{dataset}_{net}_ssize{M}_...npz`` (M images in all)."""
    parsed = re.match(r"kip_(\w+?)_ssize(\d+)", path.stem)
    if not parsed:
        return Named()
    words = _before_network(parsed.group(1).split("_"))
    if not words:
        return Named("kip")
    named = _named("kip", "_".join(words), None)
    total, known = int(parsed.group(2)), named.published
    ipc = total // known.num_classes if known and total % known.num_classes == 0 else None
    return Named(named.method, named.data, ipc, named.published)


def _before_network(words: list[str]) -> list[str]:
    """The words in front of the network's name; none where no word is a network of the field."""
    known = [i for i, word in enumerate(words) if _NETWORK.fullmatch(word)]
    return words[: known[-1]] if known else []


def same_data(a: str, b: str) -> bool:
    """True when two spellings name one data set (``FashionMNIST`` and ``fashion-mnist``)."""
    return canonical(a) == canonical(b)


def canonical(name: str) -> str:
    """A data set's name without case, punctuation and options (``mnist:validation=0``).

    Between two digits punctuation counts: ``CIFAR10_0`` is not CIFAR-100.
    """
    key = re.sub(r"(?<!\d)[^a-z0-9]+|[^a-z0-9]+(?!\d)", "", name.partition(":")[0].lower())
    return _ALIASES.get(key, key)


def card(
    named: Named, notes: list[str], *, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Card:
    """A card that says what the name says and which constants normalised the images, no more."""
    return Card(
        method=named.method or "unknown",
        data=named.data,
        ipc=named.ipc,
        mean=None if mean is None else list(mean),
        std=None if std is None else list(std),
        notes=notes,
    )


def _named(method: str | None, data: str, ipc: int | None) -> Named:
    return Named(method, data, ipc, PUBLISHED.get(canonical(data)))
