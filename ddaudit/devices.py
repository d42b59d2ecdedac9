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
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(
            f"--device {name}", "unknown device", "Use auto, cpu, cuda or cuda:0."
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"--device {name}", "this machine has no usable GPU", "Use --device cpu.")
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
