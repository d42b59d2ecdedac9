"""``+fkd``: teachers label stored views of a method's images, as decoupled methods do it.

``random+fkd`` is what their accuracy has to be compared with: random records with the same teacher's labels, trained
on by the same protocol. Equal options of ``networks`` give the same teacher, from the run's store.
"""

from __future__ import annotations

from dataclasses import replace

from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.own import Calls
from ddaudit.distillation.recipes.sre2l import SRE2L
from ddaudit.distillation.selection import Selection
from ddaudit.errors import BadInput

SOURCE = (
    "Shen & Xing, FKD, ECCV 2022, as SRe2L (NeurIPS 2023, arXiv 2306.13092) relabels; as a control: Are Hard Truths "
    "about Soft Labels, arXiv 2604.18811"
)
_PARTS = ("networks.", "labels.", "protocol.")


def fkd(recipe: Recipe) -> Recipe:
    """Give a method SRe2L's teacher, relabelling and evaluation protocol.

    Raises:
        BadInput: a private recipe (the teacher would read private records outside the ledger), or one that has
            labels, networks or a kernel of its own.
    """
    if recipe.reader is not None and recipe.reader.private:
        raise BadInput(
            f"{recipe.name}+fkd",
            "a teacher would read private records outside the ledger to write soft labels, and the privacy "
            "claim would be void",
            "Leave 'fkd' or the privacy out.",
        )
    if recipe.labels is not None:
        raise BadInput(f"{recipe.name}+fkd", "the method has a label model already")
    if not isinstance(recipe.loop, (Selection, Calls)):
        raise BadInput(
            f"{recipe.name}+fkd",
            "has a loop of its own, whose networks or records are not the teacher's",
            "Use '+soft' for one label per image, or 'fkd' on random, herding or k-center.",
        )
    own = {path: value for path, value in SRE2L.small.items() if path.startswith(_PARTS)}
    return replace(
        recipe,
        networks=SRE2L.networks,
        labels=SRE2L.labels,
        protocol=SRE2L.protocol,
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
        small={**recipe.small, **own},
    )


DEFENSES.add(
    "fkd",
    Defense(
        "fkd",
        "a teacher's soft labels on stored views, and training on them (control of decoupled methods)",
        SOURCE,
        fkd,
        # Before what teaches teachers, and before dp, which refuses labels of teachers that read private records.
        order=5,
    ),
)
