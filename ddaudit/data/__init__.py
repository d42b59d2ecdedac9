"""Real data: loading, group labels, biased / long-tailed / noisy versions."""

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.registry import (
    DATASETS,
    DataSource,
    Request,
    canonical_spec,
    dataset,
    load_data,
)
from ddaudit.data.spec import Option

__all__ = [
    "DATASETS",
    "DataSource",
    "Dataset",
    "ImageData",
    "Option",
    "Request",
    "canonical_spec",
    "dataset",
    "load_data",
]
