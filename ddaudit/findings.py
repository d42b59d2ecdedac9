"""What an auditor says: metrics with intervals, instrument checks, curves, pictures, caveats.

These models are the JSON schema of the report (``schema_version`` 1). Values are fractions in [0, 1]
unless ``unit`` says otherwise, never percents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapSerializer,
    WrapValidator,
    model_validator,
)

Direction = Literal["higher", "lower", "none"]
Status = Literal["ok", "partial", "skipped", "failed"]
Merge = Literal["mean", "bound", "p-value"]
CaveatKind = Literal["sample", "method", "setup", "result"]
"""What a caveat is about: too few records or networks; what the instrument cannot see; how this run was set up; what
was found besides the numbers."""

CLAIMED = "privacy.epsilon_claimed"
"""The metric of a privacy claim; what may refute a claim says so in ``refutes``."""

NOT_RUN = "not run yet"
"""How the reason of a planned cell begins that was never computed: it has neither failed nor been ruled out."""


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a truth value (yes, no, on, off) is no number")
    return value


NO_TRUTH = BeforeValidator(_no_truth)
"""For numbers in files that people write: YAML reads ``yes`` as true, which would be read as 1."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


@dataclass(frozen=True)
class MetricInfo:
    """What an auditor measures, before it measures: what ``ddaudit list metrics`` prints of a metric."""

    name: str
    direction: Direction
    meaning: str
    """One line."""
    unit: str = "fraction"
    signed: bool = False
    """It can be below 0: a difference."""

    @property
    def range(self) -> str:
        """Which values it can take, in words."""
        if self.unit in ("fraction", "probability"):
            return "-1 to 1" if self.signed else "0 to 1"
        return "any" if self.signed or self.unit == "standard deviations" else "0 or more"


class Estimate(Protocol):
    """A number and its interval, as ``ddaudit.stats.Interval``."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def within(self) -> tuple[float, float] | None: ...


class Resampled(_Model):
    """How one number moves with the test records: what a paired comparison with another subject needs.

    Cells keep it, reports do not. See ``ddaudit.stats.resampling``.
    """

    name: str = Field(max_length=200)
    """Of the resamples. Numbers under one name were computed on the same ones, so that they can be paired."""
    networks: list[float] = Field(min_length=1, max_length=1000)
    """The value of each network (victim)."""
    replicates: str = Field(max_length=1_000_000)
    """The value, averaged over networks, on each resample (``ddaudit.stats.resampling.pack``)."""
    step: float = Field(default=0.0, ge=0.0)
    """Half of a step by which the value can move at all, where a small cell decides it: added on both sides."""


class Metric(_Model):
    """One number, with what is needed to trust it.

    ``label`` is its short name for a reader (see ``Auditor.labels``). ``low``/``high`` bound a 95 % interval;
    ``n`` is the number of independent records behind the value; ``floor`` is the value a perfect subject would
    get on this test set by chance alone; ``params`` tells apart metrics of one name (``fpr`` of
    ``membership.tpr_at_fpr``, say). ``per_seed`` lists the value of each seed when several were merged.
    ``headline`` metrics appear in the verdict table.
    """

    name: str
    label: str = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = "fraction"
    direction: Direction = "none"
    floor: float | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    headline: bool = False
    per_seed: list[float | None] | None = None
    draws: int = 1
    """Independent distillations behind the value: its seeds, or 1 where every seed met the same file."""
    covers_draws: bool = False
    """The interval covers the draw of the set: many distillations lie behind each seed's value."""
    within: tuple[float, float] | None = None
    """The half-widths below and above the value that test records alone explain, where the interval covers victims
    or seeds too."""
    merge: Merge = "mean"
    """How seeds become one number: their mean; the best of their one-sided bounds (see ``best_of``); or the
    smallest p-value times their number. A metric that is called ``*.p_value`` is a p-value unless it says otherwise.
    """
    best_of: dict[int, float | None] = Field(default_factory=dict)
    """For a bound: what is still proven at 95 % when this is the best of k seeds (error 5 % / k), by k."""
    game: str = ""
    """How it was measured, where its auditor has several ways: numbers of two ways are not compared."""
    refutes: str | None = None
    """For a bound: the metric that it refutes by lying above it. Set only where the bound holds without further
    assumptions and is corrected for everything that was tried; a verdict on a claim reads no other bound.
    """
    two_sided: bool = False
    """The floor can be missed on both sides (an AUC of 0.5): distance from it counts, not the side. An attack that
    is worse than guessing is a good attack with its answer turned round.
    """
    basis: bool = False
    """What every other number of the subject is weighed against: how well it does what it is for (its accuracy)."""
    chance: float | None = None
    """What the best constant answer reads on these records; a basis that is not clearly above it voids all verdicts."""
    resampled: Resampled | None = None
    """In a cell: what pairs it with the same number of other subjects; always null in a report."""

    @model_validator(mode="before")
    @classmethod
    def _proofs_are_no_measurements(cls, data: Any) -> Any:
        if isinstance(data, dict) and str(data.get("name")).endswith(".p_value"):
            data = {"merge": "p-value", **data}
        if isinstance(data, dict) and data.get("merge") == "bound":
            # A low bound may mean a weak attack: it stands as "at least", and nobody is ranked by it.
            data = {**data, "direction": "none"}
        return data

    @classmethod
    def of(
        cls,
        name: str,
        interval: Estimate,
        *,
        direction: Direction = "none",
        unit: str = "fraction",
        floor: float | None = None,
        two_sided: bool = False,
        headline: bool = False,
        basis: bool = False,
        chance: float | None = None,
        params: Mapping[str, Any] | None = None,
        resampled: Resampled | None = None,
    ) -> Metric:
        """The metric of this name with the interval's numbers."""
        return cls(
            name=name, value=interval.value, low=interval.low, high=interval.high, n=interval.n,
            within=interval.within, direction=direction, unit=unit, floor=floor, two_sided=two_sided, headline=headline,
            basis=basis, chance=chance, params=dict(params or {}), resampled=resampled,
        )  # fmt: skip

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Identity across subjects and seeds: name plus parameters."""
        return self.name, tuple(sorted((k, str(v)) for k, v in self.params.items()))

    @property
    def words(self) -> str:
        """Its label, or its name, with what tells it apart: "utility.class_accuracy (class 3)"."""
        apart = ", ".join(f"{k} {v}" for k, v in self.params.items())
        return (self.label or self.name) + (f" ({apart})" if apart else "")


class Check(_Model):
    """A known-answer test of the instrument: what it should have read, what it read."""

    name: str
    passed: bool
    value: float | None = None
    expected: str
    detail: str = ""
    affects: list[str] | None = None
    """Metric-name prefixes that a failure greys out; None: everything the auditor says."""
    subject: str | None = None
    """Set when the check concerns one subject's number (a gradient-masking test, say) rather than the auditor."""
    p_value: float | None = None
    """For a check that is a statistical test: the chance of a reading as bad as this one if all is well. Over several
    seeds it then fails only where the smallest, times the number of seeds, is at most ``level``."""
    level: float = 0.05
    """The p-value at which one seed alone fails."""
    refutes: str | None = None
    """The metric that a failure proves wrong, rather than only unproven (see ``Metric.refutes``)."""
    from_records: bool = False
    """Whether its outcome depends on training or validation records: no publishable report shows it."""


class Curve(_Model):
    """One line of one plot. Series with the same ``plot`` are drawn in one frame."""

    plot: str
    label: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    counts: list[int] | None = None
    kind: Literal["line", "step", "points", "bars"] = "line"
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    diagonal: bool = False
    """Draw y = x for reference (chance for a ROC, perfection for a reliability diagram)."""

    @model_validator(mode="after")
    def _one_length(self) -> Curve:
        for name in ("y", "low", "high", "counts"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.x):
                raise ValueError(f"curve has {len(self.x)} values of x and {len(values)} of {name}")
        return self


class Picture(_Model):
    """A small image for the report."""

    name: str
    caption: str
    png_base64: str


class Caveat(str):
    """A caveat that says what it is about and how much it weighs; plain text is one about the method, of rank 5.

    It is text wherever text is expected, and keeps the rest in cells (as ``{"text", "kind", "rank"}``).
    """

    kind: CaveatKind
    rank: int
    """1 (a reader must know it) to 9."""

    def __new__(cls, text: str, kind: CaveatKind = "method", rank: int = 5) -> Caveat:
        made = super().__new__(cls, text)
        made.kind, made.rank = kind, rank
        return made


def _read_caveat(value: Any, text: Callable[[Any], str]) -> str:
    if isinstance(value, Caveat):
        return value
    if isinstance(value, dict) and value.keys() == {"text", "kind", "rank"}:
        kind, rank = value["kind"], value["rank"]
        if kind in get_args(CaveatKind) and isinstance(rank, int):
            return Caveat(text(value["text"]), kind, rank)
    return text(value)


def _write_caveat(value: str, text: Callable[[str], Any]) -> Any:
    if isinstance(value, Caveat):
        return {"text": str(value), "kind": value.kind, "rank": value.rank}
    return text(value)


CaveatText = Annotated[str, WrapValidator(_read_caveat), WrapSerializer(_write_caveat)]


class Finding(_Model):
    """An auditor's whole answer for one subject (one seed in a cell; seeds merged in a report)."""

    subject: str
    auditor: str
    status: Status = "ok"
    reason: str | None = None
    metrics: list[Metric] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
    curves: list[Curve] = Field(default_factory=list)
    images: list[Picture] = Field(default_factory=list)
    caveats: list[CaveatText] = Field(default_factory=list)
    """Plain text, or a :class:`Caveat`; in a report always plain, with the rest in its limits."""
    warning: str = ""
    """What a reader must hear first, baseline or not, without the subject's name (see ``Auditor.warning``)."""
    sentence: str = ""
    """What to take from it beyond its table of numbers, in one plain sentence (see ``Auditor.sentence``)."""
    seconds: float = 0.0
    seed: int | None = None

    @property
    def not_run(self) -> bool:
        """Whether it stands for planned cells that were never computed."""
        return self.status == "skipped" and NOT_RUN in (self.reason or "")

    def __repr__(self) -> str:
        """One line: the headline numbers, or why there are none; ``model_dump()`` has everything."""
        from ddaudit._html import interval

        shown = [
            f"{m.words} {interval(m.value, m.low, m.high)}" + self._mark(m)
            for m in self.metrics
            if m.headline
        ]
        text = ", ".join([*([self.reason] if self.reason else []), *shown])
        return f"Finding({self.subject!r}, {self.auditor!r}, {self.status}{': ' if text else ''}{text})"

    __str__ = __repr__

    def failing_checks(self, metric: Metric) -> list[str]:
        """Names of the failing checks that affect one of its metrics.

        A check affects every metric of the finding, or those whose name starts with one of
        ``Check.affects``. A check about another subject (``Check.subject``) affects nothing here.
        """
        return [
            check.name
            for check in self.checks
            if not check.passed
            and check.subject in (None, self.subject)
            and (check.affects is None or any(metric.name.startswith(p) for p in check.affects))
        ]

    def _mark(self, metric: Metric) -> str:
        return " (check failed)" if self.failing_checks(metric) else ""

    def _repr_html_(self) -> str:
        from ddaudit._html import facts, interval, paragraphs, table

        title = facts(
            f"{self.auditor}: {self.subject}", {"status": self.status, "reason": self.reason}
        )
        rows = [
            [m.words, interval(m.value, m.low, m.high) + self._mark(m), "-" if m.n is None else m.n]
            for m in self.metrics
        ]
        failed = [f"failed: {c.name} (expected {c.expected})" for c in self.checks if not c.passed]
        body = table(["metric", "value and 95 % interval", "n"], rows) if rows else ""
        return title + body + paragraphs([*failed, *self.caveats])

    def metric(self, name: str, **params: Any) -> Metric:
        """The metric of this name whose params include ``params``.

        Raises:
            KeyError: no such metric.
        """
        for m in self.metrics:
            if m.name == name and all(m.params.get(k) == v for k, v in params.items()):
                return m
        raise KeyError(f"{self.auditor}/{self.subject} has no metric {name} {params or ''}")
