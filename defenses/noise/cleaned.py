"""``+cleaned``, ``+rdc``: methods on records some of whose labels are wrong.

A method alone on such records is the third way, distillation as a denoiser: means over a class forget single wrong
labels (Kciiiman/DD_LNL, arXiv 2411.11924).
"""

from __future__ import annotations

from dataclasses import replace

from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.contrast import GoldenContrast
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.screening import Cleaned
from ddaudit.errors import BadInput

RDC = "RDC, Robust Dataset Condensation using Supervised Contrastive Learning, ICCV 2025"


def _screened(recipe: Recipe, name: str, cleaned: Cleaned) -> Recipe:
    """The recipe on what ``cleaned`` leaves.

    Raises:
        BadInput: a private recipe, or one that is screened already.
    """
    if recipe.reader is not None and recipe.reader.private:
        raise BadInput(
            f"{recipe.name}+{name}",
            "trains networks on private records outside the ledger to tell right labels from wrong ones",
            f"Leave '{name}' or the privacy out.",
        )
    if recipe.records is not None:
        raise BadInput(f"{recipe.name}+{name}", "its records are screened already")
    return replace(
        recipe,
        records=cleaned,
        status="ours",
        source=f"{RDC}, on: {recipe.source}",
        small={**recipe.small, "records.arch": "ConvNetW32"},
        deviations=(
            *recipe.deviations,
            f"{name}: records are judged once, before distillation (source: after every pass of it)",
        ),
    )


def cleaned(recipe: Recipe) -> Recipe:
    """Leave out the records whose labels seem wrong: of a high loss, and not what the networks say themselves.

    Raises:
        BadInput: a private recipe, or one that is screened already.
    """
    return _screened(recipe, "cleaned", Cleaned(agree=True))


def rdc(recipe: Recipe) -> Recipe:
    """Leave them out or relabel them, and contrast synthetic images, alone and mixed with what is left.

    Raises:
        BadInput: a method that matches on no networks, a private one, or one that is screened already.
    """
    if not isinstance(recipe.loop, Matching):
        raise BadInput(
            f"{recipe.name}+rdc",
            "'rdc' adds a contrast to what is matched on networks, and this method matches nothing on any",
            "Use it on idm, dm or dc, or take '+cleaned'.",
        )
    made = _screened(recipe, "rdc", Cleaned(relabel=0.95))
    number = len(recipe.terms)
    return replace(
        made,
        terms=(*recipe.terms, GoldenContrast()),
        # Small networks have few features: distances of their means are small beside a contrast of weight 1.
        small={**made.small, f"terms.{number}.weight": 0.002},
        deviations=(
            *made.deviations,
            "rdc: the records that are left are what is matched, too (source: matched are all records as labelled)",
            "rdc: networks learn by plain cross-entropy (source: mixtures with the records left out, and a prior)",
            "rdc: the contrast has weight 1 on the mean over all images (source: in every class's loss)",
            "rdc: the contrast sees all classes at once, one augmented view, from the first step on (source: class by "
            "class, four views, after five passes)",
        ),
    )


DEFENSES.add(
    "cleaned",
    Defense(
        "cleaned",
        "records whose labels seem wrong are left out (label noise)",
        RDC,
        cleaned,
        order=3,
    ),
)
DEFENSES.add(
    "rdc",
    Defense(
        "rdc",
        "wrong labels are left out or replaced, synthetic images contrasted (label noise)",
        RDC,
        rdc,
        order=4,
    ),
)
