"""Calibration before and after repairs, and at matched accuracy: makes docs/results/calibration.md.

    OMP_NUM_THREADS=1 python -m benchmarks.calibration --out runs/calibration [--page docs/results/calibration.md]

Audits methods at their small profile on digits beside full data, random records and herding, with the auditors utility
and calibration, and then methods with what is done against over-confidence before the networks are there, all trained
as their cards say. Running again computes what is missing. Every sentence with a number on the page is computed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ddaudit
from benchmarks.pages import apart, cell, names, table
from ddaudit.auditing import PRESETS
from ddaudit.findings import Finding

METHODS = ("dm", "idm", "dc", "mtt", "rded", "frepo")
WAYS = {
    "random": ("label-smoothing", "mixup"),  # masked records would be no records
    "dm": ("label-smoothing", "mixup", "masked"),
}
"""Method -> what is done while its sets are made, or networks trained."""
TRAINED = [name for m, ways in WAYS.items() for name in (m, *(f"{m}+{w}" for w in ways))]
SIZES = (1, 2, 5, 10, 20, 50)
Rows = dict[str, dict[str, Finding]]
"""Findings by subject and auditor."""
RAW: dict[str, Any] = {"stage": "raw"}
SCALED: dict[str, Any] = {"stage": "temperature"}
WIDTH: dict[str, Any] = {"binning": "equal-width"}
REPAIRS = ("vector", "masked", "ensemble")
STAGES = ("raw", "temperature", *REPAIRS)

SCALING = (
    "subject", "accuracy", "temperature", "ECE", "scaled", "floor", "smooth ECE", "scaled", "NLL", "scaled",
)  # fmt: skip
BEYOND = (
    "subject", "matched", "matched, scaled", "ECE under shift", "scaled", "AURC", "reliability", "resolution",
)  # fmt: skip

REPAIRED = ("subject", *(f"{number}, {stage}" for number in ("ECE", "NLL") for stage in STAGES))
TAUGHT = (
    "subject", "accuracy", "ECE", "scaled", "over-confidence", "matched", "NLL", "scaled",
)  # fmt: skip

HEAD = """# Calibration of distilled sets on digits

```
OMP_NUM_THREADS=1 python -m benchmarks.calibration --out runs/calibration --page docs/results/calibration.md
```

Made by the command above. Small profiles, IPC {ipc}, {seeds} distillations of each method, {victims} networks a set
(quick protocol), 400 test images, temperatures fitted on 200 validation images. Brackets are 95 % intervals over test
images, networks and distillations. "Matched" is the ECE less that of networks trained on random real records ({sizes} a
class) that are as accurate, by interpolation; a dash: no such records are as accurate. 8x8 digits are a demonstration:
these are facts about small sets of them, not about the methods at their published size.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--page", type=Path, help="default: page.md in --out")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()

    def audited(methods: list[str], out: Path, **how: Any) -> Rows:
        run = ddaudit.audit(
            methods,
            "digits",
            auditors=["utility", "calibration"],
            ipc=args.ipc,
            seeds=args.seeds,
            out=out,
            settings={
                "calibration": {
                    "matched": SIZES,
                    "shifted": 400,
                    "bootstrap": 1000,
                    "repairs": REPAIRS,
                }
            },
            jobs=args.jobs,
            **how,
        )
        found: Rows = {}
        for finding in run.findings:
            found.setdefault(finding.subject, {})[finding.auditor] = finding
        return {s: row for s, row in found.items() if {"utility", "calibration"} <= set(row)}

    rows = audited(args.methods.split(","), args.out)
    trained = audited(
        TRAINED, args.out / "trained", preset="standard", protocol="card", baselines=[]
    )
    page = args.page or args.out / "page.md"
    page.write_text(text(rows, trained, seeds=args.seeds, ipc=args.ipc))
    print(page)


def text(rows: Rows, trained: Rows, *, seeds: int, ipc: int) -> str:
    """The page, of findings by subject and auditor."""
    victims = PRESETS["quick"].victims
    head = HEAD.format(ipc=ipc, seeds=seeds, victims=victims, sizes=", ".join(map(str, SIZES)))
    both = (RAW, SCALED)
    scaling: list[list[str]] = []
    beyond: list[list[str]] = []
    for s, row in rows.items():
        c = row["calibration"]
        floor = c.metric("calibration.ece", **WIDTH, **SCALED).floor or 0.0
        scaling.append(
            [
                s,
                cell(row["utility"], "utility.accuracy"),
                cell(c, "calibration.temperature", plain=True),
                *(cell(c, "calibration.ece", **WIDTH, **k) for k in both),
                f"{floor:.3f}",
                *(cell(c, "calibration.smooth_ece", plain=True, **k) for k in both),
                *(cell(c, "calibration.nll", plain=True, **k) for k in both),
            ]
        )
        parts = ("aurc", "brier_reliability", "brier_resolution")
        beyond.append(
            [
                s,
                *(cell(c, "calibration.matched_ece", **k) for k in both),
                *(cell(c, "calibration.shifted_ece", plain=True, **k) for k in both),
                *(cell(c, f"calibration.{name}", plain=True, **RAW) for name in parts),
            ]
        )
    return "\n".join(
        [head, "## Before and after temperature scaling", table(SCALING, scaling), reading(rows), "",
         "## At matched accuracy, and under shift", table(BEYOND, beyond), matching(rows), "",
         "## Other repairs of trained networks", table(REPAIRED, repaired(rows)), repairing(rows), "",
         "## While sets are made and networks trained", table(TAUGHT, taught(trained)), teaching(trained), ""]
    )  # fmt: skip


def repaired(rows: Rows) -> list[list[str]]:
    """ECE and NLL of every subject after every repair."""
    return [
        [
            s,
            *(
                cell(row["calibration"], name, plain=True, stage=stage, **binned)
                for name, binned in (("calibration.ece", WIDTH), ("calibration.nll", {}))
                for stage in STAGES
            ),
        ]
        for s, row in rows.items()
    ]


def repairing(rows: Rows) -> str:
    """What each repair does to the NLL."""
    said = []
    for stage in STAGES[1:]:
        better = [s for s, row in rows.items() if _nll(row, stage) < _nll(row, RAW["stage"])]
        said.append(f"{stage} {len(better)}")
    return (
        "\n*Vector*: a scale and an offset a class; *masked*: MTS, temperatures fitted on masked logits; *ensemble*: "
        "the average of a set's networks, without any fitting. All but the last are fitted on the 200 validation "
        f"images. Of {len(rows)} subjects the NLL is lower than the raw one for: {', '.join(said)}."
    )


def _nll(row: dict[str, Finding], stage: str) -> float:
    value = row["calibration"].metric("calibration.nll", stage=stage).value
    return float("nan") if value is None else value


def taught(rows: Rows) -> list[list[str]]:
    """Methods with what is done against over-confidence beforehand."""
    out = []
    for s, row in rows.items():
        c = row["calibration"]
        out.append(
            [
                s,
                cell(row["utility"], "utility.accuracy"),
                *(cell(c, "calibration.ece", **WIDTH, **k) for k in (RAW, SCALED)),
                cell(c, "calibration.overconfidence", **RAW),
                cell(c, "calibration.matched_ece", **RAW),
                *(cell(c, "calibration.nll", plain=True, **k) for k in (RAW, SCALED)),
            ]
        )
    return out


def teaching(rows: Rows) -> str:
    """By how much each of them changes the error."""
    said = []
    for base, ways in WAYS.items():
        for way in ways:
            name = f"{base}+{way}"
            if base in rows and name in rows:
                one, other = (
                    rows[n]["calibration"].metric("calibration.ece", **WIDTH, **RAW) for n in (name, base)
                )  # fmt: skip
                said.append(f"`{name}` {apart(one, other)}")
    return (
        "\nProtocol `dc` for all (mixup: with alpha 0.2), networks trained as cards say. Change of the ECE before "
        f"scaling, against the method without it: {'; '.join(said)}."
    )


def reading(rows: Rows) -> str:
    """What scaling leaves, beside its floor."""
    found = {s: row["calibration"] for s, row in rows.items()}
    over = {s: c.metric("calibration.overconfidence", **RAW) for s, c in found.items()}
    raw, scaled = (
        {s: c.metric("calibration.ece", **WIDTH, **k) for s, c in found.items()}
        for k in (RAW, SCALED)
    )
    lower = [s for s in found if (scaled[s].value or 0) < (raw[s].value or 0)]
    left = [s for s, m in scaled.items() if (m.low or 0) > (m.floor or 0)]
    above = [s for s, m in over.items() if (m.low or 0) > 0]
    below = [s for s, m in over.items() if (m.high or 0) < 0]
    return (
        f"\nOver-confident before scaling, by more than the interval: {names(above)}; under-confident: "
        f"{names(below)}. Scaling lowers the ECE of {len(lower)} of {len(found)} subjects. After it the whole "
        f"interval of the ECE lies above its noise floor for: {names(left)}."
    )


def matching(rows: Rows) -> str:
    """Whether accuracy explains the error."""
    said: dict[str, list[str]] = {"above": [], "below": [], "unclear": [], "none": []}
    for s, row in rows.items():
        try:
            m = row["calibration"].metric("calibration.matched_ece", **RAW)
        except KeyError:
            said["none"].append(s)
            continue
        low, high = m.low or 0.0, m.high or 0.0
        said["above" if low > 0 else "below" if high < 0 else "unclear"].append(s)
    return (
        "\nIs the miscalibration of distilled sets explained by their accuracy? At equal accuracy the ECE is above "
        f"that of random real records, by more than the interval, for: {names(said['above'])}; below it for: "
        f"{names(said['below'])}; not told apart: {names(said['unclear'])}; no records as accurate: "
        f"{names(said['none'])}."
    )


if __name__ == "__main__":
    main()
