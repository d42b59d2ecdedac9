"""Calibration before and after temperature scaling, and at matched accuracy: makes docs/results/calibration.md.

    OMP_NUM_THREADS=1 python -m benchmarks.calibration --out runs/calibration [--page docs/results/calibration.md]

Audits methods at their small profile on digits beside full data, random records and herding, with the auditors utility
and calibration; running again computes what is missing. Every sentence with a number on the page is computed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ddaudit
from benchmarks.pages import cell, names, table
from ddaudit.auditing import PRESETS
from ddaudit.findings import Finding

METHODS = ("dm", "idm", "dc", "mtt", "rded", "frepo")
SIZES = (1, 2, 5, 10, 20, 50)
RAW: dict[str, Any] = {"stage": "raw"}
SCALED: dict[str, Any] = {"stage": "temperature"}
WIDTH: dict[str, Any] = {"binning": "equal-width"}

SCALING = (
    "subject", "accuracy", "temperature", "ECE", "scaled", "floor", "smooth ECE", "scaled", "NLL", "scaled",
)  # fmt: skip
BEYOND = (
    "subject", "matched", "matched, scaled", "ECE under shift", "scaled", "AURC", "reliability", "resolution",
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
    run = ddaudit.audit(
        args.methods.split(","),
        "digits",
        auditors=["utility", "calibration"],
        ipc=args.ipc,
        seeds=args.seeds,
        out=args.out,
        settings={"calibration": {"matched": SIZES, "shifted": 400, "bootstrap": 1000}},
        jobs=args.jobs,
    )
    found: dict[str, dict[str, Finding]] = {}
    for finding in run.findings:
        found.setdefault(finding.subject, {})[finding.auditor] = finding
    page = args.page or args.out / "page.md"
    page.write_text(text(found, seeds=args.seeds, ipc=args.ipc))
    print(page)


def text(found: dict[str, dict[str, Finding]], *, seeds: int, ipc: int) -> str:
    """The page, of findings by subject and auditor."""
    rows = {s: row for s, row in found.items() if {"utility", "calibration"} <= set(row)}
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
         "## At matched accuracy, and under shift", table(BEYOND, beyond), matching(rows), ""]
    )  # fmt: skip


def reading(rows: dict[str, dict[str, Finding]]) -> str:
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


def matching(rows: dict[str, dict[str, Finding]]) -> str:
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
