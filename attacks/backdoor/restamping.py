"""Triggers that follow the networks of a distillation: before a network that has learned the set is asked about real
records, the trigger is optimised on it and the poisoned records are stamped anew."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddaudit.attacks._common.trigger import Blend, Poisoned
from ddaudit.attacks.backdoor.injection import Scene
from ddaudit.data import ImageData
from ddaudit.distillation.loops import LearnsRecords
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.parts import Layout, Opening, Query, Source, Targets
from ddaudit.distillation.reading import Around
from ddaudit.distillation.unrolled import Unrolled
from ddaudit.errors import Unsupported
from ddaudit.models import Network
from ddaudit.sets import DistilledSet, PrivacyClaim


class Moves(Protocol):
    """How an attack moves its trigger image on a network."""

    def moved(self, net: Network, image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """A trigger image (C, H, W) after optimisation on a network in evaluation mode; like ``image`` normalised by
        mean and std (C, 1, 1)."""

    def trigger(self, image: Tensor) -> Blend:
        """What a trigger image (C, H, W), in pixels, does to records."""


@dataclass(eq=False)
class Live:
    """The trigger of one run and the records that carry it.

    Attributes:
        image: (C, H, W) the trigger image, in pixels.
        train: records whose images are rewritten, in place.
        index: which of them.
        clean: their images before any trigger.
        updates: how often the trigger has moved.
    """

    image: Tensor
    train: ImageData
    index: Tensor
    clean: Tensor
    updates: int = 0

    def stamp(self, moves: Moves, *, clamp: bool) -> None:
        """Put the trigger as it is on the records."""
        self.train.images[self.index] = moves.trigger(self.image).stamp(self.clean, clamp=clamp)


@dataclass(frozen=True)
class Restamped(Around):
    """A reader of records whose trigger moves.

    Attributes:
        reader: reads them.
        every: questions, of those that may move the trigger, between two moves.
        untrained: networks that have not learned the set may move it too.
        clamp: the trigger stays within valid pixels.
    """

    every: int
    untrained: bool
    clamp: bool
    moves: Moves = field(repr=False)
    live: Live = field(repr=False)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """The source of the reader inside, with the hook in front."""
        return _Source(self, super().open(data, members, opening), opening)


class _Source:
    def __init__(self, reader: Restamped, inside: Source, opening: Opening) -> None:
        self._reader, self._inside, self._opening = reader, inside, opening
        self.layout: Layout = inside.layout
        self.clip = inside.clip
        self._asked = 0

    def targets(self, query: Query) -> Targets:
        """Move the trigger where it is time to, then answer."""
        reader = self._reader
        if query.net is not None and (query.taught or reader.untrained):
            if self._asked % reader.every == 0:
                self._move(query.net)
            self._asked += 1
        return self._inside.targets(query)

    def claims(self) -> list[PrivacyClaim | None]:
        """None: private readers are refused."""
        return self._inside.claims()

    def _move(self, net: Network) -> None:
        reader, live, device = self._reader, self._reader.live, self._opening.device
        mean, std = (t.to(device) for t in (self._opening.mean, self._opening.std))
        training = net.training
        net.eval()
        image = (live.image.to(device) - mean) / std
        moved = reader.moves.moved(net, image, mean, std)
        net.train(training)
        live.image = (moved * std + mean).cpu()
        live.updates += 1
        live.stamp(reader.moves, clamp=reader.clamp)


def distil_restamped(
    scene: Scene,
    poisoned: Poisoned,
    image: Tensor,
    moves: Moves,
    *,
    every: int,
    untrained: bool,
    clamp: bool,
) -> tuple[DistilledSet, Blend, Poisoned]:
    """The set distilled while the trigger moves, the last trigger, and the records as it left them.

    Args:
        poisoned: clean images under poisoned labels; they get the trigger here.
        image: (C, H, W) pixels, where the trigger starts.

    Raises:
        Unsupported: a recipe whose networks or reader leave no room for it.
    """
    recipe = scene.method
    if recipe.reader is None or recipe.networks is None:
        raise Unsupported(
            f"moves its trigger on the networks of a distillation, and {recipe.name} asks none"
        )
    if recipe.reader.private:
        raise Unsupported(
            "stamps records anew between questions, and a private reader's records are fixed"
        )
    if isinstance(recipe.networks, LearnsRecords):
        raise Unsupported(
            f"stamps records anew, and the networks of {recipe.name} learn copies of them that keep the first stamp"
        )
    if not (untrained or _teaches(scene)):
        raise Unsupported(
            f"moves its trigger on networks trained on the set, and {recipe.name} at IPC {scene.ipc} trains none "
            "before it asks: the trigger would stay as it was drawn (untrained=true takes its random networks)"
        )
    images = poisoned.train.images
    images = images.clone() if clamp else poisoned.train.pixels()
    train = replace(poisoned.train, images=images)
    live = Live(image, train, poisoned.index, images[poisoned.index].clone())
    live.stamp(moves, clamp=clamp)
    reader = Restamped(recipe.reader, every, untrained, clamp, moves, live)
    made = scene.distil(train, replace(recipe, reader=reader))
    # The card says what an honest distiller's would; the poison on it says the rest.
    made = replace(made, card=made.card.model_copy(update={"recipe": recipe.describe()}))
    return made, moves.trigger(live.image), Poisoned(train, poisoned.index)


def _teaches(scene: Scene) -> bool:
    """Whether the recipe asks networks that have been trained on the set."""
    recipe = scene.method
    if isinstance(recipe.loop, Matching) and not (recipe.networks and recipe.networks.follows()):
        schedule = recipe.loop.schedule(scene.ipc)
        return schedule.outer > 1 and schedule.inner > 0
    return isinstance(recipe.loop, Unrolled) or bool(recipe.networks and recipe.networks.follows())


@dataclass(frozen=True, eq=False)
class Unit:
    """A hidden unit of a network: the output ``number`` of ``module``, its largest value where that is a map."""

    module: nn.Module
    number: int

    def reading(self, net: Network, x: Tensor) -> Tensor:
        """() the unit's value on one normalised image (C, H, W), differentiable."""
        caught: list[Tensor] = []
        hook = self.module.register_forward_hook(lambda m, i, out: caught.append(out))
        try:
            net.body(x[None])
        finally:
            hook.remove()
        return caught[0][0, self.number].amax()


def heaviest_unit(net: Network) -> Unit:
    """The unit with the largest sum of absolute incoming weights in the layer before the classifier's, read before its
    activation and behind its normalisation.

    Raises:
        Unsupported: the network has one layer only.
    """
    leaves = [m for m in net.body.features.modules() if not list(m.children())]
    places = [i for i, m in enumerate(leaves) if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not places:
        raise Unsupported(f"picks a hidden unit, and {net.arch} has none")
    place = places[-1]
    weight = leaves[place].weight
    assert isinstance(weight, Tensor)
    number = int(weight.detach().abs().flatten(1).sum(1).argmax())
    behind = leaves[place + 1] if place + 1 < len(leaves) else None
    normed = isinstance(behind, (nn.GroupNorm, nn.LayerNorm, _BatchNorm))
    return Unit(behind if normed and behind is not None else leaves[place], number)


def relabelled(scene: Scene, ratio: float, generator: torch.Generator) -> Poisoned:
    """The training records, a share of them under the target's label, all images as they were."""
    train = scene.data.train
    count = max(1, round(ratio * len(train)))
    index = torch.randperm(len(train), generator=generator)[:count].sort().values
    labels = train.labels.clone()
    labels[index] = scene.target
    return Poisoned(replace(train, labels=labels), index)
