"""The field's architectures, their initialisation, and the normalisation layer in front of them."""

from __future__ import annotations

from ddaudit.models.arch import FAMILIES, Arch
from ddaudit.models.building import build
from ddaudit.models.checkpoints import load_checkpoint, load_state
from ddaudit.models.network import Body, Network, Normalize

__all__ = [
    "FAMILIES",
    "Arch",
    "Body",
    "Network",
    "Normalize",
    "build",
    "load_checkpoint",
    "load_state",
]
