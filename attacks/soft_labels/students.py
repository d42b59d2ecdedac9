"""Students of a set under several versions of its labels: as released, flattened, cut, rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.auditing import Context
from ddaudit.distillation.labels import harden, keep_top, temper
from ddaudit.models import Network
from ddaudit.sets import DistilledSet

RELEASED = "as released"
PER_IMAGE = "one label an image"
HARD = "hard"


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a set's labels.

    Attributes:
        name: as a report prints it.
        labels: (M, K) float32 distributions.
        temperature: the teacher's logits were divided by this; 0 for hard labels, None where unknown or where the
            labels were cut.
    """

    name: str
    labels: Tensor
    temperature: float | None


def versions(
    labels: Tensor,
    *,
    temperature: float | None = None,
    temperatures: Sequence[float] = (),
    top: Sequence[int] = (),
    shuffled: torch.Generator | None = None,
    stored: bool = False,
) -> list[Version]:
    """The labels as released, at other temperatures, cut to their top classes, and hard.

    Args:
        labels: (M, K) distributions as released, one for each image.
        temperature: theirs, or None where unknown: then no other temperature can be named.
        temperatures: others to try; one equal to the given is skipped.
        top: numbers of classes to cut to; cuts that would change nothing are skipped.
        shuffled: draws how labels are dealt out anew within each class; None leaves that version out.
        stored: released are the labels of many views of each image as well, see :func:`replays`; the labels for each
            image alone are then a version of their own.
    """
    tried = [Version(RELEASED, labels, temperature)]
    tried += [Version(PER_IMAGE, labels, temperature)] if stored else []
    if temperature is not None:
        tried += [
            Version(f"temperature {t:g}", temper(labels, t / temperature), t)
            for t in temperatures
            if t != temperature
        ]
    width = int((labels > 0).sum(1).max())
    tried += [Version(f"top {k}", keep_top(labels, k), None) for k in top if 1 < k < width]
    if shuffled is not None:
        tried.append(Version("shuffled in class", shuffle_in_class(labels, shuffled), None))
    return [*tried, Version(HARD, harden(labels), 0.0)]


def shuffle_in_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The labels dealt out anew among images of the same top class: their statistics stay, their ties are cut.

    Source: Behrens & Zdeborova, ICLR 2026, arXiv 2506.14457, the control of figures 3 and 4.
    """
    top = labels.argmax(1)
    dealt = labels.clone()
    for c in torch.unique(top):
        own = (top == c).nonzero().squeeze(1)
        dealt[own] = labels[own[torch.randperm(len(own), generator=generator).to(own.device)]]
    return dealt


def replays(made: DistilledSet, ctx: Context) -> bool:
    """Whether the set releases labels for many views of each image, which its card says networks are to see."""
    return made.store is not None and ctx.stated_protocol(made).labels == "store"


def students(
    made: DistilledSet, tried: Sequence[Version], ctx: Context, *, seed: int, others: int
) -> dict[str, list[Network]]:
    """Networks trained on each version: ``preset.victims`` on labels as released, ``others`` on each rest.

    Under the audit's protocol, but for a set that :func:`replays` a label store: as released, it is trained on as its
    card says. Student i of every version has the same seed, so that versions differ in their labels only.
    """
    trained: dict[str, list[Network]] = {}
    stored = replays(made, ctx)
    for whole in (True, False):
        sets: list[DistilledSet] = []
        seeds: list[int] = []
        owners: list[str] = []
        for version in tried:
            released = version.name == RELEASED
            if whole != (released and stored):
                continue
            count = ctx.preset.victims if released else others
            # A store beside other labels would contradict them.
            sets += [made if whole else replace(made, labels=version.labels, store=None)] * count
            seeds += [ctx.seed_for("soft-labels", "student", seed, i) for i in range(count)]
            owners += [version.name] * count
        protocol = (
            ctx.stated_protocol(made) if whole else None if made.store is None else ctx.protocol
        )
        for owner, network in zip(
            owners, ctx.train(sets, seeds=seeds, protocol=protocol), strict=True
        ):
            trained.setdefault(owner, []).append(network)
    return trained


def answers(networks: Sequence[Network], images: Sequence[Tensor], ctx: Context) -> list[Tensor]:
    """Per group of images (N_g, C, H, W): (V, N_g, K) logits of all networks."""
    logits = torch.stack([ctx.predict(net, torch.cat(list(images))) for net in networks])
    return list(logits.split([len(x) for x in images], dim=1))
