"""Network sources: which networks the signals are measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ddaudit.data import Dataset
from ddaudit.distillation.parts import Canvas
from ddaudit.models import Arch, Network, build


@dataclass(frozen=True)
class Fresh:
    """A freshly initialised network each time; ``width`` overrides the architecture's."""

    arch: str = "ConvNet"
    width: int | None = None

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"networks.width must be at least 1, got {self.width}")

    def bind(self, data: Dataset) -> Fresh:
        """Needs nothing of the data.

        Raises:
            BadInput: unknown architecture.
        """
        self.resolve()
        return self

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """A new random network on ``device``, in training mode (as the DC family leaves it), identity normalisation."""
        arch = fit(self.resolve(), shape)
        channels = shape[0]
        net = build(
            arch,
            shape=shape,
            num_classes=num_classes,
            seed=seed,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
        )
        return net.to(device).train()

    def resolve(self) -> Arch:
        """The architecture with the width override applied.

        Raises:
            BadInput: unknown architecture.
        """
        arch = Arch.parse(self.arch)
        return replace(arch, width=self.width) if self.width else arch

    def couples_records(self) -> bool:
        """True when the signal of one record depends on the rest of its batch (batch normalisation)."""
        return self.resolve().norm in ("batch", "unknown")

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        """Nothing: architecture and seed are no data."""
        return ()

    def follows(self) -> bool:
        """Never: a network is random."""
        return False

    def update(self, canvas: Canvas, step: int) -> None:
        """Nothing to learn."""


@dataclass(frozen=True)
class Gaussian(Fresh):
    """Fresh networks with normal weights of variance 2 / inputs and normal biases, the ones of wide-network theory.

    Attributes:
        b_std: standard deviation of the biases.

    Source: Loo et al. (RFAD), NeurIPS 2022, arXiv 2210.12067, and the authors' code.
    """

    b_std: float = 0.1

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of :class:`Fresh` with its convolutions and linear layers drawn anew."""
        cpu = torch.device("cpu")
        net = super().make(shape=shape, num_classes=num_classes, seed=seed, device=cpu)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                    std = (2 / module.weight[0].numel()) ** 0.5
                    module.weight.normal_(0, std, generator=generator)
                    if module.bias is not None:
                        module.bias.normal_(0, self.b_std, generator=generator)
        return net.to(device)


def fit(arch: Arch, shape: tuple[int, int, int]) -> Arch:
    """The architecture with ConvNet depth lowered to what the image size allows (8x8: depth 2).

    The field's rule is depth 3 at 32 pixels, one less per halving. Records of a single row (a table) have nothing
    to convolve: an MLP of the usual size stands for ConvNet.
    """
    if arch.family == "convnet" and shape[1] == 1:
        return Arch("mlp")
    size = min(shape[1:])
    if arch.family == "convnet" and arch.depth == 3 and size < 16:
        return replace(arch, depth=2)
    return arch
