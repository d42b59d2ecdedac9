"""Recipes: named, frozen compositions of parts, and how they are named, changed and composed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.data.splits import empty_like
from ddaudit.distillation.canvas import Start
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.loops import (
    AsksSource,
    Job,
    LabelWriter,
    LearnsRecords,
    Outcome,
    ReadsRecords,
    Screen,
)
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.options import describe, option, replace_option
from ddaudit.distillation.parts import (
    Canvas,
    LabelModel,
    NetworkSource,
    Objective,
    Opening,
    Reader,
    Source,
    Synthesis,
    TargetRule,
    Term,
)
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.reductions import Sum
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import refuse_coupling
from ddaudit.errors import BadInput
from ddaudit.later import later, unused
from ddaudit.registry import Registry, split_recipe
from ddaudit.sets import MOST_CHANNELS
from ddaudit.training import EvaluationProtocol
from ddaudit.training.augment import fitted

Family = Literal[
    "selection", "distribution", "gradient", "trajectory", "kernel", "unrolled", "decoupled", "own"
]
_LENT = ("objective", "synthesis", "networks")
"""Parts that another method can lend."""

BEST_ON_TEST = "numbers are of the last step and epoch (source: of the best one on test records)"
"""A deviation of those whose authors' code picks by the records that it reports on."""

Status = Literal["faithful", "simplified", "reconstruction", "ours"]


class Loop(Protocol):
    """How parts are driven; a frozen dataclass.

    A loop that adds a recipe's terms to its loss says so by a class attribute ``takes_terms = True``, one that
    learns labels by ``learns_labels = True``.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """True when K subsets can be distilled in one run."""

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """True when no question to the data depends on the synthetic set: one budget serves several sizes."""

    def queries(self, ipc: int) -> int:
        """How many different questions the data are asked."""

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil once per row of ``job.members``."""


_PARTS = ("objective", "target", "synthesis", "networks", "reader", "loop", "labels", "records")


@dataclass(frozen=True)
class Recipe:
    """A method: parts and numbers, no code of its own.

    Attributes:
        name: the name it is asked for by.
        family: what kind of method.
        purpose: what it does, in at most twelve words; ``list methods`` shows it.
        status: "faithful" to the source, "simplified", "reconstruction" (no public code to compare with), or "ours".
        source: where it is published.
        loop: drives the parts.
        objective, target, synthesis, networks, reader: the parts of matching methods; None in selections.
        terms: losses on the synthetic set, added to the match; in loops that take terms.
        records: which of the records everything else sees, and under which labels; None: all as they are.
        labels: writes the labels after the images are made, or has the loop learn them; None keeps the hard ones.
        augment: "data" (the data set's DSA string), "" (none), or a DSA strategy.
        normalise: "data" (the data set's constants) or "public" (0.5, 0.5; constants that depend on no record).
        protocol: the evaluation protocol the method was published with; written to the card.
        small: dotted option -> value, the 2-core profile.
        deviations: what differs from the source at this profile, in words; printed on the card.
        published_ipc: images per class that the values were published for, where the source has others at other sizes;
            the card of another size says so.
    """

    name: str
    family: Family
    source: str
    loop: Loop
    purpose: str = ""
    status: Status = "faithful"
    objective: Objective | None = None
    target: TargetRule | None = None
    synthesis: Synthesis | None = None
    networks: NetworkSource | None = None
    reader: Reader | None = None
    terms: tuple[Term, ...] = ()
    records: Screen | None = later(None)
    labels: LabelModel | LabelWriter | LearnedLabels | None = None
    augment: str = "data"
    normalise: Literal["data", "public"] = "data"
    protocol: EvaluationProtocol | None = None
    small: Mapping[str, Any] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    published_ipc: int | None = None

    def __post_init__(self) -> None:
        for name in _PARTS:
            value = getattr(self, name)
            if isinstance(value, (str, int, float)):
                raise ValueError(
                    f"{name}={value}: '{name}' is a part, not a value; defenses such as '+soft' bring parts"
                )
        if self.normalise not in ("data", "public"):
            raise ValueError(f"normalise is 'data' or 'public', not '{self.normalise}'")
        if self.terms and not getattr(self.loop, "takes_terms", False):
            raise BadInput(
                self.name,
                f"its loop ({type(self.loop).__name__}) minimises no loss that terms could be added to",
                "Terms go with matching methods, such as dm or dc.",
            )
        if isinstance(self.labels, LearnedLabels) and not getattr(
            self.loop, "learns_labels", False
        ):
            raise BadInput(
                self.name,
                f"its loop ({type(self.loop).__name__}) has no gradient for learned labels",
                "They go with kernel and unrolled methods, such as kip or dd; '+soft' writes labels for any method.",
            )

    def matching_parts(self) -> tuple[Objective, NetworkSource]:
        """The objective and the networks of a matching recipe, all of whose parts are there.

        Raises:
            BadInput: private reading with real initialisation; parts missing.
        """
        if not (
            self.objective and self.target and self.synthesis and self.networks and self.reader
        ):
            raise BadInput(
                self.name,
                "is no matching recipe: it lacks an objective, target, synthesis, networks or reader",
            )
        self.check_private()
        return self.objective, self.networks

    def networks_for(self, job: Job) -> NetworkSource | None:
        """The networks, bound to what they may see of the job's data and, where they learn from records, trained on
        those of its run.

        Raises:
            BadInput: what the networks need is missing.
        """
        if self.networks is None:
            return None
        bound = self.networks.bind(self.shown(job.data))
        return (
            bound.learn(job, *self.constants(job.data))
            if isinstance(bound, LearnsRecords)
            else bound
        )

    def queries(self, ipc: int) -> int:
        """How many questions a run asks its reader: its loop's, and those that its networks are trained on."""
        asked = self.networks.questions() if isinstance(self.networks, AsksSource) else 0
        return self.loop.queries(ipc) + asked

    def open(self, job: Job, *, again: bool = False) -> Source:
        """The reader, opened on a job's records for the questions that the loop will ask.

        Args:
            job: whose records.
            again: True when the loop asks questions more than once.

        Raises:
            BadInput: the recipe has no reader or target, the reader cannot read these data, or the rule reduces
                rows in a method that compares none.
        """
        if self.reader is None or self.target is None:
            raise BadInput(self.name, "lacks a target or a reader")
        mean, std = self.constants(job.data)
        queries = self.queries(job.ipc)
        assumed = self.networks.assumed(self.shown(job.data)) if self.networks else ()
        assumed = (*job.data.assumed, *assumed)
        opening = Opening(self.target, mean, std, queries, job.seed + 1, job.device, again, assumed)
        source = self.reader.open(job.train, job.members, opening)
        if self.objective is None and not isinstance(source.layout.reduction, Sum):
            raise BadInput(
                self.name,
                "picks the worst of its rows' distances, and this method computes none",
                "Use the rule on a matching method, such as dm or dc.",
            )
        return source

    def terms_for(self, job: Job) -> tuple[Term, ...]:
        """The terms, with the records of a job's one run where they read them."""
        constants = self.constants(job.data)
        return tuple(
            t.read(job, constants) if isinstance(t, ReadsRecords) else t for t in self.terms
        )

    def start(self, job: Job, generator: torch.Generator) -> Canvas:
        """The synthesis' fresh parameters for a job, with those of learned labels.

        Under a private reader the synthesis is shown no record.

        Raises:
            BadInput: the recipe has no synthesis, or it cannot start from these data.
        """
        if self.synthesis is None:
            raise BadInput(self.name, "lacks a synthesis")
        mean, std = self.constants(job.data)
        private = self.reader is not None and self.reader.private
        given = Start(
            empty_like(job.train) if private else job.train,
            job.members[:, :0] if private else job.members,
            job.ipc,
            mean,
            std,
            generator,
            job.device,
        )
        canvas = self.synthesis.start(given)
        if isinstance(self.labels, LearnedLabels):
            return self.labels.start(canvas, len(job.members), job.train.num_classes)
        return canvas

    def check_private(self) -> None:
        """Refuse what would let a private recipe learn of records outside its ledger.

        Raises:
            BadInput: real initialisation, private constants, networks, a target rule or an objective that couple
                records, a teacher's labels.
        """
        if self.reader is None or not self.reader.private:
            return
        if self.synthesis is not None and self.synthesis.init != "noise":
            raise BadInput(
                self.name,
                "starts from real images under a privacy claim, which releases them",
                "Use --set synthesis.init=noise.",
            )
        if self.normalise != "public":
            raise BadInput(
                self.name,
                "normalises by constants of the private data",
                "Use --set normalise=public.",
            )
        if isinstance(self.networks, LearnsRecords):
            raise BadInput(
                self.name,
                "trains networks on private records outside the ledger",
                "Use fresh networks, or a pool that is trained on the synthetic set.",
            )
        if self.networks is not None and self.networks.couples_records():
            raise BadInput(
                self.name,
                "clips per record, and batch normalisation makes a record's signal depend on the others",
                "Use a network with instance, group, layer or no normalisation.",
            )
        if self.records is not None or any(isinstance(t, ReadsRecords) for t in self.terms):
            raise BadInput(
                self.name,
                "screens records, or reads them in a term, outside the ledger",
                "Leave 'cleaned' and 'rdc' out under privacy.",
            )
        for part in (self.target, self.objective):
            if part is not None:
                refuse_coupling(part, self.name)
        if isinstance(self.labels, LearnedLabels):
            raise BadInput(
                self.name,
                "learns labels from gradients that the private reader does not clip",
                "Leave learned labels out under privacy.",
            )
        if self.labels is not None and getattr(self.labels, "reads_records", True):
            raise BadInput(
                self.name,
                "lets a teacher read private records outside the ledger to write soft labels",
                "Leave 'soft' out, or use dp-teacher.",
            )

    def check_hidden(self) -> None:
        """Refuse parts that would read labels that the method is not to see (those of an unlabelled domain).

        Raises:
            BadInput: networks, screens or teachers of labels that learn all records.
        """
        if not getattr(self.loop, "hides_labels", False):
            return
        reads = self.labels is not None and getattr(self.labels, "reads_records", True)
        if reads or self.records is not None or isinstance(self.networks, LearnsRecords):
            raise BadInput(
                self.name,
                "has a teacher or a screen that would learn labels of the domain that has none for the method",
                "Leave 'soft', 'fkd', 'cleaned' and 'rdc' out.",
            )

    def check_unit(self, data: Dataset) -> None:
        """Refuse images that no set holds, and a private recipe where one record more or less changes other records.

        Raises:
            BadInput: such data; the line says which step of their construction it is.
        """
        if data.space == "pixels" and not 1 <= data.shape[0] <= MOST_CHANNELS:
            raise BadInput(
                f"{self.name} on '{data.name}'",
                f"images have {data.shape[0]} channels, and distilled sets hold 1 to {MOST_CHANNELS}",
            )
        if data.whole_set and self.reader is not None and self.reader.private:
            raise BadInput(
                f"{self.name} on '{data.name}'",
                f"one record more would change others, so no claim about one record holds: {data.whole_set[0]}",
                "Take data made record by record, such as digits-colored, colored:base=... or long-tail:base=....",
            )

    def shown(self, data: Dataset) -> Dataset:
        """What parts other than the reader may see of the data: under a private reader everything but the records."""
        if self.reader is None or not self.reader.private:
            return data
        train, validation, test = map(empty_like, (data.train, data.validation, data.test))
        return replace(data, train=train, validation=validation, test=test, extra={})

    def constants(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """(mean, std) of :meth:`normalisation`, each (C, 1, 1) float32."""
        mean, std = (torch.tensor(v)[:, None, None] for v in self.normalisation(data))
        return mean, std

    def normalisation(self, data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) per channel that matching works under; standardised values are left as they are."""
        if self.normalise != "public":
            return data.mean, data.std
        mean, std = (0.0, 1.0) if data.space == "standard" else (0.5, 0.5)
        return (mean,) * data.shape[0], (std,) * data.shape[0]

    def augment_for(self, data: Dataset) -> str:
        """The DSA strategy string; "" for none, as for anything but images."""
        if data.modality != "image":
            return ""
        return data.augment if self.augment == "data" else fitted(self.augment, data.augment)

    def at(self, profile: Literal["small", "paper"]) -> Recipe:
        """This recipe at a profile; "small" applies its 2-core numbers."""
        return self if profile == "paper" else self.options(self.small)

    def options(self, values: Mapping[str, Any]) -> Recipe:
        """This recipe with dotted options replaced ("loop.lr" -> 0.5, strings parsed).

        A whole objective, synthesis or network source is named by a method that has it ("synthesis" -> "fred").

        Raises:
            BadInput: unknown option or bad value.
        """
        recipe = self
        for path, value in values.items():
            where = f"--set {path}={value}"
            if path in _LENT and isinstance(value, str):
                part = getattr(METHODS.get(value), path)
                if part is None:
                    raise BadInput(where, f"'{value}' has no {path}")
                recipe = replace(recipe, **{path: part})
                continue
            recipe = replace_option(recipe, path, value, where=where)
        return recipe

    def parts(self) -> dict[str, Any]:
        """What each part is, by the name of its type; terms and reductions included, missing parts left out."""
        names = (
            "records",
            "objective",
            "target",
            "reader",
            "synthesis",
            "networks",
            "labels",
            "loop",
        )
        made: dict[str, Any] = {
            name: type(part).__name__ for name in names if (part := getattr(self, name))
        }
        if self.terms:
            made["terms"] = [type(term).__name__ for term in self.terms]
        return made

    def describe(self) -> dict[str, Any]:
        """The recipe as plain data for a card."""
        skip = {"small", "deviations", "purpose", "published_ipc"} | unused(self)
        return {f.name: describe(getattr(self, f.name)) for f in fields(self) if f.name not in skip}


@dataclass(frozen=True)
class Defense:
    """A transform of recipes, applied by name: ``dm+fair``.

    ``order`` fixes the order of application, so that ``dm+fair+dp`` and ``dm+dp+fair`` are one recipe.
    """

    name: str
    description: str
    source: str
    apply: Callable[[Recipe], Recipe]
    order: int = 0


METHODS: Registry[Recipe] = Registry(
    "method",
    of=Recipe,
    row=lambda m: {
        "name": m.name,
        "kind": "method",
        "family": m.family,
        "status": m.status,
        "purpose": m.purpose,
        "private": bool(m.reader and m.reader.private),
        "parts": m.parts(),
        "deviations": list(m.deviations),
        "source": m.source,
        "description": m.source
        + (" (reconstruction: no public code)" if m.status == "reconstruction" else ""),
    },
)
DEFENSES: Registry[Defense] = Registry(
    "defense",
    of=Defense,
    row=lambda d: {
        "name": d.name,
        "kind": "defense",
        "description": f"{d.description} ({d.source})",
    },
)


def register(recipe: Recipe) -> Recipe:
    """Add a recipe to :data:`METHODS`."""
    return METHODS.add(recipe.name, recipe)


def resolve(
    name: str,
    *,
    profile: Literal["small", "paper"] = "paper",
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe called ``name``: a method, or ``METHOD+DEFENSE+...``.

    Args:
        name: "dm", "dm+fair", "dm+fair+dp".
        profile: "paper" or the recipe's 2-core "small" numbers.
        options: dotted option -> value, applied last.

    Raises:
        BadInput: unknown method, defense or option, a defense named twice, or one that cannot work on the method or
            beside another one.
    """
    base, names = split_recipe(name)
    twice = [n for n in dict.fromkeys(names) if names.count(n) > 1]
    if twice:
        raise BadInput(
            name, f"names '{twice[0]}' more than once", f"'+{twice[0]}' once is all it can do."
        )
    published = METHODS.get(base)
    defenses = sorted({DEFENSES.get(n) for n in names}, key=lambda d: (d.order, d.name))
    recipe = published.at(profile)
    for defense in defenses:
        rebuilt = recipe.status == "reconstruction"
        try:
            published, recipe = defense.apply(published), defense.apply(recipe)
        except BadInput as error:  # it knows the method alone, not what was asked for
            raise BadInput(name, error.what, error.todo) from None
        if rebuilt:  # a part without public code stays one, whatever is added to it
            recipe = replace(recipe, status="reconstruction")
    if profile == "small":
        # Defenses bring small numbers for the parts they add; the method's own are applied already.
        own = METHODS.get(base).small
        recipe = recipe.options({k: v for k, v in recipe.small.items() if k not in own})
    recipe = recipe.options(options or {})
    changed = dict.fromkeys([*(recipe.small if profile == "small" else ()), *(options or {})])
    notes = [
        f"{path} = {new} (source: {old})"
        for path in changed
        if (new := _value(recipe, path)) != (old := _value(published, path))
    ]
    made = replace(
        recipe,
        name="+".join([base, *(d.name for d in defenses)]),
        deviations=recipe.deviations + tuple(notes),
    )
    made.check_private()
    made.check_hidden()
    return made


def _value(recipe: Recipe, path: str) -> Any:
    """The value of a dotted option; "default" where the part decides (by IPC or architecture) or is missing."""
    value = option(recipe, path)
    return "default" if value is None else value


__all__ = [
    "DEFENSES",
    "METHODS",
    "Defense",
    "Fresh",
    "Minibatch",
    "Pixels",
    "Recipe",
    "register",
    "resolve",
]
