"""Build a network from its description, with an initialisation that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ddaudit.errors import BadInput
from ddaudit.models._classic import alexnet_features, lenet_features, mlp_features, vgg11_features
from ddaudit.models._convnet import convnet_features
from ddaudit.models._resnet import resnet18_features
from ddaudit.models.arch import Arch
from ddaudit.models.network import Body, Network
from ddaudit.models.own import own_body


def build(
    arch: Arch,
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Network:
    """A freshly initialised network on the CPU, in training mode.

    Args:
        arch: what to build; ``Arch.parse("ConvNetD2W32")`` reads a name.
        shape: (C, H, W) of its images.
        num_classes: number of logits.
        seed: initialisation (PyTorch's defaults, as the field uses); equal seeds, equal weights.
        mean: per-channel mean of the Normalize layer in front, for pixels in [0, 1].
        std: per-channel standard deviation of the same.

    Raises:
        BadInput: the architecture does not fit images of this shape.
    """
    if num_classes < 1:
        raise BadInput("num_classes", f"is {num_classes}", "A network needs at least one class.")
    # Layers draw from torch's CPU generator: lend it a seeded state and give the caller's back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        if arch.family == "own":
            body = own_body(arch, shape, num_classes)
        else:
            features, width = _features(arch, shape)
            body = Body(features, nn.Linear(width, num_classes))
    return Network(body, arch=arch, shape=shape, num_classes=num_classes, mean=mean, std=std)


def _features(arch: Arch, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    if arch.family == "mlp":
        return mlp_features(arch, shape)
    if arch.family == "lenet":
        return lenet_features(shape)
    if arch.family == "alexnet":
        return alexnet_features(arch, shape)
    if arch.family == "vgg11":
        return vgg11_features(arch, shape)
    if arch.family == "resnet18":
        return resnet18_features(arch, shape)
    return convnet_features(arch, shape)
