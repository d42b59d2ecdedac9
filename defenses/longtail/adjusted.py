"""``+logit-adjusted``, ``+unbiased``, ``+adsa``: networks that learn of long-tailed records without the bias."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.fairness.lessons import taught, teachable, untreated
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.imbalance import Adjustment
from ddaudit.distillation.labels import TeacherLabels
from ddaudit.distillation.lessons import Adjusted, Deferred
from ddaudit.distillation.relabel import ViewLabels
from ddaudit.distillation.selection import Selection
from ddaudit.errors import BadInput
from ddaudit.training import PROTOCOLS

ADJUSTED = "Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021, arXiv 2007.07314"
UNBIASED = "Cui et al., Rethinking Long-tailed Dataset Distillation, AAAI 2026, arXiv 2511.18858"
ADSA = (
    "ADSA, Rectifying Soft-Label Entangled Bias in Long-Tailed Dataset Distillation, NeurIPS 2025, "
    "arXiv 2511.17914"
)


def logit_adjusted(recipe: Recipe) -> Recipe:
    """Train the method's networks on the records with the log of the class shares added to their logits.

    ``full`` trains none: its card says that those who train on it do so.

    Raises:
        BadInput: a method whose networks learn nothing of the records, or see every class equally often already.
    """
    networks, loop, where = teachable(recipe), recipe.loop, f"{recipe.name}+logit-adjusted"
    untreated(recipe, where, again=False)
    if networks is None and isinstance(loop, Selection) and loop.takes_all:
        protocol = replace(PROTOCOLS["dc"], name="dc-adjusted", adjust=1.0)
        return replace(
            recipe, protocol=protocol, status="ours", source=f"{ADJUSTED}, on: {recipe.source}"
        )
    if networks is None:
        raise BadInput(
            where,
            "'logit-adjusted' changes how networks are trained on the records, and this method trains none on them",
            "Use '+balanced', full, or a method with teachers or experts (sre2l, datm, idc, random+fkd).",
        )
    note = "networks trained on the records have the log of the class shares added to their logits meanwhile"
    return taught(recipe, Adjusted(), source=ADJUSTED, note=note)


def adsa(recipe: Recipe) -> Recipe:
    """Take tau times the log of the class shares off the logits that teachers label with; tau is searched.

    Raises:
        BadInput: a method whose labels no teacher writes.
    """
    if not isinstance(recipe.labels, (TeacherLabels, ViewLabels)):
        what = "has hard labels" if recipe.labels is None else "learns its labels"
        raise BadInput(
            f"{recipe.name}+adsa",
            f"'adsa' adjusts labels that teachers write, and this method {what}",
            "Use it on sre2l, edc, rded, random+fkd or dm+soft.",
        )
    return replace(
        recipe,
        labels=replace(recipe.labels, adjust=Adjustment()),
        status="reconstruction",
        source=f"{ADSA}, on: {recipe.source}",
        deviations=(
            *recipe.deviations,
            "adsa: reconstruction, the authors' code could not be read; a grid of tau from 0 to 3",
        ),
    )


DEFENSES.add(
    "logit-adjusted",
    Defense(
        "logit-adjusted",
        "networks learn of long-tailed records with adjusted logits",
        ADJUSTED,
        logit_adjusted,
        order=15,
    ),
)


def unbiased(recipe: Recipe) -> Recipe:
    """Give teachers the debiasing loss and class-balanced statistics of the uni-level method.

    Raises:
        BadInput: a method without teachers, or with a remedy for their bias already.
    """
    networks = recipe.networks
    if not isinstance(networks, Experts) or networks.lesson is not None:
        why = "teachers have a lesson already" if isinstance(networks, Experts) else "no teachers"
        raise BadInput(
            f"{recipe.name}+unbiased",
            f"'unbiased' changes how teachers are trained, and here are {why}",
            "Use it on sre2l, edc, rded or random+fkd.",
        )
    note = "teachers by a loss that weighs rare classes more and more, and statistics that are means over classes"
    recipe = replace(recipe, networks=replace(networks, recalibrated=True))
    made = taught(recipe, Deferred(), source=UNBIASED, note=f"unbiased: reconstruction; {note}")
    return replace(made, status="reconstruction")


DEFENSES.add(
    "unbiased",
    Defense(
        "unbiased",
        "teachers debiased as uni-level's are: rare classes weigh more, balanced statistics",
        UNBIASED,
        unbiased,
        order=16,
    ),
)
DEFENSES.add(
    "adsa",
    Defense(
        "adsa",
        "teachers' labels with the records' imbalance taken off, by a search",
        ADSA,
        adsa,
        # After those that bring in teachers.
        order=31,
    ),
)
