"""The field's architectures, their initialisation, and the normalisation layer in front of them."""

from __future__ import annotations

from ddaudit.models.arch import ABOUT, FAMILIES, Arch
from ddaudit.models.building import build
from ddaudit.models.checkpoints import load_checkpoint, load_state, save_checkpoint
from ddaudit.models.network import Body, Network, Normalize
from ddaudit.models.own import ARCHS, wrap

__all__ = [
    "ABOUT",
    "ARCHS",
    "FAMILIES",
    "Arch",
    "Body",
    "Network",
    "Normalize",
    "build",
    "load_checkpoint",
    "load_state",
    "save_checkpoint",
    "wrap",
]
