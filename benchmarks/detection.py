"""How well the detectors of ``backdoor-scan`` tell poisoned sets from clean ones: AUC, detections, false alarms.

    python -m benchmarks.detection --clean FILE... --poisoned FILE... --data digits --readings DIR

All are set files of one method and size; ``benchmarks.backdoor`` and ``ddaudit poison`` make poisoned ones. Each is
read once (one network trained on it, every detector asked at its quick settings) and its readings are kept, so that a
stopped run goes on where it was. A poisoned set is held against all clean sets, a clean one against all others, as an
audit would do it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddaudit.attacks.backdoor_scan.auditor import DETECTORS, BackdoorScan, exhibit
from ddaudit.attacks.backdoor_scan.calibration import Calibrated, calibrate
from ddaudit.attacks.backdoor_scan.scanning import read, usable
from ddaudit.auditing import PRESETS, Context
from ddaudit.data import load_data
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch, Network
from ddaudit.sets import DistilledSet, load
from ddaudit.stats import Interval, auc, clopper_pearson

LEVEL = 0.05
SCAN = "the scan"

Reading = dict[str, dict[str, Any]]
"""By detector: its scores by class, and what its published rule flags."""


@dataclass(frozen=True)
class Row:
    """One detector on one group of poisoned sets.

    Attributes:
        auc: of its largest excess, poisoned sets against clean ones.
        detected: share of poisoned sets with a p-value of at most 5 %.
        named: share of poisoned sets whose worst class is the attacker's target.
        flagged: what the published rule flags of them; None: there is none.
        false_alarms: the same of clean sets.
    """

    detector: str
    auc: Interval
    detected: Interval
    named: Interval
    flagged: float | None
    false_alarms: float | None


def scan(ctx: Context, made: DistilledSet, network: Network) -> Reading:
    """What every detector that can be asked reads of a set and a network trained on it."""
    settings = BackdoorScan().configure("quick")
    seen = exhibit(made, ctx, settings)
    asked, _ = usable(settings.chosen(), network, seen)
    found = read(asked, [network], seen)
    return {n: {"scores": r.scores.tolist(), "flagged": r.flagged} for n, r in found.items()}


def evaluate(
    poisoned: Sequence[Reading], targets: Sequence[int], clean: Sequence[Reading]
) -> list[Row]:
    """A row for each detector that read every set, and one for the scan.

    Args:
        poisoned: readings of poisoned sets; ``targets`` the class that each one's trigger leads to.
        clean: readings of at least three clean sets.
    """
    asked = [d for d in DETECTORS if all(d.name in r for r in (*poisoned, *clean))]

    def scores(reading: Reading) -> dict[str, torch.Tensor]:
        return {d.name: torch.tensor(reading[d.name]["scores"]).double() for d in asked}

    quiet = [scores(r) for r in clean]
    bad = [calibrate(scores(r), quiet) for r in poisoned]
    good = [calibrate(r, [*quiet[:i], *quiet[i + 1 :]]) for i, r in enumerate(quiet)]
    rows = []
    for d in asked:
        found, usual = ([_of_detector(c, d.name) for c in cs] for cs in (bad, good))
        shares = [_mean([r[d.name]["flagged"] for r in rs]) for rs in (poisoned, clean)]
        rows.append(_row(d.title, found, targets, usual, shares[0], shares[1]))
    found, usual = ([_of_scan(c) for c in cs] for cs in (bad, good))
    return [*rows, _row(SCAN, found, targets, usual, None, None)]


def table(groups: Mapping[str, Sequence[Row]], clean: int) -> list[str]:
    """Markdown: what each detector makes of each group of poisoned sets, beside so many clean ones."""
    lines = [
        f"| attack | detector | AUC | p <= {LEVEL} | right class | threshold flags | of {clean} clean sets |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, rows in groups.items():
        for r in rows:
            cells = [group, r.detector, _text(r.auc), _text(r.detected), _text(r.named)]
            cells += ["" if v is None else f"{v:.2f}" for v in (r.flagged, r.false_alarms)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


Standing = tuple[float, float, int]
"""Largest excess, p-value, and the class that looks worst."""


def _of_detector(calibrated: Calibrated, name: str) -> Standing:
    verdict = calibrated.verdicts[name]
    return float(verdict.excess.max()), verdict.p_value, verdict.suspect


def _of_scan(calibrated: Calibrated) -> Standing:
    worst = max(calibrated.verdicts.values(), key=lambda v: float(v.excess.max()))
    return float(worst.excess.max()), calibrated.p_value, worst.suspect


def _row(
    detector: str,
    bad: Sequence[Standing],
    targets: Sequence[int],
    good: Sequence[Standing],
    flagged: float | None,
    false_alarms: float | None,
) -> Row:
    excess = torch.tensor([b[0] for b in (*bad, *good)])
    detected = sum(b[1] <= LEVEL for b in bad)
    named = sum(b[2] == t for b, t in zip(bad, targets, strict=True))
    return Row(
        detector,
        auc(excess, torch.arange(len(excess)) < len(bad)),
        clopper_pearson(detected, len(bad)),
        clopper_pearson(named, len(bad)),
        flagged,
        false_alarms,
    )


def _mean(flagged: Sequence[float | None]) -> float | None:
    known = [f for f in flagged if f is not None]
    return sum(known) / len(known) if known else None


def _text(value: Interval) -> str:
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def main() -> None:
    """Read all sets and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clean", type=Path, nargs="+", required=True)
    parser.add_argument("--poisoned", type=Path, nargs="+", required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--readings", type=Path, required=True, help="folder that keeps them")
    options = parser.parse_args()
    data = load_data(options.data, root=options.data_root)
    arch = fit(Arch("convnet", width=32), data.shape)
    ctx = Context(data=data, preset=PRESETS["quick"], arch=arch)
    clean = [_kept(f, ctx, options.readings) for f in sorted(options.clean)]
    groups: dict[str, list[tuple[Reading, int]]] = {}
    for file in sorted(options.poisoned):
        group, target = _group(load(file), file)
        groups.setdefault(group, []).append((_kept(file, ctx, options.readings), target))
    rows = {
        f"{group} ({len(own)})": evaluate([r for r, _ in own], [t for _, t in own], clean)
        for group, own in groups.items()
    }
    print("\n".join(table(rows, len(clean))))


def _kept(path: Path, ctx: Context, folder: Path) -> Reading:
    """The readings of a file, from the folder where they are."""
    file = folder / f"{path.parent.name}-{path.stem}.json"
    if not file.exists():
        made = load(path)
        network = ctx.train([made], seeds=[ctx.seed_for("detection", path.stem, 0)])[0]
        folder.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".part").write_text(json.dumps(scan(ctx, made, network)))
        file.with_suffix(".part").rename(file)
    reading: Reading = json.loads(file.read_text())
    return reading


def _group(made: DistilledSet, path: Path) -> tuple[str, int]:
    """What poisoned a set, and the class its trigger leads to; by the file's name and 0 where the card is silent."""
    note = made.card.poison
    if note is None:
        return path.stem.rpartition("-")[0], 0
    share = "" if note.ratio is None else f", {100 * note.ratio:g} %"
    return f"{note.attack}{share}", note.target


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
