"""MLP, LeNet, AlexNet and VGG11 as distillation papers use them for cross-architecture tests.

Facts (widths, paddings) follow the released code of Zhao et al. (DC, ICLR 2021; DM, WACV 2023).
"""

from __future__ import annotations

import math

from torch import nn

from ddaudit.errors import BadInput
from ddaudit.models._convnet import wide_border
from ddaudit.models.arch import Arch

_VGG11: tuple[int, ...] = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)  # 0 = max pooling


def mlp_features(arch: Arch, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """``depth - 1`` hidden layers of ``width``: two of 128 by default, none at depth 1."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(shape)
    for _ in range(arch.depth - 1):
        layers += [nn.Linear(size, arch.width), nn.ReLU()]
        size = arch.width
    return nn.Sequential(*layers), size


def lenet_features(shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """conv5 6, pool, conv5 16, pool, 120, 84; one-channel images are padded by 2.

    Raises:
        BadInput: images below 16x16 (12x12 with one channel) leave nothing for the second
            convolution.
    """
    channels = shape[0]
    padding = 2 if channels == 1 else 0
    height, width = (((n + 2 * padding - 4) // 2 - 4) // 2 for n in shape[1:])
    if min(height, width) < 1:
        raise BadInput(
            "LeNet", f"needs larger images than {shape[1]}x{shape[2]}", "Take ConvNet or MLP."
        )
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    ), 84


def alexnet_features(arch: Arch, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """Five convolutions (128, 192, 256, 192, 192), the first without stride; three max poolings.

    Raises:
        BadInput: images below 8x8.
    """
    padding = 4 if wide_border(shape) else 2
    height, width = ((n + 2 * padding - 4) // 8 for n in shape[1:])
    if min(height, width) < 1:
        raise BadInput(
            "AlexNet", f"needs larger images than {shape[1]}x{shape[2]}", "Take ConvNet or MLP."
        )
    layers: list[nn.Module] = []
    for source, width_, kernel, pad, pool in (
        (shape[0], 128, 5, padding, True),
        (128, 192, 5, 2, True),
        (192, 256, 3, 1, False),
        (256, 192, 3, 1, False),
        (192, 192, 3, 1, True),
    ):
        layers.append(nn.Conv2d(source, width_, kernel_size=kernel, padding=pad))
        if arch.norm != "none":
            layers.append(norm2d(arch.norm, width_))
        layers.append(nn.ReLU())
        if pool:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten()), 192 * height * width


def vgg11_features(arch: Arch, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """VGG-11 with a single linear layer on top; five max poolings.

    Raises:
        BadInput: images below 32x32 (28x28 with one channel).
    """
    border = 4 if wide_border(shape) else 0
    height, width = ((n + border) // 32 for n in shape[1:])
    if min(height, width) < 1:
        raise BadInput(
            "VGG11", f"needs larger images than {shape[1]}x{shape[2]}", "Take ConvNet or MLP."
        )
    layers: list[nn.Module] = []
    source = shape[0]
    for out in _VGG11:
        if not out:
            layers.append(nn.MaxPool2d(2))
            continue
        padding = 3 if not layers and border else 1
        layers += [
            nn.Conv2d(source, out, kernel_size=3, padding=padding),
            norm2d(arch.norm, out),
            nn.ReLU(),
        ]
        source = out
    return nn.Sequential(*layers, nn.Flatten()), 512 * height * width


def norm2d(kind: str, channels: int) -> nn.Module:
    """Batch norm, or the field's instance norm (one group per channel, affine)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels, channels, affine=True)
