"""What run.json must hold for a run to be read back: checked once, so that everything behind it can rely on it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddaudit.errors import BadInput

FORMAT = 1
"""Of run.json; a newer one may mean what this version does not know."""
_Key = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}$")]
"""A file name of the run folder; never a path that leads out of it."""


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Cell(_Open):
    subject: str | None
    auditor: str
    seed: int | None = None
    key: _Key


class _Subject(_Open):
    id: str
    kind: str
    identity: str | None = None
    baseline: bool = False
    private: bool = False
    set_keys: list[_Key] = Field(default_factory=list)
    card: dict[str, Any] | None = None
    path: str | None = None
    found: str | None = None
    digest: str | None = None


class _Auditor(_Open):
    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class _Data(_Open):
    name: str
    notes: list[str] = Field(default_factory=list)


class _Info(_Open):
    config: dict[str, Any] = Field(default_factory=dict)
    data: _Data
    preset: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    subjects: list[_Subject]
    auditors: list[_Auditor]
    cells: list[_Cell]


def check_info(value: Any, where: object) -> dict[str, Any]:
    """The content of a run.json, with what older versions left out filled in.

    Raises:
        BadInput: something that a report needs is not there, or is of another kind.
    """
    made = value.get("format", FORMAT) if isinstance(value, dict) else FORMAT
    if isinstance(made, int) and made > FORMAT:
        what = f"is of format {made}, and this version reads up to {FORMAT}"
        raise BadInput(where, what, "Install a newer ddaudit.")
    try:
        return _Info.model_validate(value).model_dump()
    except ValidationError as error:
        raise damaged(error, where) from None


def damaged(error: ValidationError, where: object) -> BadInput:
    """The first thing that is wrong with a run.json."""
    first = error.errors(include_url=False)[0]
    at = ".".join(map(str, first["loc"]))
    what = f"is damaged ({f'{at}: ' if at else ''}{first['msg'].lower()})"
    return BadInput(where, what, "Was it edited? Run the audit again into a new folder.")
