"""scikit-learn's breast-cancer and wine tables."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.registry import Request, dataset
from ddaudit.data.tabular import assemble, split_roles
from ddaudit.errors import BadInput

_CELL = (
    "radius", "texture", "perimeter", "area", "smoothness",
    "compactness", "concavity", "concave points", "symmetry", "fractal dimension",
)  # fmt: skip
BREAST_CANCER = tuple(f"{what} {name}" for what in ("mean", "error", "worst") for name in _CELL)
WINE = (
    "alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "total phenols", "flavanoids",
    "nonflavanoid phenols", "proanthocyanins", "color intensity", "hue", "od280/od315", "proline",
)  # fmt: skip


def _embedded(file: str, names: tuple[str, ...]) -> Callable[[Request], Dataset]:
    def load(request: Request) -> Dataset:
        class_names, table = _sklearn_table(file)
        rows = [",".join(f"{v:.10g}" for v in row) for row in table]
        roles = split_roles(rows, test=0.3, validation=0.1)
        x = table[:, :-1]
        train = x[[role == "train" for role in roles]]
        scaled = ((x - train.mean(0)) / train.std(0)).astype(np.float32)
        whole = ImageData(
            images=torch.from_numpy(scaled)[:, None, None, :].contiguous(),
            labels=torch.from_numpy(table[:, -1].astype(np.int64)),
            class_names=class_names,
            space="standard",
            modality="tabular",
        )
        small = f"{request.name} has {len(x)} records: numbers on it are a demonstration."
        public = "means and spreads of the columns (the data set is public)"
        return assemble(
            request, whole, roles, columns=names, notes=(small,),
            assumed=(public,), where=request.name,
        )  # fmt: skip

    return load


dataset(
    "breast-cancer",
    "scikit-learn's breast cancer table: 569 records, 30 numbers, 2 classes",
    embedded=True,
)(_embedded("breast_cancer.csv", BREAST_CANCER))
dataset("wine", "scikit-learn's wine table: 178 records, 13 numbers, 3 classes", embedded=True)(
    _embedded("wine_data.csv", WINE)
)


def _sklearn_table(file: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Class names and (N, D + 1) numbers with the class last, read from scikit-learn's files without its code."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise BadInput("scikit-learn", "is not installed", "pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / file
    with path.open(encoding="ascii") as lines:
        head = next(lines).strip().split(",")
        return tuple(head[2:]), np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
