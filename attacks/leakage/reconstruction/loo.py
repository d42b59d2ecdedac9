"""The weight-space attack: training images from a network's weights before and after training.

A network trained by gradient descent on squared error has moved along its training gradients:
``theta_f - theta_0 = sum_i a_i grad_theta f(x_i)``, exactly so for infinitely wide networks. Images and duals
that explain the move are found by gradient descent; for wide networks they are the training images.

Source: Loo, Hasani, Lechner, Amini & Rus, "Understanding Reconstruction Attacks with the Neural Tangent Kernel
and Dataset Distillation", ICLR 2024, arXiv 2302.01428, section 3; constants from the authors' code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import stats as scipy_stats
from torch import Tensor

from ddaudit.errors import BadInput

Params = tuple[Tensor, ...]
"""Weight (out, in) and bias (out,) of each layer of a multi-layer perceptron, in order."""
Activation = Callable[[Tensor], Tensor]

BOUND_WEIGHT = 0.1
"""Weight of the penalty on pixels outside the allowed range."""
BETA = (10.0, 200.0)
"""Sharpness of the softplus that stands for ReLU: 10 + 10^(4 t), at most 200; t runs from 0 to 1."""
STEPS = 80_000
"""Steps in the authors' code; small networks need a hundredth of it."""


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """What the attack found.

    Attributes:
        images: (R, D) flattened images, in the space that the network was trained in.
        duals: (R, O) weight of each image in the move of the weights.
        unexplained: share of ``||theta_f - theta_0||^2`` that the images leave over.
    """

    images: Tensor
    duals: Tensor
    unexplained: float


def mlp(params: Params, x: Tensor, activation: Activation = torch.relu) -> Tensor:
    """(N, O) outputs of a multi-layer perceptron on (N, D) rows."""
    for i in range(0, len(params) - 2, 2):
        x = activation(F.linear(x, params[i], params[i + 1]))
    return F.linear(x, params[-2], params[-1])


def reconstruct(
    initial: Params,
    final: Params,
    *,
    count: int,
    low: float = 0.0,
    high: float = 1.0,
    steps: int = STEPS,
    both: bool = True,
    lr: float = 0.02,
    generator: torch.Generator,
) -> Reconstructions:
    """Images whose gradients explain how the weights have moved.

    Args:
        initial: weights before training (the attack needs them).
        final: weights after training.
        count: images to look for; twice the guessed number of training images is the authors' choice.
        low, high: range of the pixels in the network's input space (0 and 1 less the training mean).
        steps: Adam steps; the sharpness of the softplus reaches its end with the last one.
        both: with a second family of duals on the gradients at ``initial`` (the authors' option for
            networks whose gradients turned during training, as those of finite width do).
        lr: Adam's step size.
        generator: of the starting images and duals, on the CPU.

    Returns:
        The images, on the device of the weights.

    Raises:
        BadInput: the two networks differ in shape, or do not differ at all.

    The authors' Adam leaves out coordinates with a gradient of exactly 0; softplus leaves none, so that
    plain Adam takes the same steps. Their smoothness penalty belongs to pretrained ResNets and is left out.
    """
    if [p.shape for p in initial] != [p.shape for p in final]:
        raise BadInput("initial weights", "do not have the shapes of the final weights")
    move = [(b - a).detach() for a, b in zip(initial, final, strict=True)]
    size = float(sum(m.square().sum() for m in move))
    if not size > 0:
        raise BadInput("final weights", "are the initial weights: nothing was learnt")
    x, *duals = _start(initial, count, both=both, generator=generator)
    points = [final, initial] if both else [final]
    optimiser = torch.optim.Adam([x, *duals], lr=lr)
    left = size
    for step in range(steps):
        beta = min(BETA[0] + 10.0 ** (4 * step / steps), BETA[1])
        off = _unexplained(move, points, x, duals, beta)
        outside = (torch.relu(x - high).square() + torch.relu(low - x).square()).mean()
        loss = off + BOUND_WEIGHT * count * outside
        gradients = torch.autograd.grad(loss, [x, *duals])
        for p, g in zip([x, *duals], gradients, strict=True):
            p.grad = g
        optimiser.step()
        left = float(off.detach())
    return Reconstructions(x.detach(), duals[0].detach(), left / size)


def nearest(images: Tensor, found: Reconstructions) -> Tensor:
    """(N,) Euclidean distance from each image (N, D) to the nearest reconstruction."""
    distance: Tensor = torch.cdist(images.double(), found.images.double()).amin(1)
    return distance


def closer(members: Tensor, controls: Tensor) -> float:
    """One-sided p-value of Mann and Whitney's rank test that members were rebuilt closer than controls.

    Args:
        members, controls: distances of records that were trained on and that were not, see :func:`nearest`.
    """
    test = scipy_stats.mannwhitneyu(
        members.cpu().numpy(), controls.cpu().numpy(), alternative="less"
    )
    return float(test.pvalue)


def _start(params: Params, count: int, *, both: bool, generator: torch.Generator) -> list[Tensor]:
    """Images 0.2 N(0, 1) and one or two families of duals, uniform on (-0.5, 0.5)."""
    like = params[0]
    shapes = [(count, params[-1].shape[0])] * (2 if both else 1)
    found = [0.2 * torch.randn(count, like.shape[1], generator=generator)]
    found += [torch.rand(s, generator=generator) - 0.5 for s in shapes]
    return [f.to(like).requires_grad_(True) for f in found]


def _unexplained(
    move: list[Tensor], points: list[Params], x: Tensor, duals: list[Tensor], beta: float
) -> Tensor:
    """Squared length of the move less the gradients of the dual-weighted mean output."""

    def activation(h: Tensor) -> Tensor:
        return F.softplus(h, beta=beta)

    rest = move
    for point, dual in zip(points, duals, strict=True):
        params = tuple(p.detach().requires_grad_(True) for p in point)
        output = (dual * mlp(params, x, activation)).mean()
        gradient = torch.autograd.grad(output, params, create_graph=True)
        rest = [r - g for r, g in zip(rest, gradient, strict=True)]
    return torch.stack([r.square().sum() for r in rest]).sum()


def random_mlp(sizes: tuple[int, ...], generator: torch.Generator) -> Params:
    """LeCun-normal weights and zero biases: ``sizes`` are the widths from input to output."""
    params: list[Tensor] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        params.append(torch.randn(fan_out, fan_in, generator=generator) / math.sqrt(fan_in))
        params.append(torch.zeros(fan_out))
    return tuple(params)


def train(
    initial: Params, x: Tensor, y: Tensor, *, lr: float = 0.01, momentum: float = 0.9, goal: float = 1e-6,
    steps: int = 20_000,
) -> Params:  # fmt: skip
    """Full-batch gradient descent on half the mean squared error, until it is below ``goal``.

    Args:
        initial: where to start.
        x: (N, D); ``y`` (N, O).
        steps: at most.
    """
    params = [p.clone().requires_grad_(True) for p in initial]
    optimiser = torch.optim.SGD(params, lr=lr, momentum=momentum)
    for _ in range(steps):
        loss = 0.5 * (mlp(tuple(params), x) - y).square().mean()
        if float(loss.detach()) < goal:
            break
        gradients = torch.autograd.grad(loss, params)
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimiser.step()
    return tuple(p.detach() for p in params)
