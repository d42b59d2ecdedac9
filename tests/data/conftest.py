"""Small files in the formats that the loaders read, and digests independent of our own code."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

from ddaudit.data import Dataset, ImageData, load_data


def _write_idx(path: Path, array: np.ndarray) -> None:
    """An idx file as MNIST has it: magic number, sizes, bytes."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: MNIST and Fashion-MNIST with 200 training and 100 test images a class."""
    root = tmp_path_factory.mktemp("root")
    rng = np.random.RandomState(7)
    for name in ("MNIST", "FashionMNIST"):
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for prefix, per_class in (("train", 200), ("t10k", 100)):
            n = 10 * per_class
            _write_idx(raw / f"{prefix}-images-idx3-ubyte", rng.randint(0, 256, (n, 28, 28)))
            _write_idx(raw / f"{prefix}-labels-idx1-ubyte", rng.permutation(np.arange(n) % 10))
    return root


@pytest.fixture(scope="session")
def within() -> Callable[[int, int, float], bool]:
    """Whether a count of n coins of probability p is likely; false alarm 1e-6 each."""

    def compute(count: int, n: int, p: float) -> bool:
        low, high = binom.interval(1 - 1e-6, n, p)
        return bool(low <= count <= high)

    return compute


@pytest.fixture(scope="session")
def digest() -> Callable[[ImageData], str]:
    """First 16 hex digits of the SHA-256 of images, labels and groups, as raw bytes."""

    def compute(data: ImageData) -> str:
        sha = hashlib.sha256()
        for part in (data.images, data.labels, data.groups):
            if part is not None:
                sha.update(part.contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    return compute


@pytest.fixture
def grey() -> Callable[..., ImageData]:
    """Makes random grey images with the given number of records of each class, shuffled."""

    def make(counts: list[int], *, size: int = 4, seed: int = 0) -> ImageData:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        images = torch.randint(
            0, 256, (len(labels), 1, size, size), generator=generator, dtype=torch.uint8
        )
        names = tuple(f"class {c}" for c in range(len(counts)))
        return ImageData(images=images, labels=labels, class_names=names)

    return make


@pytest.fixture(scope="session")
def jpeg(data_root: Path) -> Dataset:
    """CIFAR-10 (JPEG) without a validation split, decoded once for all tests."""
    return load_data("cifar10-jpeg:validation=0", root=data_root)
