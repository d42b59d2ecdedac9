"""From what the user typed to a Subject: a recipe name, a set file, a checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from ddaudit.auditing import Subject
from ddaudit.data import Dataset
from ddaudit.distillation import METHODS, check_recipe, make_recipe
from ddaudit.errors import BadInput
from ddaudit.models import Arch, load_checkpoint
from ddaudit.sets import (
    FORMATS,
    detect,
    digest,
    fingerprint,
    is_set_file,
    load,
    match_classes,
)

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz", ".parquet", ".pkl", ".ckpt")


def make_subject(
    text: str,
    *,
    data: Dataset,
    profile: Literal["small", "paper"],
    ipc: int,
    arch: Arch,
    options: dict[str, Any] | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    baseline: bool = False,
) -> Subject:
    """The subject a word on the command line names.

    Args:
        text: recipe name ("dm+fair"), a ddaudit set file, or a checkpoint (.pth, .pt, .safetensors).
        data: what it is audited against; shapes and classes must fit.
        arch: the architecture a checkpoint is read as.
        options: recipe options of --set; ignored for files.

    Raises:
        BadInput: neither a recipe nor a readable file, or it does not fit the data.
    """
    if is_file_name(text):
        return _file(Path(text), text, data=data, arch=arch, baseline=baseline)
    recipe = make_recipe(text, profile=profile, options=options, epsilon=epsilon, delta=delta)
    check_recipe(recipe, data)
    described = json.dumps(recipe.describe(), sort_keys=True)
    identity = hashlib.sha256(described.encode()).hexdigest()[:16]
    return Subject(
        id=recipe.name, kind="recipe", recipe=recipe, baseline=baseline, identity=identity
    )


def is_file_name(text: str) -> bool:
    """True when a subject is read as a file rather than as a recipe's name."""
    path = Path(text)
    return path.exists() or path.suffix in SUFFIXES or "/" in text


def _file(path: Path, text: str, *, data: Dataset, arch: Arch, baseline: bool) -> Subject:
    if not path.exists():
        raise BadInput(
            text, "no such file, and no such recipe", f"Recipes: {', '.join(METHODS.names())}."
        )
    if is_set_file(path):
        value = match_classes(load(path), data.train.class_names, where=path)
        value.check_against(
            shape=data.shape,
            num_classes=data.num_classes,
            data=data.name,
            where=path,
            space=data.space,
        )
        return Subject(
            id=path.name,
            kind="file",
            set=value,
            path=path,
            baseline=baseline,
            identity=fingerprint(value),
        )
    found = detect(path)
    if found is not None:
        raise BadInput(
            text,
            f"looks like a distilled set in the '{found}' format",
            f"First: ddaudit import {text} --format {found} --data {data.name} --out set.safetensors",
        )
    if path.is_dir():
        raise BadInput(
            text, "is a folder", f"Formats that can be imported: {', '.join(FORMATS.names())}."
        )
    network = load_checkpoint(
        path,
        arch=arch,
        shape=data.shape,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
    )
    return Subject(
        id=path.name,
        kind="checkpoint",
        network=network,
        path=path,
        baseline=baseline,
        identity=digest(path),
    )
