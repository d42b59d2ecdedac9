"""One engine that trains many small networks, its augmentation, and the evaluation protocols."""

from __future__ import annotations

from ddaudit.training import augment
from ddaudit.training._memory import reuse_memory
from ddaudit.training._plan import measure
from ddaudit.training._precision import exact_float32
from ddaudit.training._steps import blend
from ddaudit.training.engine import Extras, at_once, features, predict, require_finite, train_many
from ddaudit.training.losses import log_shares
from ddaudit.training.protocols import PROTOCOLS, EvaluationProtocol, Schedule
from ddaudit.training.robust import Ascent, Curvature, Robust

__all__ = [
    "PROTOCOLS",
    "Ascent",
    "Curvature",
    "EvaluationProtocol",
    "Extras",
    "Robust",
    "Schedule",
    "at_once",
    "augment",
    "blend",
    "exact_float32",
    "features",
    "log_shares",
    "measure",
    "predict",
    "require_finite",
    "reuse_memory",
    "train_many",
]
