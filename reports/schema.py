"""The report as data: the one model that every format is written from, and its JSON schema.

``report.json`` is this model, serialised. ``findings`` is what was measured; everything after it
is what the report derives from it, so that every format can be written from the file alone. Numbers are fractions
in [0, 1] unless a metric's ``unit`` says otherwise, and ``null`` where nothing finite was
measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ddaudit.findings import CaveatKind, Check, Finding, Metric, Picture

SCHEMA_VERSION: Literal["1"] = "1"

Outcome = Literal[
    "better", "worse", "higher", "lower", "not distinguishable", "no interval", "withheld"
]  # fmt: skip
Tone = Literal["good", "bad", "neutral", "warning"]
ClaimState = Literal["violated", "not contradicted", "not tested", "void", "not shown"]


MetricKey = tuple[str, tuple[tuple[str, str], ...]]


def metric_key(name: str, params: Mapping[str, Any]) -> MetricKey:
    """Identity of a metric across subjects and seeds, as ``Metric.key``."""
    return name, tuple(sorted((k, str(v)) for k, v in params.items()))


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class _Open(BaseModel):
    """Information that a newer run store may extend; unknown keys are kept."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null")


class RunInfo(_Open):
    """How the audit was run."""

    data: str
    data_notes: list[str] = Field(default_factory=list)
    data_facts: dict[str, Any] = Field(default_factory=dict)
    """Shape, class names, split sizes, fingerprint: whatever the run knows."""
    preset: str = ""
    profile: str = ""
    seeds: list[int] = Field(default_factory=list)
    ipc: int | None = None
    """Images per class that recipes were asked for; what each set has is at its subject."""
    arch: str = ""
    protocol: str = ""
    """The evaluation protocol under which victims were trained."""
    protocol_facts: dict[str, Any] = Field(default_factory=dict)
    device: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    started: str = ""
    """ISO 8601."""
    finished: str = ""
    command: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    ddaudit_version: str = ""
    notes: list[str] = Field(default_factory=list)
    """What the runs of this report do not have in common."""
    publishable: bool = False
    """Whether everything that was computed from the training records without a claim was left out."""
    left_out: list[str] = Field(default_factory=list)
    """What a publishable report does not show."""
    cells_done: int = 0
    cells_failed: int = 0
    cells_skipped: int = 0
    cells_not_run: int = 0
    """Planned and never computed; none of the others counts them."""


class SubjectInfo(_Open):
    """What was audited."""

    id: str
    kind: Literal["recipe", "file", "checkpoint"]
    baseline: bool = False
    """True for the reference rows (full, random, herding)."""
    drawn: bool = True
    """Whether another seed gives another set; not so for the full data, which have no spread between draws."""
    card: dict[str, Any] = Field(default_factory=dict)
    """As ``ddaudit.sets.Card``; ``card["privacy"]`` is a privacy claim or absent."""
    description: str = ""
    warnings: list[str] = Field(default_factory=list)
    """What must be known of the content of a set file: real records, copies, classes without images."""
    claim_checks: list[Check] = Field(default_factory=list)
    """What its card alone says of its privacy claim, where no auditor tested that."""
    problem: str | None = None
    """Why what was audited is not what is there now (a file that moved or changed, a lost private set)."""
    source: str = ""
    seconds: float | None = None
    per_class: list[int] | None = None
    """Fewest and most images of a class in its set; None where there is no set, or it is not kept."""
    gallery: list[Picture] = Field(default_factory=list)

    @property
    def ipc(self) -> int | None:
        """Images per class that it was made for; None where its card does not say, or it is all there is."""
        ipc = self.card.get("ipc") if self.drawn else None
        return ipc if isinstance(ipc, int) else None

    def as_large_as(self, other: SubjectInfo) -> bool:
        """Whether both were made for one size; where one does not say, nothing speaks against it."""
        return None in (self.ipc, other.ipc) or self.ipc == other.ipc


class AuditorInfo(_Open):
    """Who measured: one question, one threat model."""

    name: str
    title: str = ""
    question: str = ""
    threat_model: str = ""
    how_to_read: str = ""
    sources: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)
    from_records: list[str] | None = None
    """As ``Auditor.from_records``: what of it is computed from training records; None: all it says."""

    @property
    def heading(self) -> str:
        """Its title, or its name."""
        return self.title or self.name


class Comparison(_Model):
    """A headline metric of a subject minus that of a baseline, or of the recipe that the subject is built on."""

    subject: str
    baseline: str
    auditor: str
    metric: str
    params: dict[str, Any] = Field(default_factory=dict)
    difference: float
    """For two-sided metrics (an AUC) of the numbers mirrored to the bad side of their floor."""
    low: float | None = None
    high: float | None = None
    """95% interval of the difference over draws, victims and records."""
    paired: bool = False
    """Whether the two numbers were paired on the test records; else they were taken as independent."""
    p_value: float | None = None
    adjusted: float | None = None
    """``p_value`` corrected (Holm) for all verdicts against the same baseline; None without a spread between draws."""
    outcome: Outcome
    reason: str = ""
    """Why a verdict is withheld."""
    trusted: bool = True
    """False when a failing instrument check greys out either number."""


class Greyed(_Model):
    """A number that must not be relied on, because a known-answer test of its instrument failed."""

    subject: str
    auditor: str
    metric: str
    params: dict[str, Any] = Field(default_factory=dict)
    checks: list[str]
    """Names of the failing checks."""


class Doubt(_Model):
    """A subject whose basis (its accuracy) is void or not clearly above chance: no other verdict on it counts."""

    subject: str
    reason: str
    kind: Literal["at chance", "void"] = "at chance"
    """``void``: a check of the subject's own basis failed; its set holds test records, say."""


class Claim(_Model):
    """A subject's (epsilon, delta) claim against what the audit can prove about it.

    ``violated``: a valid lower bound lies above it, or a check that refutes it failed. ``void``: a
    check of the claim failed, so that nothing supports it. ``not tested``: no valid lower bound, or
    an instrument that failed its own test. ``not contradicted``: tested, and nothing was found.
    ``not shown``: tests of it are computed from the training records, and the report is publishable.
    """

    subject: str
    epsilon: float
    delta: float | None = None
    lower_bound: float | None = None
    adversary: str | None = None
    state: ClaimState
    reason: str = ""

    @property
    def broken(self) -> bool:
        """Whether nobody should rely on it: refuted, or resting on a check that failed."""
        return self.state in ("violated", "void")

    @property
    def tested(self) -> bool:
        """Whether a test of it came to an end, and is shown."""
        return self.state not in ("not tested", "not shown")


class Alert(_Model):
    """What has to be read with every number of the report or of a subject; no format leaves it out."""

    subjects: list[str] = Field(default_factory=list)
    """Whom it is about; empty: the whole report."""
    tone: Tone = "warning"
    text: str


class Sentence(_Model):
    """One thing to read from the numbers, in words; computed from the numbers only."""

    tone: Tone
    text: str
    detail: str = ""
    """What does not fit in a line."""
    first: bool = False
    """Whether it is among the few that a reader sees without opening a fold: these have at most 20 words."""


class Answer(_Model):
    """What the report says of one candidate in at most 14 words, the worst candidate first."""

    subject: str
    tone: Tone
    text: str


class Need(_Model):
    """Which candidates are shown to meet one need, in at most 14 words with its name."""

    need: str
    subjects: list[str] = Field(default_factory=list)
    """Those that do; empty: none is shown to."""
    text: str


class Variant(_Model):
    """A limit as it was worded for some subjects."""

    subjects: list[str]
    text: str


class Limit(_Model):
    """What the numbers cannot say: a caveat of auditors, once for all that it is about."""

    text: str
    """Its words; those of the first subject where they differ in numbers or names."""
    kind: CaveatKind = "method"
    rank: int
    """1 is the weightiest of its auditors."""
    scope: Literal["report", "auditor", "subjects"]
    """About several auditors, everything one auditor says, or some subjects only."""
    auditors: list[str]
    subjects: list[str]
    variants: list[Variant] = Field(default_factory=list)
    """Its wordings, where subjects differ in them."""


_Row = TypeVar("_Row")


class Report(_Model):
    """The comparative report of one or more runs over the same data."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    run: RunInfo
    subjects: list[SubjectInfo]
    auditors: list[AuditorInfo] = Field(default_factory=list)
    findings: list[Finding]
    comparisons: list[Comparison] = Field(default_factory=list)
    greyed: list[Greyed] = Field(default_factory=list)
    claims: list[Claim] = Field(default_factory=list)
    at_chance: list[Doubt] = Field(default_factory=list)
    alerts: list[Alert] = Field(default_factory=list)
    needs: list[Need] = Field(default_factory=list)
    """Which set for which need; no rank over needs."""
    answers: list[Answer] = Field(default_factory=list)
    trust: list[Sentence] = Field(default_factory=list)
    """What the answers rest on: checks, preset, seeds, networks, test records, claims that were not tested."""
    summary: list[Sentence] = Field(default_factory=list)
    limits: list[Limit] = Field(default_factory=list)
    not_asked: list[str] = Field(default_factory=list)
    """Auditors that are installed and were not part of the run."""

    @cached_property
    def _indexes(self) -> dict[str, tuple[tuple[int, int], dict[Hashable, Any]]]:
        """Tables of its lists by what they are looked up by, each with the list it was made of."""
        return {}

    def subject(self, subject_id: str) -> SubjectInfo:
        """The subject of this id.

        Raises:
            KeyError: no such subject.
        """
        found: SubjectInfo = self._by("subject", self.subjects, lambda s: s.id)[subject_id]
        return found

    def finding(self, subject_id: str, auditor: str) -> Finding | None:
        """What ``auditor`` says about a subject; None when it was not asked."""
        by = self._by("finding", self.findings, lambda f: (f.subject, f.auditor))
        found: Finding | None = by.get((subject_id, auditor))
        return found

    def findings_of(self, subject_id: str) -> list[Finding]:
        """What all auditors say about a subject, in report order."""
        groups = self._groups("findings of", self.findings, lambda f: f.subject)
        found: list[Finding] = groups.get(subject_id, [])
        return found

    def failing_checks(self, finding: Finding, metric: Metric) -> list[str]:
        """Names of the failing checks that grey out a metric; empty when it can be relied on."""
        by = self._by(
            "greyed",
            self.greyed,
            lambda g: (g.subject, g.auditor, metric_key(g.metric, g.params)),
        )
        grey: Greyed | None = by.get((finding.subject, finding.auditor, metric.key))
        return [] if grey is None else grey.checks

    def basis(self, subject_id: str) -> Metric | None:
        """What every other number of a subject is weighed against (its accuracy); None where nobody measured it."""
        metrics = (m for f in self.findings_of(subject_id) for m in f.metrics)
        return next((m for m in metrics if m.basis and m.value is not None), None)

    def doubt(self, finding: Finding, metric: Metric) -> str:
        """Why no verdict on this number means anything, because its subject is at chance or void; empty: it may."""
        doubt = self.doubted(finding.subject, metric)
        return "" if doubt is None else doubt.reason

    def doubted(self, subject_id: str, metric: Metric | None = None) -> Doubt | None:
        """Why no verdict on a subject, or on this number of it, means anything; None: they may."""
        if metric is not None and metric.basis:
            return None
        found: Doubt | None = self._by("doubt", self.at_chance, lambda d: d.subject).get(subject_id)
        return found

    def comparison(
        self, finding: Finding, metric: Metric, baseline: str | None = None
    ) -> Comparison | None:
        """A headline metric against ``baseline`` (default :meth:`reference_of` its subject), if there is one."""
        by = self._by(
            "comparison",
            self.comparisons,
            lambda c: (c.subject, c.auditor, c.baseline, metric_key(c.metric, c.params)),
        )
        baseline = baseline or self.reference_of(finding.subject)
        key = (finding.subject, finding.auditor, baseline, metric.key)
        found: Comparison | None = by.get(key)
        return found

    def _by(
        self, name: str, rows: list[_Row], key: Callable[[_Row], Hashable]
    ) -> dict[Hashable, Any]:
        """The first row of each key; made anew when the list is another one, or longer."""

        def index() -> dict[Hashable, Any]:
            found: dict[Hashable, Any] = {}
            for row in rows:
                found.setdefault(key(row), row)
            return found

        return self._indexed(name, rows, index)

    def _groups(
        self, name: str, rows: list[_Row], key: Callable[[_Row], Hashable]
    ) -> dict[Hashable, Any]:
        """The rows of each key."""

        def index() -> dict[Hashable, Any]:
            found: dict[Hashable, list[_Row]] = {}
            for row in rows:
                found.setdefault(key(row), []).append(row)
            return found

        return self._indexed(name, rows, index)

    def _indexed(
        self, name: str, rows: list[_Row], index: Callable[[], dict[Hashable, Any]]
    ) -> dict[Hashable, Any]:
        stamp = id(rows), len(rows)
        if name not in self._indexes or self._indexes[name][0] != stamp:
            self._indexes[name] = stamp, index()
        return self._indexes[name][1]

    def alerts_of(self, subject_id: str) -> list[str]:
        """The alerts about a subject, and those about the whole report."""
        return [a.text for a in self.alerts if not a.subjects or subject_id in a.subjects]

    @property
    def baselines(self) -> list[str]:
        """Ids of the reference subjects, in report order."""
        marked = self._groups("baselines", self.subjects, lambda s: s.baseline)
        return [s.id for s in marked.get(True, [])]

    @property
    def reference(self) -> str | None:
        """The baseline that the verdict compares with: ``random`` if audited, else the first."""
        return "random" if "random" in self.baselines else next(iter(self.baselines), None)

    def reference_of(self, subject_id: str) -> str | None:
        """What the verdict on a subject compares with: :attr:`reference`, or the one like it of the subject's size."""
        return None if self.reference is None else self.of_size(self.reference, subject_id)

    def of_size(self, baseline: str, subject_id: str) -> str:
        """A baseline, or the one like it of the subject's size where that is another."""
        if baseline not in self.baselines:
            return baseline
        like, ipc = self.subject(baseline), self.subject(subject_id).ipc
        if ipc in (None, like.ipc):
            return like.id
        others = (self.subject(b) for b in self.baselines)
        method = like.card.get("method")
        alike = (b.id for b in others if b.ipc == ipc and b.card.get("method") == method)
        return next(alike, like.id)

    def of_another_size(self, subject_id: str, baseline: str) -> str:
        """Why a set of another size than a reference is neither better nor worse than it; "" where both are of one."""
        own, other = self.subject(subject_id), self.subject(baseline)
        if own.as_large_as(other):
            return ""
        return (
            f"{subject_id} has {own.ipc} images a class and {baseline} {other.ipc}: audit with --ipc {own.ipc}, so "
            "that baselines are of its size"
        )


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of ``report.json``, committed as ``report.schema.json``."""
    schema = Report.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ddaudit report",
        **{k: v for k, v in schema.items() if k != "title"},
    }


def write_schema() -> None:
    """Renew the committed ``report.schema.json`` after a change of the models."""
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_name("report.schema.json").write_text(text, encoding="utf-8")
