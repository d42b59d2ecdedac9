"""What an auditor is: one question, one threat model, and the tests of the instrument itself.

An auditor gets a :class:`Subject` and a :class:`Context` that hands out the shared work (distilled sets, victims,
re-distillations) and answers with a Finding. This module sits below ``attacks`` and ``measures`` so that they can be
written against it, and names all that they need; ``audits`` plans and runs them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, ValidationError

from ddaudit.context import (
    PRESETS,
    Artifacts,
    Context,
    Kind,
    Preset,
    Subject,
    TrainsBy,
    missing_part,
    recipe_subject,
    stratified,
)
from ddaudit.distillation import Recipe
from ddaudit.errors import BadInput, closest
from ddaudit.findings import Check, Finding, MetricInfo
from ddaudit.models import Arch
from ddaudit.registry import Registry

__all__ = [
    "AUDITORS", "PRESETS", "Artifacts", "Auditor", "Context", "Kind", "Preset", "Settings", "Shared", "Subject",
    "TrainsBy", "Work", "auditor", "missing_part", "recipe_subject", "stratified",
]  # fmt: skip


class Settings(BaseModel):
    """Base of an auditor's own knobs. Frozen, validated, printed in the report.

    The docstring under a field is its description in ``ddaudit list settings``.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class Work:
    """What one cell makes anew, beside the set and the victims that all auditors share; estimates ask for it.

    Attributes:
        distillations: of the subject's recipe, or of ``recipe``.
        records: training records that each of them sees; None: all.
        archs: other architectures that the preset's number of networks is trained of.
        recipe: what is distilled, where it is not the subject's own.
        ends: the cell ends at once, with the reason why the question does not apply.
        times: how many times the cell's own work is what the table of costs says, by options that it does not know.
    """

    distillations: int = 0
    records: int | None = None
    archs: tuple[Arch, ...] = ()
    recipe: Recipe | None = None
    ends: bool = False
    times: float = 1.0


T = TypeVar("T")


class Shared:
    """What all subjects of an audit have in common, computed once per context."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Context, dict[Hashable, Any]] = WeakKeyDictionary()

    def once(self, ctx: Context, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned when this key was first asked for in this context."""
        kept = self._kept.setdefault(ctx, {})
        if key not in kept:
            kept[key] = make()
        found: T = kept[key]
        return found


S = TypeVar("S", bound=Settings)


class Auditor(ABC, Generic[S]):
    """One question about a subject, one threat model, and the tests of the instrument itself.

    A subclass sets the class attributes, implements :meth:`run` and :meth:`checks`, and registers with
    ``@auditor``. ``version`` goes up whenever a change of code may change a number: stored cells are then
    computed again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    """The question in plain words, for a reader who is not of the field."""
    need: ClassVar[str] = ""
    """What a set offers that does better here than another, in 2 to 4 words; default: its title."""
    threat_model: ClassVar[str]
    how_to_read: ClassVar[str]
    """What a good and a bad value look like, in two or three sentences."""
    sources: ClassVar[tuple[str, ...]]
    labels: ClassVar[Mapping[str, str]] = {}
    """What a reader calls a metric, by metric name; one that is not here is called by the words of its name."""
    metrics: ClassVar[tuple[MetricInfo, ...]] = ()
    """Every metric it may emit, for ``ddaudit list metrics``."""
    redistils: ClassVar[bool] = False
    """Whether it distils a recipe again for itself: it then looks at one draw of a subject, not at all of them."""
    covers_draws: ClassVar[bool] = False
    """Whether many distillations of a recipe lie behind each number, so that its interval covers the draw of a set."""
    light: ClassVar[bool] = False
    """Whether it only asks the victims for their answers: one more draw of a reference then costs next to nothing."""
    heavy: ClassVar[bool] = False
    """Whether a cell costs many times what the victims cost: see ``Preset.for_images``."""
    from_records: ClassVar[tuple[str, ...] | None] = None
    """What it computes from training or validation records, rather than from the released set and the test records
    alone: prefixes of metrics' names, or KEY=VALUE of their params; None: everything. Publishable reports leave it out.
    """
    version: ClassVar[int] = 1
    settings: ClassVar[type[Settings]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    on_large: ClassVar[Mapping[str, Any]] = {}
    """What the quick preset sets differently on large images."""

    def configure(
        self, preset: str, overrides: Mapping[str, Any] | None = None, *, large: bool = False
    ) -> S:
        """The settings for a preset, with the user's overrides on top.

        Args:
            large: take ``on_large`` too (``Preset.large``).

        Raises:
            BadInput: unknown option or bad value.
        """
        on_large = self.on_large if large else {}
        values = {**self.presets.get(preset, {}), **on_large, **(overrides or {})}
        for key, value in values.items():
            if key not in self.settings.model_fields:
                hint = closest(str(key), self.settings.model_fields)
                raise BadInput(
                    f"{self.name}.{key}", f"unknown setting of auditor '{self.name}'", hint
                )
            kind = self.settings.model_fields[key].annotation
            if isinstance(value, str | int | float) and get_args(kind)[1:] == (...,):
                values[key] = (value,)  # a list of one
        try:
            return self.settings(**values)  # type: ignore[return-value]
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(map(str, first["loc"])) or "settings"
            raise BadInput(f"{self.name}.{path}", f"bad value ({first['msg'].lower()})") from None

    @abstractmethod
    def run(self, subject: Subject, ctx: Context, settings: S, seed: int) -> Finding:
        """Answer the question for one subject and one seed.

        Raises:
            Unsupported: the question cannot be answered for this kind of subject; the message says why.
        """

    def inputs(self, ctx: Context, settings: S) -> Mapping[str, str]:
        """Fingerprints of what this auditor reads beyond train, validation and test, by name.

        Stored cells are addressed by them: an auditor that reads ``ctx.data.extra["test_paired"]``, or data or
        subjects that a setting names, names them here, so that other content gives another cell.

        Raises:
            BadInput: a setting names what is not there, or does not fit; it is heard before anything is computed.
        """
        return {}

    def work(self, subject: Subject, ctx: Context, settings: S) -> Work:
        """What :meth:`run` will make anew for a subject, so that an audit can say what it costs before it starts."""
        return Work()

    @abstractmethod
    def checks(self, ctx: Context, settings: S) -> list[Check]:
        """Known-answer tests of the instrument, run once beside the real subjects."""

    def sentence(self, finding: Finding) -> str:
        """What to take from a finding (of one seed or of several) beyond its table of numbers; empty: nothing."""
        return ""

    def warning(self, finding: Finding) -> str:
        """What a reader must hear before any number, as words to follow "NAME: "; empty: nothing."""
        return ""

    def described(self, finding: Finding) -> Finding:
        """The finding in words: its metrics with their labels, and its sentence."""
        metrics = [
            m.model_copy(
                update={
                    "label": m.label or self.labels.get(m.name, ""),
                    "covers_draws": self.covers_draws,
                }
            )
            for m in finding.metrics
        ]
        said = {"sentence": self.sentence(finding), "warning": self.warning(finding)}
        return finding.model_copy(update={"metrics": metrics, **said})


AUDITORS: Registry[Auditor[Any]] = Registry(
    "auditor",
    of=Auditor,
    row=lambda a: {
        "name": a.name,
        "description": a.question,
        "threat_model": a.threat_model,
        "sources": list(a.sources),
    },
)

A = TypeVar("A", bound=type[Auditor[Any]])


def auditor(cls: A) -> A:
    """Class decorator: register one instance of an auditor under its name."""
    AUDITORS.add(cls.name, cls())
    return cls
