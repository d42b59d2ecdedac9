"""What a reader must know before believing a membership reading."""

from __future__ import annotations

from ddaudit.attacks.membership.attacks import OWN_SPREAD
from ddaudit.attacks.membership.settings import MembershipSettings
from ddaudit.attacks.membership.shadows import Trial
from ddaudit.auditing import Context, Subject
from ddaudit.findings import Caveat

_LOW = (
    "A low reading is not privacy by itself. It says that this attack, with these few runs, found little in "
    "ordinary records; another attack may find more, and a record unlike the others may be exposed although "
    "the average is not. A random subset leaks nothing about the records it leaves out and everything about "
    "those it holds. "
)
NO_FREE_LUNCH = Caveat(
    f"{_LOW}Compare with the controls and with the 'random' and 'full' rows at equal accuracy, and "
    "see the privacy auditor for planted worst-case records.",
    rank=1,
)
OF_A_FILE = Caveat(
    f"{_LOW}Compare with the control of random records where there is one, at equal accuracy.",
    rank=1,
)
AVERAGE = Caveat(
    "Rates are averages over natural records; outliers and mislabelled records can be far more "
    "exposed.",
    rank=3,
)


def recipe_caveats(trial: Trial, settings: MembershipSettings, *, claimed: bool) -> list[str]:
    """Of a reading from shadows; ``claimed``: the subject carries a privacy claim."""
    count, records = trial.members.shape
    spread = "one spread for all records" if count < OWN_SPREAD else "a spread for each record"
    inside = int(trial.members.sum())
    caveats = [
        *trial.cohort.caveats,
        Caveat(
            f"Measured on {count} re-distillations of random halves of {records} training records, "
            f"about {inside // count} a run: one record weighs more in them than in a set made from "
            "all of the data.",
            "setup",
        ),
        f"TPR and ROC pool {inside} member and {count * records - inside} non-member pairs (run, "
        "record) under one threshold. Pairs share records and references, and runs need not leak "
        "alike, so the interval adds a bootstrap over records to the spread between runs, and n "
        "counts distinct records. AUC is the mean over runs.",
        f"Online LiRA ({spread}) was declared the verdict before looking; {count - 1} references and "
        f"{settings.victims_per_shadow} victim(s) per run limit its power, so leakage may be "
        "larger.",
        AVERAGE,
        NO_FREE_LUNCH,
    ]
    if settings.control_runs:
        caveats.append(
            f"The DP-SGD control takes {settings.control_steps} steps with the same rate, clip and step size on all "
            "data; tuned to them it could be more accurate. Subject and control are compared over the same runs, "
            "and one is called better only where 95 % intervals do not overlap."
        )
    if claimed:
        caveats.append(
            "Shadows carry their own privacy claim, calibrated to their own number of records."
        )
    return caveats


def file_caveats(subject: Subject, ctx: Context, headline: str) -> list[str]:
    """Of a reading without a recipe; ``headline`` is the attack that carries the verdict."""
    caveats = [
        "Members are training records, non-members held-out ones, drawn with the same "
        "class and group composition: any other distribution shift between the splits would look "
        "like membership.",
        "LiRA and online RMIA, the strongest attacks, need re-distillation, hence the recipe; this "
        "reading is a lower bound on what an attacker with the recipe can do.",
        f"The {headline} attack was declared the verdict before looking; the others are shown, "
        "not selected.",
        AVERAGE,
        OF_A_FILE,
    ]
    if subject.set is not None:
        source = subject.set.card.source_fingerprint
        if source is None:
            caveats.append(
                "The set's card does not say which data it was made from; members are assumed to "
                "be ours."
            )
        elif source != ctx.data.train.fingerprint:
            caveats.append(
                f"The set says it was made from other data (fingerprint {source}, ours is "
                f"{ctx.data.train.fingerprint}): our training records need not be its members, "
                "and readings near 0.5 then mean nothing."
            )
    else:
        caveats.append("A checkpoint comes without images: only the network's loss was attacked.")
    return caveats
