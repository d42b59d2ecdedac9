"""How much label noise survives distillation on digits: makes docs/results/noise.md and noise.json.

    OMP_NUM_THREADS=1 python -m benchmarks.noise --runs runs/noise [--seconds N] [--page-only]

Audits methods at their small profile with the auditors utility and noise, at symmetric and asymmetric rates of 20 and
40 %; then once more at 20 % with other rates, for the share of wrong labels from which a set beats full training. A run
that was stopped goes on where it was. The page is written from whatever is there, and names what is not; its numbers
stand in a .json beside it, and a row stays where no folder has it any more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import ddaudit
from benchmarks.pages import (
    absent,
    apart,
    cell,
    floor,
    kept,
    names,
    read_state,
    table,
    title,
    write_state,
)
from ddaudit.auditing import PRESETS
from ddaudit.errors import BadInput
from ddaudit.findings import Finding, Metric

IPC, SEEDS = 10, 3
KINDS, RATES = ("symmetric", "asymmetric"), (0.2, 0.4)
CROSSING = {"symmetric": (0.0, 0.4, 0.6), "asymmetric": (0.0, 0.2, 0.4)}
"""Shares of wrong labels; asymmetric noise moves half the classes, so that no more than half can be wrong."""
METHODS = {
    "full": "all records, trained to the end",
    "random": "random records",
    "random+cleaned": "random records of those that seem right",
    "dm": "DM: distilling as the denoiser",
    "dm+cleaned": "DM after cleaning",
    "dm+rdc": "DM + RDC",
    "idm": "IDM: distilling as the denoiser",
    "idm+rdc": "IDM + RDC",
    "mtt": "MTT",
    "mct": "MCT",
}

ADDED = {
    "dm+cleaned": "dm", "dm+rdc": "dm", "idm+rdc": "idm", "random+cleaned": "random",
}  # fmt: skip
"""What telling wrong labels from right ones is held against: the same method without."""

HEAD = """# Wrong labels, distilled

```
OMP_NUM_THREADS=1 python -m benchmarks.noise --runs runs/noise
```

Made by the command above. Digits (8x8), small profiles, IPC {ipc}, up to {seeds} distillations of each method with
{victims} networks each, quick protocol; labels of training and validation records are wrong, test labels right. "Gain"
is accuracy less that of networks trained on all the noisy records and stopped where noisy validation accuracy was best.
"Memorised" is the share of wrongly labelled training records that are given their wrong label; its floor is how often
rightly labelled records of the same classes are given it. "Corrected" are given their true label. Brackets are 95 %
intervals over test images, networks and distillations. Asymmetric noise moves five of the ten classes to a look-alike
({{2: 7, 3: 8, 5: 6, 6: 5, 7: 1}}), so that the share of wrong labels is about half the rate.
`cleaned` also keeps a record whose label is what networks say; `rdc` goes by losses alone, as its source does, which
throws most right records of those five classes away (`--set records.agree=true` keeps them).

Published on CIFAR-10, IPC 10, for scale (RDC, ICCV 2025; accuracy in percent at symmetric 20 / 40, asymmetric 20 / 40):
random 17.1 / 18.4, 19.6 / 19.5; IDM 43.0 / 41.2, 39.6 / 30.6; cleaned, then IDM 45.7 / 46.5, 45.6 / 33.3; IDM + RDC
47.1 / 46.2, 46.9 / 41.4; all records 84.0 / 64.8, 81.4 / 58.8.
"""
COLUMNS = (
    "method",
    "distillations",
    "accuracy",
    "gain on early stopping",
    "memorised",
    "floor",
    "corrected",
)
Found = Mapping[str, Mapping[str, Finding]]


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of run folders")
    parser.add_argument("--page", type=Path, default=Path("docs/results/noise.md"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--page-only", action="store_true")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    plain = [(s, kind, rate, ()) for s in range(1, SEEDS + 1) for kind in KINDS for rate in RATES]
    further = [(s, kind, RATES[0], CROSSING[kind]) for s in range(1, SEEDS + 1) for kind in KINDS]
    for seeds, kind, rate, rates in [] if args.page_only else [*plain, *further]:
        if time.monotonic() > until:
            break
        # One audit for all methods, which share full training.
        ddaudit.audit(
            list(METHODS),
            f"digits-noisy:rate={rate},kind={kind}",
            auditors=["utility", "noise"],
            baselines=[],
            ipc=IPC,
            seeds=seeds,
            settings={"noise": {"rates": rates}},
            out=folder(args.runs, kind, rate, crossing=bool(rates)),
            jobs=1,
        )
        print(seeds, kind, rate, rates, flush=True)
    file = args.page.with_suffix(".json")
    saved = read_state(file)
    for kind in KINDS:
        for rate, beyond in [*((r, False) for r in RATES), (RATES[0], True)]:
            found = findings(folder(args.runs, kind, rate, crossing=beyond))
            name = part(kind, rate, crossing=beyond)
            before = saved.get(name, {})
            saved[name] = {
                **before, **numbers(found), "added": {**before.get("added", {}), **added(found)}
            }  # fmt: skip
    args.page.write_text(text(saved))
    write_state(file, saved)


def folder(runs: Path, kind: str, rate: float, *, crossing: bool = False) -> Path:
    return runs / f"{kind}-{round(100 * rate)}{'-crossing' * crossing}"


def part(kind: str, rate: float, *, crossing: bool = False) -> str:
    """What the .json calls a table."""
    return f"{kind} {rate}{' crossing' * crossing}"


def findings(run: Path) -> Found:
    """Findings by method and auditor, of methods that have both."""
    try:
        report = ddaudit.Run(str(run)).read()
    except BadInput:  # nothing there yet
        return {}
    by: dict[str, dict[str, Finding]] = {}
    for f in report.findings:
        if f.metrics:  # else it has not run yet
            by.setdefault(f.subject, {})[f.auditor] = f
    return {m: by[m] for m in METHODS if {"utility", "noise"} <= set(by.get(m, ()))}


def restored(saved: Mapping[str, Any]) -> Found:
    """Findings with the numbers that the .json has kept of a table."""
    made = {}
    for method in (m for m in METHODS if m in saved):
        by = {
            auditor: Finding(
                subject=method, auditor=auditor,
                metrics=[Metric(name=n, **v) for n, v in saved[method].items() if n.startswith(f"{auditor}.")],
            )
            for auditor in ("utility", "noise")
        }  # fmt: skip
        by["noise"].caveats += saved[method].get("caveats", [])
        made[method] = by
    return made


def text(saved: Mapping[str, Any]) -> str:
    """The page."""
    victims = PRESETS["quick"].victims
    lines = [HEAD.format(ipc=IPC, seeds=SEEDS, victims=victims)]
    for kind in KINDS:
        for rate in RATES:
            found = restored(saved.get(part(kind, rate), {}))
            lines += [f"## {kind.capitalize()} noise, {rate:.0%}", ""]
            if found:
                noise = next(iter(found.values()))["noise"]
                lines += [
                    f"Share of training labels that are wrong: {noise.metric('noise.rate').value:.3f}. All records, "
                    f"stopped early: accuracy {cell(noise, 'noise.full_accuracy')}.", "",
                    table(COLUMNS, [row(m, by) for m, by in found.items()]), "", reading(found), "",
                    *cleaning(saved[part(kind, rate)].get("added", {})),
                ]  # fmt: skip
            lines += absent(METHODS, found)
    lines += ["## From which share of wrong labels a set beats full training stopped early", ""]
    for kind in KINDS:
        found = restored(saved.get(part(kind, RATES[0], crossing=True), {}))
        lines += [f"{kind.capitalize()} noise; shares tried: {tried(kind, found)}.", ""]
        if found:
            body = [
                [title(METHODS, m), str(by["utility"].metric("utility.accuracy").draws), crossing(by["noise"])]
                for m, by in found.items()
            ]  # fmt: skip
            lines += [table(("method", "distillations", "crossing"), body), ""]
        lines += absent(METHODS, found)
    return "\n".join(lines)


def reading(found: Found) -> str:
    """Which methods are ahead of full training stopped early, and which repeat single mistakes."""
    gains = {m: by["noise"].metric("noise.gain") for m, by in found.items()}
    ahead = [m for m, g in gains.items() if (g.low or 0) > 0]
    behind = [m for m, g in gains.items() if (g.high or 0) < 0]
    repeated = {m: by["noise"].metric("noise.memorised") for m, by in found.items()}
    above = [m for m, r in repeated.items() if (r.low or 0) > (r.floor or 0)]
    return (
        f"Ahead of full training stopped early, by more than the interval: {names(ahead)}; behind it: {names(behind)}; "
        f"the others are not told apart. Single mistakes are remembered (above the floor) by: {names(above)}."
    )


def added(found: Found) -> dict[str, list[str]]:
    """What cleaning adds to each method: accuracy, memorised."""
    return {
        m: [
            apart(found[m][auditor].metric(name), found[base][auditor].metric(name))
            for auditor, name in (("utility", "utility.accuracy"), ("noise", "noise.memorised"))
        ]
        for m, base in ADDED.items()
        if m in found and base in found
    }


def cleaning(gains: Mapping[str, Sequence[str]]) -> list[str]:
    """The table of :func:`added`."""
    if not gains:
        return []
    body = [[f"`{m}` - `{ADDED[m]}`", *gains[m]] for m in ADDED if m in gains]
    head = ("what cleaning adds", "accuracy", "memorised")
    return [
        "Taken as independent, so that the intervals are on the wide side:", "", table(head, body), "",
    ]  # fmt: skip


def tried(kind: str, found: Found) -> str:
    """The shares of wrong labels: those asked for, and that of the data."""
    own = {by["noise"].metric("noise.rate").value or 0.0 for by in found.values()}
    return ", ".join(f"{r:.0%}" for r in sorted({*CROSSING[kind], *own}))


def row(method: str, by: Mapping[str, Finding]) -> list[str]:
    accuracy, noise = by["utility"].metric("utility.accuracy"), by["noise"]
    return [
        title(METHODS, method), str(accuracy.draws), cell(by["utility"], "utility.accuracy"), cell(noise, "noise.gain"),
        cell(noise, "noise.memorised"), floor(noise.metric("noise.memorised")), cell(noise, "noise.corrected"),
    ]  # fmt: skip


def crossing(noise: Finding) -> str:
    """The share with its interval, or the auditor's sentences on why there is none."""
    known = cell(noise, "noise.crossing")
    return " ".join(noise.caveats) if known == "-" and noise.caveats else known


def numbers(found: Found) -> dict[str, object]:
    """method -> metric -> what is kept of a number; "caveats": why there is no crossing."""
    made: dict[str, object] = {}
    for method, by in found.items():
        of: dict[str, object] = {
            v.name: kept(v)
            for f in (by["utility"], by["noise"])
            for v in f.metrics
            if v.name == "utility.accuracy" or v.name.startswith("noise.")
        }
        if why := [str(c) for c in by["noise"].caveats if "No crossing" in c]:
            of["caveats"] = [*why, by["noise"].reason] if by["noise"].reason else why
        made[method] = of
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
