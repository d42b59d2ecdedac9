"""Detectors over the sets of benchmarks.backdoor: what each reads of poisoned sets, beside clean sets of the method.

    python -m benchmarks.backdoor --out runs/backdoor --data-root DIR --scan 20

One network a set, the detectors of ``backdoor-scan`` at its quick settings. AUC: how often a poisoned set stands out
more than a clean one, each compared with the others of one bag (the statistic of ``backdoor-scan``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ddaudit.attacks.backdoor_scan.auditor import DETECTORS, BackdoorScan, exhibit
from ddaudit.attacks.backdoor_scan.calibration import calibrate
from ddaudit.attacks.backdoor_scan.scanning import read, usable
from ddaudit.auditing import Context
from ddaudit.models import Network
from ddaudit.sets import DistilledSet

Reading = dict[str, dict[str, Any]]


def scan(ctx: Context, made: DistilledSet, network: Network) -> Reading:
    """Scores by class and what the published rule flags, by detector; detectors that cannot be asked are left out."""
    settings = BackdoorScan().configure("quick")
    seen = exhibit(made, ctx, settings)
    asked, _ = usable(settings.chosen(), network, seen)
    found = read(asked, [network], seen)
    return {n: {"scores": r.scores.tolist(), "flagged": r.flagged} for n, r in found.items()}


def table(clean: Sequence[Reading], poisoned: dict[str, list[Reading]]) -> list[str]:
    """Markdown rows: AUC by attack, and how much of clean sets the published rule flags."""
    if len(clean) < 5 or not any(poisoned.values()):
        return []
    names = [d.name for d in DETECTORS if all(d.name in r for r in clean)]
    base = [{n: torch.tensor(r[n]["scores"]) for n in names} for r in clean]
    attacks = [a for a, readings in poisoned.items() if readings]
    lines = [
        f"AUC of detectors against {len(clean)} clean sets, and their false alarms at the published threshold:", "",
        "| detector | " + " | ".join(attacks) + " | false alarms |", "|---|" + "---|" * (len(attacks) + 1),
    ]  # fmt: skip
    for detector in (d for d in DETECTORS if d.name in names):
        cells = []
        for attack in attacks:
            below = []
            for reading in poisoned[attack]:
                suspect = {n: torch.tensor(reading[n]["scores"]) for n in names}
                p = calibrate(suspect, base).verdicts[detector.name].p_value
                below.append(1 - (p * (1 + len(base)) - 1) / len(base))
            cells.append(f"{sum(below) / len(below):.2f}")
        flagged = [r[detector.name]["flagged"] for r in clean]
        alarms = "" if None in flagged else f"{100 * sum(flagged) / len(flagged):.0f} %"
        lines.append(f"| {detector.title} | " + " | ".join(cells) + f" | {alarms} |")
    return [*lines, ""]
