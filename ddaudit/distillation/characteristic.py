"""Characteristic functions: means of cosines and sines at many frequencies, drawn at random or learned (NCFM)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import PrivateDefaults
from ddaudit.distillation.samples import Samples
from ddaudit.models import Network


@dataclass(frozen=True)
class CharacteristicFunction(MeanEmbedding):
    """The characteristic function of normalised embeddings at Gaussian frequencies, other ones at every question.

    A record's measurement are cos(t . z) and sin(t . z) at all frequencies t, z its embedding divided by its norm:
    together of L2 norm 1 whatever the record is, so that a private reader need not clip. Their mean is the
    empirical characteristic function; its amplitude and phase are compared.

    Attributes:
        frequencies: how many.
        amplitude, phase: weights of the two parts (alpha and beta).
        scale: of the distance; fits the step size.
        seed: of the frequencies; set for each question.

    Source: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective" (NCFM),
    CVPR 2025, arXiv 2502.20653, section 3; values as in the authors' code, whose published configurations draw the
    frequencies at random. Without the root and at weights of 1, the expected distance is the squared maximum mean
    discrepancy of a Gaussian kernel (Bochner's theorem).
    """

    squared: ClassVar[bool] = False
    frequencies: int = 4096
    amplitude: float = 0.5
    phase: float = 0.5
    scale: float = 300.0
    seed: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        _check(self.frequencies, self.amplitude, self.phase, self.scale)

    def bind(self, seed: int) -> CharacteristicFunction:
        """Learns nothing."""
        return self

    def draw(self, seed: int) -> CharacteristicFunction:
        """The same with the frequencies of a seed."""
        return replace(self, seed=seed)

    def private_defaults(self) -> PrivateDefaults:
        """Signals of norm 1: a clip that cuts nothing."""
        return PrivateDefaults(
            1.0,
            "mean",
            None,
            "Harder, Adamczewski & Park, DP-MERF, AISTATS 2021 (random Fourier features of norm 1)",
            fresh=True,
        )

    def measure(self, net: Network, x: Tensor) -> Tensor:
        """(B, 2 * frequencies) cosines, then sines, divided by the root of the number of frequencies."""
        z: Tensor = net.body.features(x)
        t = gaussian_frequencies(self.frequencies, z.shape[1], self.seed).to(z)
        angles = F.normalize(z) @ t.T
        return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(self.frequencies)

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) mean distances over frequencies."""
        size = math.sqrt(self.frequencies)
        gaps = discrepancy(target * size, synthetic * size, self.amplitude, self.phase)
        return self.scale * gaps


@dataclass(frozen=True)
class LearnedFrequencies(Samples):
    """As :class:`CharacteristicFunction`, at frequencies that a network learns to make the distance large.

    Every step first takes its frequencies, then lets the network that makes them climb the same distance: a minmax
    game between images and frequencies. The frequencies learn from the records, which a private reader refuses.

    Attributes:
        frequencies: how many a step.
        amplitude, phase, scale: as in :class:`CharacteristicFunction`.
        lr, momentum: SGD of the network.
        seed: of the noise that frequencies are made from; set for each question.

    Source: NCFM (see :class:`CharacteristicFunction`), algorithm 1; network, its optimiser and the order of the two
    steps as in the authors' code, which makes 4 frequencies a step and repeats them.
    """

    shareable: bool = False
    coupling: ClassVar[str] = (
        "learns frequencies from the records outside the ledger (ncfm+dp draws them at random)"
    )
    frequencies: int = 64
    amplitude: float = 0.5
    phase: float = 0.5
    scale: float = 300.0
    lr: float = 1e-3
    momentum: float = 0.5
    seed: int = field(default=0, repr=False)
    live: _Live | None = field(default=None, repr=False, compare=False)
    """The network of a run; filled by :meth:`bind`."""

    def __post_init__(self) -> None:
        _check(self.frequencies, self.amplitude, self.phase, self.scale)
        if self.frequencies < 2 or not self.lr > 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                "objective.frequencies must be at least 2, objective.lr positive and objective.momentum in [0, 1)"
            )

    def bind(self, seed: int) -> LearnedFrequencies:
        """The same with a network of its own, initialised by the seed."""
        return replace(self, live=_Live(seed, self.lr, self.momentum))

    def draw(self, seed: int) -> LearnedFrequencies:
        """The same with the noise of a seed; the network stays."""
        return replace(self, seed=seed)

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) mean distances over frequencies; the frequencies' network then makes a step upwards."""
        live = self.live or _Live(self.seed, self.lr, self.momentum)
        t = live.frequencies(self.frequencies, target.shape[-1] - 1, self.seed, target)
        value = self._apart(target, synthetic, t.detach())
        with_records = target[..., 0].sum(-1) > 0
        live.climb(self._apart(target, synthetic.detach(), t)[with_records].sum())
        return value

    def _apart(self, target: Tensor, synthetic: Tensor, t: Tensor) -> Tensor:
        real, made = (_of_sample(s, t) for s in (target, synthetic))
        return self.scale * discrepancy(real, made, self.amplitude, self.phase)


class _Live:
    """The network that makes the frequencies of one run, and its optimiser. Made when their size is known."""

    def __init__(self, seed: int, lr: float, momentum: float) -> None:
        self._seed, self._lr, self._momentum = seed, lr, momentum
        self._net: nn.Module | None = None
        self._optimiser: torch.optim.Optimizer | None = None

    def frequencies(self, count: int, size: int, seed: int, like: Tensor) -> Tensor:
        """(count, size) frequencies in (-1, 1), differentiable in the network's weights."""
        if self._net is None:
            self._net = _frequency_network(size, self._seed).to(like.device)
            self._optimiser = torch.optim.SGD(
                self._net.parameters(), lr=self._lr, momentum=self._momentum
            )
        noise = gaussian_frequencies(count, size, seed).to(like)
        with torch.enable_grad():
            made: Tensor = self._net(noise)
        return made

    def climb(self, distance: Tensor) -> None:
        """One step that makes the distance larger."""
        assert self._optimiser is not None
        self._optimiser.zero_grad()
        (-distance).backward()
        self._optimiser.step()


def _frequency_network(size: int, seed: int) -> nn.Module:
    """Three linear layers with batch normalisation, leaky rectifiers between and a tanh behind."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Linear(size, size), nn.BatchNorm1d(size)]
            layers.append(nn.LeakyReLU(0.2) if i < 2 else nn.Tanh())
    return nn.Sequential(*layers)


@lru_cache(maxsize=1)  # a question asks for the same ones for real and for synthetic images
def gaussian_frequencies(count: int, size: int, seed: int) -> Tensor:
    """(count, size) independent N(0, 1) values of a seed, on the CPU."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def discrepancy(target: Tensor, synthetic: Tensor, amplitude: float, phase: float) -> Tensor:
    """(...) mean over frequencies of sqrt(amplitude (|p| - |q|)^2 + 2 phase (|p| |q| - Re p conj q)).

    Args:
        target, synthetic: (..., 2 F) characteristic functions p and q: real parts, then imaginary parts.
        amplitude, phase: weights.

    What stands under roots is kept a little above 0, so that their slopes stay finite.
    """
    p_real, p_imag = target.chunk(2, -1)
    q_real, q_imag = synthetic.chunk(2, -1)
    p, q = (
        (a.square() + b.square()).clamp_min(1e-20).sqrt()
        for a, b in ((p_real, p_imag), (q_real, q_imag))
    )
    turned = (2 * (p * q - p_real * q_real - p_imag * q_imag)).clamp_min(1e-12)
    gaps = (amplitude * (p - q).square() + phase * turned).clamp_min(1e-20)
    return gaps.sqrt().mean(-1)


def _of_sample(sample: Tensor, t: Tensor) -> Tensor:
    """(K, R, 2 F) characteristic functions of normalised packed samples (K, R, n, 1 + D) at t (F, D)."""
    weights, angles = sample[..., None, :, 0], F.normalize(sample[..., 1:], dim=-1) @ t.T
    return torch.cat([weights @ angles.cos(), weights @ angles.sin()], -1).squeeze(-2)


def _check(frequencies: int, amplitude: float, phase: float, scale: float) -> None:
    if frequencies < 1 or min(amplitude, phase) < 0 or amplitude + phase == 0 or not scale > 0:
        raise ValueError(
            "objective.frequencies must be at least 1, objective.amplitude and objective.phase not negative nor both "
            "0, and objective.scale positive"
        )
