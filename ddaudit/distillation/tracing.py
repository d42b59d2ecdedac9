"""One forward pass, and what entered the layers whose statistics recovery compares."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ddaudit.models import Network


@dataclass(frozen=True, eq=False)
class Layer:
    """What entered one layer.

    Attributes:
        module: a batch normalisation or a convolution.
        seen: (N, C, H, W).
    """

    module: nn.BatchNorm2d | nn.Conv2d
    seen: Tensor


@dataclass(frozen=True, eq=False)
class Trace:
    """A pass of N images.

    Attributes:
        logits: (N, K).
        features: (N, D), what entered the classifier.
        layers: batch normalisations and convolutions, in the network's own order.
    """

    logits: Tensor
    features: Tensor
    layers: tuple[Layer, ...]


def trace(net: Network, x: Tensor) -> Trace:
    """Pass normalised images (N, C, H, W) through ``net``, differentiably, and note what enters its layers."""
    entered: dict[nn.Module, Tensor] = {}
    watched = [m for m in net.body.modules() if isinstance(m, (nn.BatchNorm2d, nn.Conv2d))]

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered[module] = inputs[0]

    hooks = [m.register_forward_pre_hook(note) for m in (*watched, net.body.classifier)]
    try:
        logits = net.body(x)
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(Layer(m, entered[m]) for m in watched if m in entered)
    return Trace(logits, entered[net.body.classifier], layers)
