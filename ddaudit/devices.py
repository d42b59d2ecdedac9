"""Devices by the names that users give them, and the profile that suits one."""

from __future__ import annotations

import os
from typing import Literal

import torch

from ddaudit.errors import BadInput


def pick_device(name: str) -> torch.device:
    """The device for a --device value; "auto" prefers CUDA.

    Raises:
        BadInput: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where, todo = f"--device {name}", "Use auto, cpu, cuda or cuda:0."
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(where, "unknown device", todo) from None
    # torch knows a dozen others by name, built for them or not.
    if device.type not in ("cpu", "cuda", "mps") or (device.type == "cpu" and device.index):
        raise BadInput(where, "networks are not trained there", todo)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(where, "this machine has no usable GPU", "Use --device cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BadInput(where, "this machine has no such device", "Use --device cpu.")
    return device


def spread_gpus(name: str) -> tuple[str, ...]:
    """The GPUs that worker processes share out under a --device value, as ``CUDA_VISIBLE_DEVICES`` names them.

    A process that sees one of them alone cannot mix devices. Empty where there is nothing to share out: a device
    was named, or there are fewer than two.
    """
    count = torch.cuda.device_count() if name == "auto" and torch.cuda.is_available() else 0
    if count < 2:
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return tuple(gpu.strip() for gpu in visible.split(",")[:count])


def pick_profile(
    name: Literal["auto", "paper", "small"], device: torch.device
) -> Literal["paper", "small"]:
    """The profile for a --profile value; "auto" is the paper's on a GPU and the small one on a CPU."""
    if name != "auto":
        return name
    return "small" if device.type == "cpu" else "paper"
