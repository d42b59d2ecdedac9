"""ConvNet-D/W/norm, the workhorse of dataset distillation.

Facts follow the released code of Zhao et al. (DC, ICLR 2021); parameter names match it, so its
checkpoints load.
"""

from __future__ import annotations

from torch import nn

from ddaudit.errors import BadInput
from ddaudit.models._pool import AvgPool2
from ddaudit.models.arch import Arch

_GROUPS = 4
_KINDS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leakyrelu": nn.LeakyReLU,
    "swish": nn.SiLU,
}
ACTIVATIONS = tuple(_KINDS.values())


def convnet_features(arch: Arch, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """The convolutional part and its output dimension.

    ``depth`` blocks of conv 3x3, norm, activation, 2x2 pooling, at constant width. The first
    convolution pads by 3 on one-channel images of 28 pixels and more, which turns 28x28 into the
    32x32 maps of RGB sets.

    Raises:
        BadInput: more pooling steps than the image has halvings, or an instance norm over single
            pixels.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for block in range(arch.depth):
        padding = 3 if block == 0 and wide_border(shape) else 1
        height, width = height + 2 * padding - 2, width + 2 * padding - 2
        layers.append(nn.Conv2d(channels, arch.width, kernel_size=3, padding=padding))
        channels = arch.width
        if arch.norm != "none":
            layers.append(_norm(arch.norm, (channels, height, width)))
        layers.append(_act(arch.act))
        if arch.pool != "none":
            layers.append(AvgPool2() if arch.pool == "avg" else nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        if min(height, width) < 1:
            raise BadInput(
                arch,
                f"is too deep for {shape[1]}x{shape[2]} images: block {block + 1} pools to nothing",
                f"Take a depth of at most {block}, for example ConvNetD{max(block, 1)}.",
            )
    layers.append(nn.Flatten())
    return nn.Sequential(*layers), channels * height * width


def wide_border(shape: tuple[int, int, int]) -> bool:
    """True where the first convolution pads 2 pixels more: grey images of 28x28 and larger."""
    return shape[0] == 1 and min(shape[1:]) >= 28


def _norm(kind: str, shape: tuple[int, int, int]) -> nn.Module:
    channels = shape[0]
    if (
        kind == "instance"
    ):  # the field's "instance norm": one group per channel, with scale and shift
        return nn.GroupNorm(channels, channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(_GROUPS, channels, affine=True)
    if kind == "layer":
        return nn.LayerNorm(list(shape))
    return nn.BatchNorm2d(channels)


def _act(kind: str) -> nn.Module:
    # Not in place: objectives hook the maps before the activation too.
    return _KINDS[kind]()
