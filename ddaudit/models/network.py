"""A network that takes pixels: a Normalize layer, then a body that takes normalised images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ddaudit.errors import BadInput
from ddaudit.models._convnet import ACTIVATIONS
from ddaudit.models._resnet import ResidualBlock
from ddaudit.models.arch import Arch


class Normalize(nn.Module):
    """(x - mean) / std per channel; x are pixels in [0, 1], (N, C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


class Body(nn.Module):
    """What the field calls the network: ``features`` (flattened last map), linear ``classifier``.

    Attributes:
        features: (N, C, H, W) normalised images -> (N, D) embedding, the input of the classifier.
        classifier: (N, D) -> (N, K) logits.
    """

    def __init__(self, features: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits

    def blocks(self, x: Tensor) -> list[Tensor]:
        """What every block makes of normalised images x (N, C, H, W), and the embedding (N, D) last.

        A block's output is taken after its activation and before pooling: ConvNet gives one map (N, C_i, H_i, W_i)
        per convolution, ResNet18 that of its stem and of each residual block, MLP its hidden layers (N, D_i).

        Raises:
            Unsupported: an architecture of the user's own, which does not say what its blocks are.
        """
        outputs: list[Tensor] = []
        for module in _steps(self.features):
            x = module(x)
            if isinstance(module, (*ACTIVATIONS, ResidualBlock)):
                outputs.append(x)
        return [*outputs, x]


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a sequence of sequences runs one after the other."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _steps(child)
    else:
        yield module


class Network(nn.Module):
    """Pixels in [0, 1] -> logits. Made by :func:`ddaudit.models.building`.

    Attributes:
        normalize: the Normalize layer (buffers, no parameters).
        body: :class:`Body`, takes normalised images.
        arch: what it is; ``shape`` (C, H, W) and ``num_classes`` what it is for.
        trained_with: the training engine's strategy ("loop", "compiled", "stacked"), None if it was
            not trained here.
        accuracy: fraction of the real records it was trained on that it got right, as whoever trained it counted
            them while a set was distilled; None: nobody counted.
        origin: what was taken of a checkpoint that holds more than these weights; None where there is nothing to say.
    """

    def __init__(
        self,
        body: Body,
        *,
        arch: Arch,
        shape: tuple[int, int, int],
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if len(mean) != shape[0] or len(std) != shape[0]:
            raise BadInput(
                "normalisation",
                f"has {len(mean)} means and {len(std)} stds for {shape[0]} channels",
                "Give one of each per channel.",
            )
        if not all(s > 0 for s in std):
            raise BadInput("normalisation", "has a standard deviation that is not positive")
        self.normalize = Normalize(mean, std)
        self.body = body
        self.arch = arch
        self.shape = shape
        self.num_classes = num_classes
        self.trained_with: str | None = None
        self.accuracy: float | None = None
        self.origin: str | None = None

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) pixels in [0, 1] -> (N, K) logits."""
        logits: Tensor = self.body(self.normalize(pixels))
        return logits

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) pixels in [0, 1] -> (N, D) penultimate features."""
        features: Tensor = self.body.features(self.normalize(pixels))
        return features

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.normalize.mean.device
