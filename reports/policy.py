"""A policy: the rules that a report must satisfy, read from YAML or shipped with the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ddaudit.errors import BadInput, closest
from ddaudit.files import read_yaml
from ddaudit.findings import NO_TRUTH
from ddaudit.reports import labels

Use = Literal["value", "low", "high", "conservative"]
_SHIPPED = resources.files("ddaudit.reports.policies")
RunDemand = Literal["complete", "checked", "not quick", "seeds"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rule(_Model):
    """One bound on one metric; or ``claim: tested``, that an audit tested the privacy claims; or a demand on the run.

    ``use`` picks the side of the 95% interval that is held against the bound; ``conservative`` is
    the side that makes the rule harder to pass (``high`` for ``max``, ``low`` for ``min``): the rule is then violated
    where the whole interval breaks the bound, and inconclusive where the bound lies inside of it. With
    ``relative_to`` the bound applies to the metric minus that baseline's. A subject whose accuracy is
    not clearly above chance breaks every rule on what was measured of it besides: nothing follows from
    such a number. ``at_chance: ignore`` judges it all the same, and the line says so. ``level: warn`` says what is
    broken, and passes.

    ``run: complete`` asks for an answer in every planned cell, ``checked`` for instrument checks that all passed, ``not
    quick`` for another preset, ``seeds`` (with ``min``) for so many of them.
    """

    metric: str = ""
    claim: Literal["tested"] | None = None
    run: RunDemand | None = None
    level: Literal["fail", "warn"] = "fail"
    params: dict[str, Any] = Field(default_factory=dict)
    subject: str | None = None
    max: Annotated[float | None, NO_TRUTH] = None
    min: Annotated[float | None, NO_TRUTH] = None
    use: Use = "conservative"
    relative_to: str | None = None
    require_checks: bool = True
    missing: Literal["violated", "ignore"] = "violated"
    at_chance: Literal["violated", "ignore"] = "violated"

    @model_validator(mode="after")
    def _bounded(self) -> Rule:
        for kind, known in (("claim", ["subject", "missing"]), ("run", ["min"])):
            if getattr(self, kind) is not None:
                more = self.model_fields_set - {kind, "level", *known}
                if more:
                    raise ValueError(
                        f"{kind} goes with {' and '.join(known)}, not with {min(more)}"
                    )
                if kind == "run" and (self.run == "seeds") != (self.min is not None):
                    raise ValueError("run: seeds needs min, and no other demand on the run has one")
                return self
        if not self.metric:
            raise ValueError("needs metric, or claim: tested")
        if self.relative_to is not None and self.relative_to == self.subject:
            raise ValueError(f"relative_to is the subject itself ({self.subject})")
        if self.max is None and self.min is None:
            raise ValueError("needs max or min")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def __str__(self) -> str:
        if self.claim is not None:
            return f"claim {self.claim}"
        if self.run is not None:
            return f"run {self.run}{'' if self.min is None else f' >= {self.min:g}'}"
        params = labels.params_text(self.params)
        name = f"{self.metric}{f' ({params})' if params else ''}"
        name += f" minus {self.relative_to}" if self.relative_to else ""
        bounds = [] if self.min is None else [f">= {self.min:g}"]
        bounds += [] if self.max is None else [f"<= {self.max:g}"]
        return f"{name} {' and '.join(bounds)}"


@dataclass(frozen=True)
class Policy:
    """The rules of a policy file, and where they came from (for messages)."""

    rules: tuple[Rule, ...]
    source: str = "policy"
    inconclusive: Literal["fail", "warn"] = "fail"
    """What a bound inside of an interval means."""


class _File(_Model):
    rules: tuple[Rule, ...]
    inconclusive: Literal["fail", "warn"] = "fail"


def load_policy(path: str | Path) -> Policy:
    """Read a YAML policy: ``rules:`` with a list of rules (see :class:`Rule`).

    Args:
        path: a file; or, where there is none, the name of a policy that is shipped (:func:`ready`).

    Raises:
        BadInput: unreadable, not YAML, an unknown key or a bad value; the line names the key and
        what is allowed.
    """
    shipped = _SHIPPED / f"{path}.yaml"
    if str(path) in ready() and not Path(path).exists():
        with resources.as_file(shipped) as found:
            content = read_yaml(found)
    elif not Path(path).exists() and Path(path).name == Path(path).stem:
        raise BadInput(f"--policy {path}", "no such file", closest(str(path), ready()))
    else:
        content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list):
        raise BadInput(path, "is not a policy", "It needs a key 'rules' with a list of rules.")
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise _bad_policy(path, error) from None
    if not file.rules:
        raise BadInput(
            f"{path}: rules", "is empty", "Give a rule; 'claim: tested' asks for claims alone."
        )
    return Policy(file.rules, source=str(path), inconclusive=file.inconclusive)


def ready() -> list[str]:
    """Names of the policies that are shipped."""
    return sorted(p.name[:-5] for p in _SHIPPED.iterdir() if p.name.endswith(".yaml"))


def _bad_policy(path: str | Path, error: ValidationError) -> BadInput:
    first = error.errors(include_url=False)[0]
    at = ".".join(f"[{p}]" if isinstance(p, int) else str(p) for p in first["loc"]).replace(
        ".[", "["
    )
    if first["type"] == "extra_forbidden":
        allowed = Rule.model_fields if len(first["loc"]) > 1 else ["rules", "inconclusive"]
        return BadInput(f"{path}: {at}", "unknown key", f"Allowed: {', '.join(allowed)}.")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] != "missing" and not isinstance(first.get("input"), dict):
        message += f", not {first['input']!r}"
    return BadInput(f"{path}: {at}" if at else path, message)
