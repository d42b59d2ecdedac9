"""The clean sets that a suspect is held against: of the recipe it says it is from, or random subsets of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.attacks.backdoor_scan.detector import Exhibit
from ddaudit.auditing import Context, Subject, recipe_subject
from ddaudit.distillation import Recipe, check_recipe, make_recipe
from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Network
from ddaudit.sets import Card, DistilledSet
from ddaudit.training import EvaluationProtocol

FIRST_SEED = 10_000
"""Clean sets have seeds from here on, which no audited subject has."""
SUBSETS = "random"


@dataclass(frozen=True, eq=False)
class Reference:
    """What clean sets are made of, and how networks are trained on them: as on the suspect.

    Attributes:
        maker: the recipe.
        ctx: the audit's, with the suspect's images per class.
        protocol: of training.
        network: the suspect, where it is a network that came without its set.
        doubt: why a clean suspect might differ from these sets all the same; "": nothing speaks for it.
    """

    maker: Subject
    ctx: Context
    protocol: EvaluationProtocol
    network: Network | None
    doubt: str

    @property
    def key(self) -> tuple[str, ...]:
        """Names everything that clean sets and their networks depend on."""
        arch = str((self.network or self.ctx).arch)
        return self.maker.identity, str(self.ctx.ipc), self.protocol.key, arch

    @property
    def words(self) -> str:
        """What the clean sets are, in the plural."""
        if self.maker.id == SUBSETS:
            return "random subsets of the data"
        return f"sets of {self.maker.id}"

    def made(self, count: int, victims: int) -> Iterator[tuple[DistilledSet, list[Network]]]:
        """Clean sets, each with the networks trained on it."""
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            private = self.maker.private  # a release of its own each time, which no run keeps
            made = (
                self.ctx.redistill(self.maker, self.ctx.data.train, seed)
                if private
                else self.ctx.distilled(self.maker, seed)
            )
            seeds = [self.ctx.seed_for("victim", seed, i) for i in range(victims)]
            yield (
                made,
                self.ctx.train(
                    [made] * victims,
                    seeds=seeds,
                    arch=self.network.arch if self.network else None,
                    protocol=self.protocol,
                ),
            )


def reference_for(subject: Subject, ctx: Context, *, recipe: str) -> Reference:
    """What a suspect is compared with.

    Args:
        recipe: the user's word for it; "": what the card says, random subsets where it says nothing we can run.

    Raises:
        Unsupported: a recipe of the user's own, compared with itself.
        BadInput: no such recipe.
    """
    if subject.recipe is not None and not recipe:
        raise Unsupported(
            "made here from your own records, it has no unknown origin, and clean sets of the same recipe would share "
            "whatever those records hide; scan a file or a checkpoint, or name clean sets to compare it with "
            "(--setting backdoor-scan.recipe=NAME)"
        )
    profile = ctx.preset.profile
    card = None if subject.set is None else subject.set.card
    doubt = ""
    if recipe:
        chosen = make_recipe(recipe, profile=profile)
    else:
        chosen, doubt = (
            (make_recipe(SUBSETS, profile=profile), _UNKNOWN)
            if card is None
            else _of_card(card, profile)
        )
    check_recipe(chosen, ctx.data)
    protocol = ctx.protocol if subject.set is None else ctx.protocol_for(subject.set)
    ipc = ctx.ipc if subject.set is None else _ipc(subject.set)
    return Reference(
        recipe_subject(chosen), replace(ctx, ipc=ipc), protocol, subject.network, doubt
    )


def exhibit_of(
    made: DistilledSet | None, clean: Tensor, labels: Tensor, *, classes: int, rows: int, seed: int
) -> Exhibit:
    """A set (at most ``rows`` images of it, evenly over classes) beside trusted images."""
    nothing = torch.zeros(0, dtype=torch.int64)
    if made is None:
        return Exhibit(clean, labels, classes, None, nothing, seed)
    own = made.hard_labels
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(own), generator=generator)
    kept = [order[own[order] == k][: max(1, rows // classes)] for k in range(classes)]
    index = torch.cat(kept).sort().values
    return Exhibit(clean, labels, classes, made.images[index], own[index], seed)


_UNKNOWN = (
    "It does not say what made it, so it is compared with random subsets of the data. A clean distilled set is no "
    "such subset and may stand out too: name its method (--setting backdoor-scan.recipe=NAME) before you accuse it."
)


_OTHER_NUMBERS = (
    "Its card states other numbers for {} than its clean sets have, so a clean one may differ."
)


def _of_card(card: Card, profile: Literal["small", "paper"]) -> tuple[Recipe, str]:
    """The recipe a card names, at the audit's profile or the small one, and what is doubtful about it."""
    try:
        tried = [make_recipe(card.method, profile=p) for p in (profile, "small")]
    except BadInput:  # other code's set, or a method that is not installed here
        return make_recipe(SUBSETS, profile=profile), _UNKNOWN
    for recipe in tried:
        if recipe.describe() == card.recipe:
            return recipe, ""
    return tried[0], _OTHER_NUMBERS.format(card.method)


def _ipc(made: DistilledSet) -> int:
    """What its card says; no more than its largest class has."""
    most = int(made.hard_labels.bincount().max())
    return min(made.card.ipc or max(1, len(made) // made.num_classes), most)
