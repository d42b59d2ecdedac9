"""Devices by the names that users give them."""

from __future__ import annotations

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
