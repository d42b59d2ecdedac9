"""Distil: run a recipe on real data and write the card."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.loops import Job, LabelWriter, Outcome, Progress, trained_networks
from ddaudit.distillation.reading import OpenedOnce
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.store import Store
from ddaudit.errors import BadInput
from ddaudit.sets import Card, DistilledSet, StorageBytes
from ddaudit.training import reuse_memory

MOST_BYTES = 16 * 2**30
"""Of a set's images: more is a slip of the keyboard, and would take the machine's memory first."""


def distill(
    recipe: Recipe,
    train: ImageData,
    *,
    data: Dataset,
    ipc: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    store: Store | None = None,
) -> DistilledSet:
    """Distil ``train`` into ``ipc`` images per class.

    Args:
        recipe: what to run.
        train: the real records (the data set's own training split, a subset, or a poisoned copy).
        data: names, constants and augmentation of the data set ``train`` belongs to.
        ipc: images per class, at least 1.
        seed: seeds everything but privacy noise.
        device: where to compute.
        progress: called with (steps done, steps in all).
        store: keeps work that other distillations can use, such as experts.

    Returns:
        The set, in pixel space, with its card.

    Raises:
        BadInput: options that do not fit the data.
        DDAuditError: the optimisation diverged.
    """
    everyone = torch.ones(1, len(train), dtype=torch.bool)
    job = Job(train, everyone, data, ipc, seed, torch.device(device), progress, store)
    return _run(recipe, job)[0]


def distill_sizes(
    recipe: Recipe,
    train: ImageData,
    sizes: Sequence[int],
    *,
    data: Dataset,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[DistilledSet]:
    """Distil sets of several sizes; private recipes make all of them from one budget.

    The private data answer each question once, with noise, and every size works on the same stored answers. All
    cards carry the one claim and the one release name: publishing all the sets costs it once.

    Args:
        sizes: images per class, each at least 1.
        recipe, train, data, seed, device, progress: see :func:`distill`.

    Returns:
        One set per size, in the given order.

    Raises:
        BadInput: a private recipe whose questions depend on the synthetic set, so that sizes cannot share them.
    """
    chosen = recipe
    if recipe.reader is not None and recipe.reader.private and len(sizes) > 1:
        if not all(recipe.loop.reusable(recipe, ipc) for ipc in sizes):
            raise BadInput(
                f"{recipe.name} with several sizes",
                "its questions depend on the synthetic set, so one budget cannot serve them",
                "Distil one size at a time (the budgets add up), or use ndpdc, dosser, dp-merf or ldpdc.",
            )
        queries = max(recipe.queries(ipc) for ipc in sizes)
        chosen = replace(recipe, reader=OpenedOnce(recipe.reader, queries))
    everyone = torch.ones(1, len(train), dtype=torch.bool)
    where = torch.device(device)
    sets = [
        _run(chosen, Job(train, everyone, data, ipc, seed, where, progress))[0] for ipc in sizes
    ]
    if isinstance(chosen.reader, OpenedOnce):
        # Later sizes may have asked more: every card states what all of them together cost.
        (claim,) = chosen.reader.claims()
        described = recipe.describe()
        sets = [
            replace(s, card=s.card.model_copy(update={"privacy": claim, "recipe": described}))
            for s in sets
        ]
    return sets


def distill_many(
    recipe: Recipe,
    train: ImageData,
    members: Tensor,
    *,
    data: Dataset,
    ipc: int,
    seed: int,
    device: torch.device | str = "cpu",
    store: Store | None = None,
) -> list[DistilledSet]:
    """Shadow distillation: distil on K subsets of ``train``.

    Where signals do not depend on the synthetic set (DM-like and random recipes) all K runs share networks and
    real-data signals; the rows of W do the rest. Other recipes run one after the other.

    Args:
        members: (K, N) bool, row k = the records that run k may see.

        recipe, train, data, ipc, seed, device, store: see :func:`distill`.

    Returns:
        K sets. Positions in ``card.member_indices`` refer to ``train``.
    """
    if members.ndim != 2 or members.shape[1] != len(train) or members.dtype != torch.bool:
        raise ValueError(
            f"members must be bool (K, {len(train)}), got {members.dtype} {tuple(members.shape)}"
        )
    job = Job(train, members, data, ipc, seed, torch.device(device), store=store)
    if recipe.records is None and recipe.loop.shareable(recipe, ipc):
        return _run(recipe, job)
    return [
        made
        for k, row in enumerate(members)
        for made in _run(recipe, replace(job, members=row[None], seed=seed + 7919 * k))
    ]


def check_size(ipc: int, train: ImageData) -> None:
    """Refuse a set that nobody can hold, before anything is taken.

    Raises:
        BadInput: fewer than one image per class, no whole number, or more bytes than :data:`MOST_BYTES`.
    """
    if isinstance(ipc, bool) or not hasattr(ipc, "__index__"):
        raise BadInput(f"ipc {ipc!r}", "is no whole number of images per class")
    ipc = operator.index(ipc)
    if ipc < 1:
        raise BadInput(f"--ipc {ipc}", "images per class must be at least 1")
    need = 4 * ipc * train.num_classes * math.prod(train.shape)
    if need > MOST_BYTES:
        what = f"is {need / 2**30:,.0f} GB of images, more than the {MOST_BYTES >> 30} GB that a set may be"
        raise BadInput(f"--ipc {ipc}", what, f"The data have {len(train):,} records.")


def _run(recipe: Recipe, job: Job) -> list[DistilledSet]:
    check_size(job.ipc, job.train)
    recipe.check_unit(job.data)
    started = time.perf_counter()
    train = job.train
    if recipe.records is not None:
        recipe.check_private()
        job = recipe.records.screen(job)
    with reuse_memory():
        outcomes = [
            _relabelled(recipe, made, job, row)
            for made, row in zip(recipe.loop.run(recipe, job), job.members, strict=True)
        ]
    seconds = (time.perf_counter() - started) / len(outcomes)
    base = {
        "method": recipe.name,
        "recipe": recipe.describe(),
        "deviations": [*recipe.deviations, *_adapted(recipe, job.data, job.ipc)],
        "ipc": job.ipc,
        "data": job.data.name,
        "class_names": list(train.class_names),
        "modality": train.modality,
        "space": train.space,
        "seed": job.seed,
        "versions": versions(),
        # Time tells how many records were sampled: it stays off a private card.
        "seconds": None if any(o.claim for o in outcomes) else round(seconds, 3),
    }
    mean, std = recipe.normalisation(job.data)
    return [
        DistilledSet(
            o.images,
            o.labels,
            train.num_classes,
            _card(base, o, train.fingerprint, mean, std, recipe),
            o.store,
            o.outliers,
        ).check(recipe.name)
        for o in outcomes
    ]


def _relabelled(recipe: Recipe, made: Outcome, job: Job, row: Tensor) -> Outcome:
    """The outcome with its recipe's label model applied; ``row`` (N,) bool marks the records this run may see."""
    if recipe.labels is None or isinstance(recipe.labels, LearnedLabels):
        return made
    recipe.check_private()
    if isinstance(recipe.labels, LabelWriter):
        alone = replace(job, members=row[None])
        teachers = made.teachers or trained_networks(recipe.networks_for(alone), recipe.name)
        batch = len(made.images) if recipe.protocol is None else recipe.protocol.batch_size
        constants = recipe.constants(job.data)
        return recipe.labels.annotate(made, teachers, alone, batch=batch, constants=constants)
    labels, notes = recipe.labels.relabel(
        made.images,
        made.labels,
        train=job.train.subset(row),
        data=job.data,
        seed=job.seed,
        device=job.device,
    )
    # Labels of a store would contradict the new ones.
    return replace(made, labels=labels, store=None, notes=(*made.notes, *notes))


def _adapted(recipe: Recipe, data: Dataset, ipc: int) -> list[str]:
    """What is not as published on these records, or at this size."""
    said = []
    if recipe.published_ipc not in (None, ipc):
        said.append(
            f"values are those for {recipe.published_ipc} images per class, and the source has others at other sizes"
        )
    if data.modality != "image" and recipe.networks is not None:
        said.append(f"{data.modality} records: an MLP stands for ConvNet, and nothing is augmented")
    return said


def _card(
    base: dict[str, Any],
    outcome: Outcome,
    fingerprint: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    recipe: Recipe,
) -> Card:
    protocol = recipe.protocol
    if protocol is not None and protocol.labels == "store" and outcome.store is None:
        protocol = None  # +soft has replaced the labels that it was stated for
    return Card(
        **base,
        protocol=None if protocol is None else protocol.to_card(),
        contains_real_pixels=outcome.real_pixels,
        learned_lr=outcome.learned_lr,
        bytes=_stored(outcome),
        # A hash of private records tells two neighbouring data sets apart: it stays off a private card.
        source_fingerprint=None if outcome.claim else fingerprint,
        mean=list(mean),
        std=list(std),
        privacy=outcome.claim,
        member_indices=outcome.member_indices,
        notes=[*outcome.notes, *_repeated(recipe, outcome.member_indices), *_shared(recipe)],
    )


def _shared(recipe: Recipe) -> list[str]:
    """What all distillations of the same records have in common, so that their spread leaves it out."""
    if not isinstance(recipe.networks, Experts | ExpertPaths):
        return []
    return [
        "networks trained on the records are shared by every seed: a spread over seeds leaves theirs out"
    ]


def _stored(outcome: Outcome) -> StorageBytes | None:
    """The storage budget, where it is not what the file shows anyway."""
    images = outcome.image_bytes
    parts = (images, outcome.store, outcome.outliers)
    if outcome.decoder_bytes == 0 and all(p is None for p in parts):
        return None
    labels = outcome.labels.nelement() * outcome.labels.element_size()
    return StorageBytes(
        images=4 * outcome.images.nelement() if images is None else images,
        labels=labels + (0 if outcome.store is None else outcome.store.num_bytes),
        decoder=outcome.decoder_bytes,
        outliers=0 if outcome.outliers is None else 4 * outcome.outliers.nelement(),
    )


def versions() -> dict[str, str]:
    """Versions of the packages a number may depend on."""
    found = {}
    for package in ("ddaudit", "torch", "torchvision", "opacus", "dp-accounting", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _repeated(recipe: Recipe, records: list[int] | None) -> list[str]:
    """What a card says of records that were released more than once: classes with fewer than IPC of them."""
    if records is None or len(set(records)) == len(records):
        return []
    if getattr(recipe.loop, "takes_all", False):
        return [f"{len(set(records))} of {len(records)} images are unique"]
    return [
        f"{len(set(records))} of {len(records)} images are unique: classes with fewer records than images per class "
        "repeat them"
    ]
