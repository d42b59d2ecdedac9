"""From what the user typed to a Subject: a recipe name, a set file, a checkpoint."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddaudit import hub
from ddaudit.auditing import Subject, recipe_subject
from ddaudit.data import Dataset
from ddaudit.distillation import METHODS, check_recipe, make_recipe
from ddaudit.errors import BadInput
from ddaudit.files import kind_of
from ddaudit.models import Arch, Network, load_checkpoint, wrap
from ddaudit.models.own import NOT_LOGITS, gives_probabilities
from ddaudit.sets import (
    detect,
    digest,
    fingerprint,
    is_set_file,
    load,
    match_classes,
    pixels_outside,
)
from ddaudit.sets.imports import unknown_format

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz", ".npy", ".parquet", ".pkl", ".ckpt")
NO_WEIGHTS = (".npz", ".npy", ".parquet", ".csv", ".json", ".txt", ".png", ".zip")
"""Files that may hold a set, and never a checkpoint."""


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
    name: str | None = None,
) -> Subject:
    """The subject a word on the command line names.

    Args:
        text: recipe name ("dm+fair"), a ddaudit set file, or a checkpoint (.pth, .pt, .safetensors). ``FILE#ENTRY``
            says which weights are meant where a checkpoint holds several. ``hub:owner/name`` is a file of the Hub.
        data: what it is audited against; shapes and classes must fit.
        arch: the architecture a checkpoint is read as.
        options: recipe options of --set; ignored for files.
        name: what the report calls a file; default: the file's name.

    Raises:
        BadInput: neither a recipe nor a readable file, or it does not fit the data.
    """
    if is_file_name(text):
        path, entry = split_entry(text)
        found = hub.local(path)
        subject = _file(found, text, entry=entry, data=data, arch=arch, baseline=baseline)
        if found != path:
            place = hub.parse(path)
            notes = (*subject.notes, f"pulled from {place}")
            subject = replace(subject, id=place.repo, notes=notes, place=str(place))
        return replace(subject, id=name) if name else subject
    recipe = make_recipe(text, profile=profile, options=options, epsilon=epsilon, delta=delta)
    check_recipe(recipe, data)
    return recipe_subject(recipe, baseline=baseline)


def split_entry(text: str) -> tuple[Path, str | None]:
    """``FILE#ENTRY`` taken apart; a file that is there under the whole text is that file."""
    file, mark, entry = text.rpartition("#")
    return (Path(file), entry) if file and mark and kind_of(text) is None else (Path(text), None)


def is_file_name(text: str) -> bool:
    """True when a subject is read as a file rather than as a recipe's name.

    Raises:
        BadInput: it is the name of a recipe, and of a folder that may hold a set.
    """
    path, _ = split_entry(text)
    if "/" not in text and kind_of(path) == "folder" and text.partition("+")[0] in METHODS:
        if (found := detect(path)) is not None:
            what = f"names a recipe, and a folder in the '{found}' format that lies here"
            raise BadInput(
                text, what, f"For the folder: ./{text}; for the recipe: rename the folder."
            )
        return False  # the --out of an earlier run, say
    return kind_of(path) is not None or path.suffix in SUFFIXES or "/" in text


def module_subject(name: str, module: nn.Module, *, data: Dataset) -> Subject:
    """A network of one's own as a subject: a copy of it, known by its class and weights.

    Args:
        module: takes pixels in [0, 1] (standardised values where the data are), gives logits, (N, C, H, W) -> (N, K).

    Raises:
        BadInput: it does not, for these data.
    """
    own = copy.deepcopy(module).eval()
    network = own if isinstance(own, Network) else wrap(own, data.shape, data.num_classes)
    try:
        with torch.no_grad():
            logits = network.cpu()(data.test.pixels(torch.arange(min(32, len(data.test)))))
    except Exception as error:  # the user's own code
        text = " ".join(str(error).split())[:200]
        raise BadInput(
            name,
            f"fails on images of '{data.name}' ({type(error).__name__}: {text})",
            "A module takes pixels in [0, 1], (N, C, H, W).",
        ) from None
    if not isinstance(logits, Tensor) or logits.shape[1:] != (data.num_classes,):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(name, f"gives {shape}, not logits of {data.num_classes} classes")
    if gives_probabilities(logits):
        raise BadInput(name, *NOT_LOGITS)
    return Subject(id=name, kind="checkpoint", network=network, identity=_module_identity(module))


def _module_identity(module: nn.Module) -> str:
    """A hash of a module's structure, of its classes' names and sources where there are some, of plain values that it
    holds (numbers, texts) and of its weights and buffers."""
    made = hashlib.sha256(repr(module).encode())
    for kind in dict.fromkeys(k for m in module.modules() for k in type(m).__mro__):
        made.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        if kind.__module__.split(".")[0] not in ("torch", "builtins"):
            with contextlib.suppress(OSError, TypeError):
                made.update(inspect.getsource(kind).encode())
    tensors = {
        **module.state_dict(),
        **dict(module.named_buffers()),
    }  # some buffers are in no state
    for name, part in module.named_modules():
        held = {f"{name}.{k}": v for k, v in vars(part).items() if k != "training"}
        tensors |= {k: v for k, v in held.items() if isinstance(v, torch.Tensor)}
        plain = {k: v for k, v in held.items() if _is_plain(v)}
        made.update(repr(sorted(plain.items())).encode())
    for key, value in sorted(tensors.items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        made.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        made.update(raw.numpy().tobytes())
    return made.hexdigest()[:16]


def _is_plain(value: object) -> bool:
    """Whether its repr says all of it, and the same in every process."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _file(
    path: Path, text: str, *, entry: str | None, data: Dataset, arch: Arch, baseline: bool
) -> Subject:
    if kind_of(path) is None:
        raise BadInput(text, "no such file, and no such recipe", "See 'ddaudit list methods'.")
    if entry is not None and (path.is_dir() or is_set_file(path) or detect(path)):
        raise BadInput(text, "is no checkpoint, so '#' names nothing in it", f"Give {path}.")
    if is_set_file(path):
        value = match_classes(load(path), data.train.class_names, where=path)
        value.check_against(
            shape=data.shape,
            num_classes=data.num_classes,
            data=data.name,
            where=path,
            space=data.space,
        )
        notes = []
        if value.card.poison is not None:
            notes.append(f"poisoned on purpose, its card says: {value.card.poison.attack}")
        if outside := pixels_outside(value):
            notes.append(outside)
        return Subject(
            id=path.name,
            kind="file",
            set=value,
            path=path,
            baseline=baseline,
            identity=fingerprint(value),
            notes=tuple(notes),
        )
    found = detect(path)
    if found is not None:
        raise BadInput(
            text,
            f"looks like a distilled set in the '{found}' format",
            f"First: ddaudit import {text} --format {found} --data {data.name} --out set.safetensors",
        )
    if path.is_dir() or path.suffix.lower() in NO_WEIGHTS:
        raise unknown_format(path)
    network = load_checkpoint(
        path,
        arch=arch,
        shape=data.shape,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        entry=entry,
    )
    chosen = "" if entry is None else f"#{entry}"
    return Subject(
        id=path.name + chosen,
        kind="checkpoint",
        network=network,
        path=path,
        baseline=baseline,
        identity=digest(path) + chosen,
        notes=(network.origin,) if network.origin else (),
    )
