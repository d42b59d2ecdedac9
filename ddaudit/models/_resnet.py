"""ResNet18 for small images (3x3 stem, no max pooling), by stride or by average pooling ("AP").

Facts follow the released code of Zhao et al. (DC, ICLR 2021).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from ddaudit.errors import BadInput
from ddaudit.models._classic import norm2d
from ddaudit.models.arch import Arch


def resnet18_features(arch: Arch, shape: tuple[int, int, int]) -> tuple[nn.Sequential, int]:
    """Stem and four stages of two basic blocks (64, 128, 256, 512 channels).

    The strided form ends in a global average (512 features); the "AP" form keeps its last map.

    Raises:
        BadInput: images so small that the last stage is a single pixel, which instance norm maps to
            a constant.
    """
    averaging = arch.pool == "avg"
    height, width = (n // 8 if averaging else -(-n // 8) for n in shape[1:])
    if min(height, width) < (2 if arch.norm == "instance" else 1):
        todo = (
            "Take ResNet18BN, ConvNet or MLP."
            if arch.norm == "instance"
            else "Take ConvNet or MLP."
        )
        raise BadInput(arch, f"needs larger images than {shape[1]}x{shape[2]}", todo)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(shape[0], 64, kernel_size=3, padding=1, bias=False)
    layers["bn1"] = norm2d(arch.norm, 64)
    layers["relu"] = nn.ReLU()
    source = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        first = ResidualBlock(source, channels, down=stage > 1, averaging=averaging, norm=arch.norm)
        second = ResidualBlock(channels, channels, down=False, averaging=averaging, norm=arch.norm)
        layers[f"layer{stage}"] = nn.Sequential(first, second)
        source = channels
    if not averaging:
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        height = width = 1
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers), 512 * height * width


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``down`` halves the map, by stride or by averaging."""

    def __init__(
        self, source: int, channels: int, *, down: bool, averaging: bool, norm: str
    ) -> None:
        super().__init__()
        stride = 2 if down and not averaging else 1
        self.halve = down and averaging
        self.conv1 = nn.Conv2d(
            source, channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn1 = norm2d(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = norm2d(norm, channels)
        self.shortcut = nn.Sequential()
        if down or source != channels:
            steps: list[nn.Module] = [
                nn.Conv2d(source, channels, kernel_size=1, stride=stride, bias=False)
            ]
            steps += [nn.AvgPool2d(2)] if self.halve else []
            self.shortcut = nn.Sequential(*steps, norm2d(norm, channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        if self.halve:
            out = F.avg_pool2d(out, 2)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))
