"""``+dp``, NDPDC and PSG: matching methods read through the private gate."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.privacy.paths import on_private_paths
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import DEFENSES, Defense, Recipe, register
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.loops import LearnsRecords
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Reader
from ddaudit.distillation.reading import Around, couples_records
from ddaudit.distillation.recipes.dc import DC
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.targets import Joint, refuse_coupling
from ddaudit.errors import BadInput

NDPDC = "Zheng & Li, Differentially Private Dataset Condensation, NDSS workshop 2024"
PSG = "Chen, Kerkouche & Fritz, Private Set Generation with Discriminative Information, NeurIPS 2022, arXiv 2211.04446"


def dp(recipe: Recipe) -> Recipe:
    """Read through clipped noisy sums; start from noise; normalise by public constants.

    The clip is the one that is published for the objective; where none is, ``reader.clip`` has to be set before
    anything can be distilled. Means of raw signals are then matched, at the method's own step.

    Trajectory methods see records through their experts alone, so theirs are trained by DP-SGD instead.

    Raises:
        BadInput: the method is private already, releases real records and cannot be made private this way, or weighs
            or measures records by other records.
    """
    refused = _refusal(recipe)
    if refused is not None:
        raise BadInput(f"{recipe.name}+dp", *refused)
    if isinstance(recipe.networks, ExpertPaths):
        return on_private_paths(recipe)
    assert recipe.target is not None
    assert recipe.synthesis is not None
    synthesis, target = recipe.synthesis.from_noise(), recipe.target.bounded()
    if recipe.objective is None:
        raise BadInput(
            f"{recipe.name}+dp",
            "has gradients of a scale of its own, for which no clip is known",
            "Use dm+dp, or dp-kip for a kernel method.",
        )
    unreadable = _unreadable(recipe.reader)
    if unreadable is not None:
        raise BadInput(f"{recipe.name}+dp", *unreadable)
    for part in (target, recipe.objective):
        refuse_coupling(part, f"{recipe.name}+dp")
    states = getattr(recipe.objective, "private_defaults", None)
    known = states() if states else None
    reader = (
        PoissonGaussian(clip=known.clip, scale=known.scale)
        if known
        else PoissonGaussian(clip=None, scale="mean")
    )
    # Sums of clipped embeddings have another scale than means of raw ones; the cosine of gradients has none.
    loop = replace(recipe.loop, lr=known.lr) if known and known.lr else recipe.loop
    networks, terms, notes = recipe.networks, recipe.terms, recipe.deviations
    if known and known.fresh and isinstance(networks, Experts):
        if networks.lesson or networks.robust or networks.recalibrated:
            raise BadInput(
                f"{recipe.name}+dp",
                "has random networks in the place of those that a defense before it trains on the records",
                "Leave that defense out, or the privacy.",
            )
        networks = Fresh(networks.arch, networks.width)
        terms = tuple(t for t in terms if getattr(t, "on", "net") != "teacher")
        notes += (
            "random networks stand for those trained on the records, and terms on trained ones are left out",
        )
    if target != recipe.target and not getattr(recipe.objective, "squared", False):
        notes += (
            f"{type(target).__name__} stands for {type(recipe.target).__name__} under noise; "
            "the two have one optimum for squared distances only, not for this method's",
        )
    return replace(
        recipe,
        reader=reader,
        loop=loop,
        deviations=notes,
        target=target,
        synthesis=synthesis,
        networks=networks,
        terms=terms,
        normalise="public",
        status="ours",
        source=f"{NDPDC}, applied to: {recipe.source}",
    )


def _refusal(recipe: Recipe) -> tuple[str, str] | None:
    """Why noise cannot make a recipe private, and what to do instead; None where it can."""
    reader = recipe.reader
    if reader is not None and reader.private:
        return (
            f"'{recipe.name}' is private already",
            f"Use {recipe.name} with --epsilon and --delta.",
        )
    if recipe.records is not None:
        return (
            "trains networks on private records outside the ledger to tell right labels from wrong ones",
            "Leave 'cleaned' and 'rdc' out, or the privacy.",
        )
    if isinstance(recipe.networks, ExpertPaths):
        return None
    if recipe.target is None and isinstance(recipe.networks, LearnsRecords):
        return (
            "sees the records through networks trained on them alone, and no noise on sums covers those",
            "Use dp-teacher (a teacher trained by DP-SGD, and images from it alone), dm+dp, dc+dp, ndpdc or psg.",
        )
    if recipe.family == "own":
        return (
            "reads records by code of its own, and noise goes on sums that a private reader takes",
            "A function that is private by itself needs no '+dp'; else use dm+dp, dc+dp, ndpdc or psg.",
        )
    if isinstance(recipe.loop, Selection):
        return (
            f"'{recipe.name}' releases real records, and noise on sums cannot hide them",
            "Use dm+dp, dc+dp, ndpdc or psg.",
        )
    if recipe.target is None or recipe.synthesis is None:
        return (
            f"'{recipe.name}' compares its images with single records, and noise goes on sums of many",
            "Use dm+dp, dc+dp, ndpdc or psg.",
        )
    return None


def _unreadable(reader: Reader | None) -> tuple[str, str] | None:
    """Why a private reader cannot stand for this one, and what to do instead; None where it can."""
    if couples_records(reader):
        return (
            f"{type(reader).__name__} picks records by other records, and no noise is calibrated for that",
            "Take a method that draws them at random, such as idc or dc.",
        )
    if isinstance(reader, Around):
        return (
            f"{type(reader).__name__} changes records before they are read, and the private reader does not",
            "Leave it or the privacy out.",
        )
    return None


DEFENSES.add(
    "dp",
    Defense(
        "dp",
        "clipped, noisy sums behind a privacy ledger; noise initialisation",
        NDPDC,
        dp,
        order=20,
    ),
)

LESS_NOISE = "noise is the least that PLD and PRV allow (source: RDP's, more at equal epsilon)"
PUBLIC_CONSTANTS = (
    "pixels are normalised by 0.5 / 0.5, without records (source: by the data's mean and deviation)"
)
PLAIN_MNIST = "on MNIST and Fashion-MNIST, evaluation is plain, of 300 epochs (source: crops, scales, rotations; 1000)"

register(
    replace(
        dp(DM),
        name="ndpdc",
        purpose="noisy sums of clipped embeddings of random networks (private)",
        status="faithful",
        source=NDPDC,
        loop=replace(DM.loop, iterations=10_000, lr=1.0),
        small={"loop.iterations": 500, "networks.width": 32},
        deviations=(LESS_NOISE,),
    )
)
register(
    replace(
        dp(DC),
        name="psg",
        purpose="noisy clipped gradients of networks trained on the set (private)",
        status="faithful",
        source=PSG,
        target=Joint(),
        reader=PoissonGaussian(clip=0.1, batch=256, sampling="uniform", scale="mean"),
        loop=replace(DC.loop, iterations=1000, lr=0.1, repeats=10),
        small={
            "loop.iterations": 20,
            "loop.outer": 2,
            "loop.inner": 10,
            "loop.repeats": 10,
            "networks.width": 32,
        },
        deviations=(PUBLIC_CONSTANTS, PLAIN_MNIST, LESS_NOISE),
    )
)
