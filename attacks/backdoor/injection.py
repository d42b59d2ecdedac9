"""Backdoor injections: how one is described, found by name, and carried out. One attack, one file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddaudit.attacks._common.trigger import Poisoned, Trigger
from ddaudit.data import Dataset, ImageData
from ddaudit.distillation import Recipe, distill
from ddaudit.distillation.loops import Progress
from ddaudit.distillation.options import describe, replace_option
from ddaudit.distillation.store import Store
from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Arch
from ddaudit.registry import Registry
from ddaudit.seeds import stable_seed
from ddaudit.sets import DistilledSet, Poison
from ddaudit.training import reuse_memory

Threat = Literal["distiller", "interceptor"]

THREATS: dict[Threat, str] = {
    "distiller": "whoever collects and distils the data is malicious; how the victim trains is out of their hands",
    "interceptor": "somebody changes a finished set on its way to the victim and never sees a real record",
}

FINISHED = "plants its trigger before distillation, and this set is finished"


@dataclass(frozen=True, eq=False)
class Scene:
    """What an attacker has before them.

    Attributes:
        data: names, constants and shapes; its training records belong to a distiller alone.
        target: the class that the trigger shall lead to.
        seed: of the distillation and of everything that the attacker draws.
        arch: architecture of the networks that an attacker trains.
        clean: makes (or hands out) the clean set.
        recipe: what the distiller runs; None: the set is finished.
        ipc: images per class.
        device: where to compute.
        store: keeps what distillations share.
        progress: called by every distillation with (steps done, steps in all).
    """

    data: Dataset
    target: int
    seed: int
    arch: Arch
    clean: Callable[[], DistilledSet]
    recipe: Recipe | None = None
    ipc: int = 10
    device: torch.device | str = "cpu"
    store: Store | None = None
    progress: Progress | None = None

    @property
    def method(self) -> Recipe:
        """The recipe.

        Raises:
            Unsupported: there is none.
        """
        if self.recipe is None:
            raise Unsupported(FINISHED)
        return self.recipe

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.data.shape

    def distil(self, train: ImageData, recipe: Recipe | None = None) -> DistilledSet:
        """The attacker's recipe (or another) run on their records, as an honest distiller would run it."""
        return distill(
            recipe or self.method, train, data=self.data, ipc=self.ipc, seed=self.seed, device=self.device,
            store=self.store, progress=self.progress,
        )  # fmt: skip

    def generator(self, *parts: object) -> torch.Generator:
        """A CPU generator of the scene's seed."""
        return torch.Generator().manual_seed(stable_seed("backdoor", self.seed, *parts))

    def constants(self) -> tuple[Tensor, Tensor]:
        """(mean, std) of the data, each (C, 1, 1)."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.data.mean, self.data.std))
        return mean, std


@dataclass(frozen=True, eq=False)
class Injected:
    """A poisoned set, and what its maker knows of it.

    Attributes:
        made: the set; :func:`inject` writes the poison on its card.
        trigger: leads networks trained on it to the target.
        poisoned: the records it was made from; None where the attacker has none.
        ratio: of poisoned records; ``ratio_of`` says of what.
        source_class: the only class the trigger was made for; None: all.
    """

    made: DistilledSet
    trigger: Trigger
    poisoned: Poisoned | None = None
    ratio: float | None = None
    ratio_of: str = ""
    source_class: int | None = None


class Injection(ABC):
    """An attack that puts a backdoor into a distilled set; subclasses are frozen dataclasses of its numbers.

    ``small`` are its numbers on two cores; ``deviations`` say what differs from the source.
    """

    name: ClassVar[str]
    purpose: ClassVar[str]
    """What it does, in at most twelve words."""
    threat: ClassVar[Threat]
    status: ClassVar[Literal["faithful", "simplified", "reconstruction"]]
    source: ClassVar[str]
    deviations: ClassVar[tuple[str, ...]] = ()
    small: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def plant(self, scene: Scene) -> Injected:
        """Carry the attack out.

        Raises:
            Unsupported: the attack cannot be carried out on this recipe or set; the message says why.
        """

    def at(self, profile: Literal["small", "paper"]) -> Injection:
        """This attack at a profile."""
        return self.options(self.small) if profile == "small" else self

    def options(self, values: Mapping[str, Any]) -> Injection:
        """This attack with numbers replaced (strings parsed).

        Raises:
            BadInput: unknown option or bad value.
        """
        made = self
        for key, value in values.items():
            made = replace_option(made, key, value, where=f"{self.name}.{key}={value}")
        return made

    def numbers(self) -> dict[str, Any]:
        """Its numbers as plain data."""
        return {f.name: describe(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


@reuse_memory()
def inject(attack: Injection, scene: Scene) -> Injected:
    """Carry an attack out and write it on the set's card, with the trigger in the set.

    Raises:
        Unsupported: data without pixels, or the attack cannot be carried out here.
        BadInput: no such target class, or a bad ratio.
    """
    if scene.data.space != "pixels":
        raise Unsupported(f"triggers are pixels, and '{scene.data.name}' holds standardised values")
    if attack.threat == "distiller" and scene.recipe is None:
        raise Unsupported(FINISHED)
    if scene.target >= scene.data.num_classes:
        raise BadInput(
            f"target class {scene.target}", f"does not exist among {scene.data.num_classes} classes"
        )
    planted = attack.plant(scene)
    note = Poison(
        attack=attack.name,
        status=attack.status,
        threat_model=THREATS[attack.threat],
        target=scene.target,
        source_class=planted.source_class,
        ratio=planted.ratio,
        ratio_of=planted.ratio_of,
        records=0 if planted.poisoned is None else len(planted.poisoned.index),
        trigger=planted.trigger.kind,
        settings=attack.numbers(),
    )
    card = planted.made.card
    card = card.model_copy(
        update={"poison": note, "deviations": [*card.deviations, *attack.deviations]}
    )
    made = replace(planted.made, card=card, trigger=planted.trigger.tensors())
    return replace(planted, made=made.check(attack.name))


INJECTIONS: Registry[Injection] = Registry(
    "injection",
    of=Injection,
    row=lambda a: {
        "name": a.name,
        "kind": "injection",
        "threat": a.threat,
        "status": a.status,
        "purpose": a.purpose,
        "deviations": list(a.deviations),
        "description": f"{a.purpose} ({a.threat}, {a.status}; {a.source})",
    },
)


def register(attack: Injection) -> Injection:
    """Add an attack to :data:`INJECTIONS`."""
    return INJECTIONS.add(attack.name, attack)
