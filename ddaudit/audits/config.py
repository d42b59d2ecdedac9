"""The resolved configuration of an audit: what the command line or a YAML file says, validated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddaudit.auditing import PRESETS, Preset, TrainsBy
from ddaudit.errors import BadInput
from ddaudit.files import read_yaml
from ddaudit.findings import NO_TRUTH

BASELINES = ("full", "random", "herding")
ON_LARGE = ("full", "random")


class AuditConfig(BaseModel):
    """Everything an audit depends on. Stored in the run folder; workers rebuild their context from it."""

    model_config = ConfigDict(extra="forbid")
    subjects: list[str]
    names: dict[str, str] = Field(default_factory=dict)
    """File of ``subjects`` -> what the report calls it; default: the file's name."""
    data: str = "digits"
    data_root: str | None = None
    download: bool = False
    auditors: list[str] | None = Field(default=None, min_length=1)
    """None: all of them."""
    preset: str = "quick"
    seeds: Annotated[int | None, NO_TRUTH] = Field(default=None, ge=1, le=10_000)
    """None: the preset's number."""
    ipc: Annotated[int, NO_TRUTH] = Field(default=10, ge=1)
    epsilon: Annotated[float | None, NO_TRUTH] = None
    delta: Annotated[float | None, NO_TRUTH] = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Recipe options (--set), applied to every recipe that has them."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Per-auditor settings: {"membership": {"shadows": 16}}."""
    arch: str | None = None
    """Victim architecture; None: ConvNet, at width 32 in the small profile."""
    victims: Annotated[int | None, NO_TRUTH] = Field(default=None, ge=1)
    protocol: TrainsBy = "audit"
    """Whose protocol victims are trained under: the audit's, each card's where it states one, or the audit's on
    attacked batches (adversarial)."""
    baselines: list[str] | None = None
    """None: all three; without herding, which trains a network on all records, where the preset is one for large images
    (``Preset.large``)."""
    device: str = "auto"
    jobs: Annotated[int | None, NO_TRUTH] = Field(default=None, ge=1, le=1024)
    """Parallel worker processes; None: one per core on a CPU, one per GPU."""
    ray: str | None = None
    out: str = "runs/audit"

    def unasked(self, names: Iterable[str]) -> list[str]:
        """Those of these auditors that the audit does not ask."""
        return [name for name in names if self.auditors and name not in self.auditors]

    def resolved_preset(self) -> Preset:
        """The preset with this configuration's overrides.

        Raises:
            BadInput: unknown preset.
        """
        if self.preset not in PRESETS:
            raise BadInput(
                f"--preset {self.preset}", "unknown preset", f"Known: {', '.join(PRESETS)}."
            )
        preset = PRESETS[self.preset]
        changes = {"seeds": self.seeds, "victims": self.victims}
        return preset.model_copy(update={k: v for k, v in changes.items() if v is not None})


def make_config(values: dict[str, Any], *, file: Path | None = None) -> AuditConfig:
    """Build a configuration from command-line values on top of an optional YAML file.

    Args:
        values: field -> value; None means "not given on the command line".
        file: YAML file with the same field names.

    Raises:
        BadInput: unreadable file, unknown field, bad value.
    """
    base: dict[str, Any] = {}
    if file is not None:
        loaded = read_yaml(file)
        if not isinstance(loaded, dict):
            raise BadInput(
                file,
                "is not a mapping of options to values",
                f"Options: {', '.join(AuditConfig.model_fields)}.",
            )
        base = loaded
    given = {k: v for k, v in values.items() if v is not None}
    if isinstance(base.get("settings"), dict) and "settings" in given:
        given["settings"] = _merged(base["settings"], given["settings"])
    try:
        return AuditConfig.model_validate({**base, **given})
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"])) or "configuration"
        hint = (
            f"Options: {', '.join(AuditConfig.model_fields)}."
            if first["type"] == "extra_forbidden"
            else ""
        )
        raise BadInput(
            f"{file}: {path}" if file else f"--{path.replace('_', '-')}", first["msg"].lower(), hint
        ) from None


def _merged(file: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings by auditor: those of the file, with those of the command line on top, key by key."""
    own = {name: file[name] if isinstance(file.get(name), dict) else {} for name in given}
    return {**file, **{name: {**own[name], **given[name]} for name in given}}
