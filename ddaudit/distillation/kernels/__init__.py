"""Fixed kernels of images, kernel ridge regression, and what it needs to be distilled for.

A dataclass per kernel (:class:`DenseNTK`, :class:`Scattering`), so that a recipe can name one; the mathematics
lives in functions beside them.
"""

from ddaudit.distillation.kernels.base import DenseNTK, Kernel, NetworkFeatures, Scattering
from ddaudit.distillation.kernels.evaluate import krr_accuracy
from ddaudit.distillation.kernels.ntk import dense_nngp, dense_ntk
from ddaudit.distillation.kernels.ridge import (
    Pull,
    centred_targets,
    predict,
    record_losses,
    record_pulls,
    solve,
)
from ddaudit.distillation.kernels.scattering import scatter, standardise_groups

__all__ = [
    "DenseNTK",
    "Kernel",
    "NetworkFeatures",
    "Pull",
    "Scattering",
    "centred_targets",
    "dense_nngp",
    "dense_ntk",
    "krr_accuracy",
    "predict",
    "record_losses",
    "record_pulls",
    "scatter",
    "solve",
    "standardise_groups",
]
