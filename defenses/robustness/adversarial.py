"""``+adversarial``: adversarial training where records are learned, or attacked records where their loss is matched."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.robustness.attacked import AttackedRecords
from ddaudit.defenses.robustness.taught import teach_robustly
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.kip import KernelInducing
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.recipe import Status
from ddaudit.distillation.unrolled import Unrolled
from ddaudit.errors import BadInput
from ddaudit.training import Ascent

MAT = (
    "MAT: Lai et al., Robust Dataset Distillation by Matching Adversarial Trajectories, arXiv 2503.12069 "
    "(no public code)"
)
PGD = "adversarial training: Madry et al., ICLR 2018"


def adversarial(recipe: Recipe) -> Recipe:
    """Teach the networks that learn records adversarially (PGD-AT; TRADES: ``networks.robust.trades=6``), with averaged
    weights on the paths of experts; where the records' own loss is asked for, attack them first.

    Raises:
        BadInput: neither is there, or the reader is private.
    """
    attack = Ascent()
    if recipe.reader is not None and recipe.reader.private:
        raise BadInput(
            f"{recipe.name}+adversarial",
            "attacks records before they are read or learned, which no private reader does",
            "Use it on a method without privacy.",
        )
    taught = teach_robustly(recipe, attack=attack)
    # Networks that learn the synthetic set know enough to be attacked on.
    loss = isinstance(recipe.loop, KernelInducing | Unrolled) or (
        isinstance(recipe.objective, GradientMatch) and type(recipe.networks) is Fresh
    )
    if taught is not None:
        made, path, notes = taught.recipe, f"{taught.path}.attack", [taught.note]
        small = {f"{path}.steps": 3, f"{path}.size": 4 / 255}
    elif loss and recipe.reader is not None:
        made, notes = replace(recipe, reader=AttackedRecords(recipe.reader, attack)), []
        small = {"reader.attack.steps": 3, "reader.attack.size": 4 / 255}
        # The reader of the method stands inside another.
        own = {k: f"reader.{k}" if k.startswith("reader.") else k for k in recipe.small}
        made = replace(made, small={own[k]: v for k, v in recipe.small.items()})
    else:
        raise BadInput(
            f"{recipe.name}+adversarial",
            "has no networks that learn the records, and asks for no loss of theirs",
            "Use it on mtt, dm, idm, sre2l, dc, dd or kip.",
        )
    source = PGD
    status: Status = "ours"
    if isinstance(made.networks, ExpertPaths):
        made = replace(made, networks=replace(made.networks, ema=0.99))
        source, status = MAT, "reconstruction"
        small["networks.ema"] = 0.9
        notes.append(
            "radius, step and decay of the moving average are ours: the paper's are not at hand"
        )
    return replace(
        made,
        status=status,
        source=f"{source}, on: {recipe.source}",
        small={**made.small, **small},
        deviations=(*made.deviations, *filter(None, notes)),
    )


DEFENSES.add(
    "adversarial",
    Defense(
        "adversarial",
        "records are learned or matched under attack; on mtt and its kin a reconstruction of MAT (no public code)",
        f"{MAT}; {PGD}",
        adversarial,
        # After guard; before lessons, which are for the networks that it may bring in.
        order=13,
    ),
)
