"""Triggers: what an attacker puts on an image, how it is kept in a set file, and how large it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.errors import BadInput
from ddaudit.sets import DistilledSet

PUBLISHED_SIZE = 32
PUBLISHED_SIDE = 2


class Stamps(Protocol):
    """Whatever puts a trigger on images."""

    def stamp(self, images: Tensor, *, clamp: bool = True) -> Tensor:
        """As :meth:`Trigger.stamp`."""


class Trigger(ABC):
    """A function of images that stays the same once it is made."""

    kind: ClassVar[str]

    @abstractmethod
    def on(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) float pixels with the trigger; they may leave [0, 1]."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything it is made of, float32, as a set file keeps it."""

    def stamp(self, images: Tensor, *, clamp: bool = True) -> Tensor:
        """A copy of images (N, C, H, W) with the trigger: clamped to [0, 1], and to whole grey levels where the
        images are uint8; unclamped it is float32."""
        pixels = as_pixels(images)
        with torch.no_grad():
            on = torch.cat([self.on(part) for part in pixels.split(1024)])
        if not clamp:
            return on
        on = on.clamp(0, 1)
        return (on * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else on


@dataclass(frozen=True, eq=False)
class Blend(Trigger):
    """x * keep + add, both (C, H, W): a patch where keep is 0, a transparent pattern between, a sum where it is 1."""

    keep: Tensor
    add: Tensor
    kind: ClassVar[str] = "blend"

    @classmethod
    def of(cls, pattern: Tensor, mask: Tensor) -> Blend:
        """(1 - mask) x + mask * pattern for (C, H, W) pixels ``pattern`` and opacities ``mask`` in [0, 1]."""
        return cls(1 - mask, mask * pattern)

    def on(self, pixels: Tensor) -> Tensor:
        return pixels * self.keep.to(pixels) + self.add.to(pixels)

    def tensors(self) -> dict[str, Tensor]:
        return {"keep": self.keep.float().contiguous(), "add": self.add.float().contiguous()}


@dataclass(frozen=True, eq=False)
class Generated(Trigger):
    """An image's own trigger: x + clip(G(x), -eps, eps) in units of the normalisation, by a small network G.

    G is a chain of 3 x 3 convolutions with ReLU between, on normalised images.

    Attributes:
        weights: "0.weight", "0.bias", "1.weight", ...: of the convolutions.
        mean, std: (C, 1, 1) normalisation.
        eps: (1,) largest change, in standard deviations.
    """

    weights: Mapping[str, Tensor]
    mean: Tensor
    std: Tensor
    eps: Tensor
    kind: ClassVar[str] = "generated"

    def on(self, pixels: Tensor) -> Tensor:
        return pixels + self.change(pixels) * self.std.to(pixels)

    def change(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) what is added, in standard deviations; differentiable in the weights."""
        h = (pixels - self.mean.to(pixels)) / self.std.to(pixels)
        layers = len(self.weights) // 2
        for i in range(layers):
            weight, bias = (self.weights[f"{i}.{p}"].to(pixels) for p in ("weight", "bias"))
            h = F.conv2d(h, weight, bias, padding=1)
            h = h.relu() if i < layers - 1 else h
        eps = float(self.eps)
        return h.clamp(-eps, eps)

    def fits(self, channels: int) -> bool:
        """Whether its parts make a network from images of so many channels to such images."""
        if {tuple(self.mean.shape), tuple(self.std.shape)} != {(channels, 1, 1)} or len(
            self.eps
        ) != 1:
            return False
        at = channels
        for i in range(len(self.weights) // 2):
            weight, bias = (self.weights.get(f"{i}.{p}") for p in ("weight", "bias"))
            if weight is None or bias is None or tuple(weight.shape) != (len(bias), at, 3, 3):
                return False
            at = len(bias)
        return at == channels

    def tensors(self) -> dict[str, Tensor]:
        own = {"mean": self.mean, "std": self.std, "eps": self.eps, **self.weights}
        return {name: t.detach().float().cpu().contiguous() for name, t in own.items()}


def trigger_of(distilled: DistilledSet, where: object = "distilled set") -> Trigger:
    """The trigger that a poisoned set carries, so that its owner can test with it.

    Raises:
        BadInput: the set carries none, or one that cannot be read.
    """
    poison, parts = distilled.card.poison, dict(distilled.trigger or {})
    if poison is None:
        raise BadInput(where, "carries no trigger: its card says nothing of a poison")
    if poison.trigger == Blend.kind and {n: tuple(p.shape) for n, p in parts.items()} == {
        "keep": distilled.shape,
        "add": distilled.shape,
    }:
        return Blend(parts["keep"], parts["add"])
    if poison.trigger == Generated.kind and {"mean", "std", "eps"} < set(parts):
        mean, std, eps = (parts.pop(name) for name in ("mean", "std", "eps"))
        made = Generated(parts, mean, std, eps)
        if made.fits(distilled.shape[0]):
            return made
    raise BadInput(where, f"carries a trigger '{poison.trigger[:20]}' that cannot be read")


@dataclass(frozen=True)
class Budget:
    """How far a trigger moves images, on average over them.

    Attributes:
        linf: largest change of a pixel value, in [0, 1].
        l2: Euclidean norm of the change of an image.
        pixels: positions that change.
    """

    linf: float
    l2: float
    pixels: float


def budget(trigger: Trigger, images: Tensor) -> Budget:
    """The budget on images (N, C, H, W), clamped as at test time."""
    before = as_pixels(images)
    change = trigger.stamp(before) - before
    moved = change.abs().amax(1)
    return Budget(
        float(change.abs().flatten(1).amax(1).mean()),
        float(change.flatten(1).norm(dim=1).mean()),
        float((moved > 0.5 / 255).flatten(1).sum(1).float().mean()),
    )


@dataclass(frozen=True)
class SquareTrigger:
    """A square of one brightness near the bottom-right corner.

    Attributes:
        side: pixels.
        margin: pixels left free below and to the right of it.
        value: brightness in every channel, 0 to 255.

    Source: Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv 2301.01197, and its
    released code.
    """

    side: int
    margin: int = 1
    value: int = 255

    @classmethod
    def published(cls, shape: tuple[int, int, int]) -> SquareTrigger:
        """NAIVEATTACK's trigger for (C, H, W) images: 2 pixels of 32, in proportion elsewhere, at least one."""
        return cls(side=scaled(PUBLISHED_SIDE, shape))

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns it covers: [size - margin - side, size - margin).

        Raises:
            BadInput: it does not fit.
        """
        if self.side < 1 or self.margin < 0 or self.side + self.margin > min(height, width):
            raise BadInput(
                f"trigger of side {self.side}", f"does not fit into {height} x {width} images"
            )
        end_row, end_col = height - self.margin, width - self.margin
        return slice(end_row - self.side, end_row), slice(end_col - self.side, end_col)

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        """(C, H, W): 1 inside the window, 0 outside."""
        mask = torch.zeros(shape)
        rows, columns = self.window(shape[1], shape[2])
        mask[:, rows, columns] = 1
        return mask

    def blend(self, shape: tuple[int, int, int]) -> Blend:
        """The same as a pattern for images of one shape."""
        return Blend.of(torch.full(shape, self.value / 255), self.mask(shape))

    def stamp(self, images: Tensor, *, clamp: bool = True) -> Tensor:
        """A stamped copy of images (N, C, H, W)."""
        c, h, w = map(int, images.shape[1:])
        return self.blend((c, h, w)).stamp(images, clamp=clamp)


def as_pixels(images: Tensor) -> Tensor:
    """uint8 or float images as float pixels in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def scaled(pixels: int, shape: tuple[int, int, int]) -> int:
    """A published size on 32 x 32 images, in proportion on (C, H, W) images; at least 1."""
    return max(1, round(pixels * min(shape[1:]) / PUBLISHED_SIZE))


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A training set with a backdoor, and which of its records carry it."""

    train: ImageData
    index: Tensor
    """(n,) int64 positions of the stamped and relabelled records."""


def poison(
    train: ImageData,
    trigger: Stamps,
    *,
    ratio: float,
    target: int,
    generator: torch.Generator,
    copies: bool = False,
) -> Poisoned:
    """Stamp and relabel a share of the training set, drawn once over all classes, the target class included.

    Args:
        ratio: share of the whole training set, in (0, 1]; at least one record.
        target: the label the poisoned records get ("dirty label").
        copies: leave the drawn records as they are and add stamped copies of them.

    Raises:
        BadInput: ratio outside (0, 1], or no such class.
    """
    check_poison(train, ratio, target)
    count = max(1, round(ratio * len(train)))
    index = torch.randperm(len(train), generator=generator)[:count].sort().values
    if copies:
        return add_copies(train, trigger, index, target)
    images, labels = train.images.clone(), train.labels.clone()
    images[index] = trigger.stamp(train.images[index])
    labels[index] = target
    return Poisoned(replace(train, images=images, labels=labels), index)


def add_copies(train: ImageData, trigger: Stamps, index: Tensor, target: int) -> Poisoned:
    """The training set with stamped and relabelled copies of the records at ``index`` behind it."""
    extra = train.subset(index)
    groups = (
        None
        if train.groups is None or extra.groups is None
        else torch.cat([train.groups, extra.groups])
    )
    added = torch.arange(len(train), len(train) + len(index))
    more = replace(
        train,
        images=torch.cat([train.images, trigger.stamp(extra.images)]),
        labels=torch.cat([train.labels, torch.full_like(extra.labels, target)]),
        groups=groups,
    )
    return Poisoned(more, added)


def check_poison(train: ImageData, ratio: float, target: int) -> None:
    """Raises BadInput for a ratio outside (0, 1] or a class that does not exist."""
    if not 0 < ratio <= 1:
        raise BadInput(f"poison ratio {ratio}", "is not in (0, 1]")
    if not 0 <= target < train.num_classes:
        raise BadInput(
            f"target class {target}", f"does not exist among {train.num_classes} classes"
        )
