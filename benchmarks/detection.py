"""How well the detectors of ``backdoor-scan`` tell poisoned sets from clean ones: AUC, detections, false alarms.

    python -m benchmarks.detection --clean FILE... --poisoned FILE... --data digits --readings DIR

All are set files of one method and size; ``benchmarks.backdoor`` and ``ddaudit poison`` make poisoned ones. Each is
read once (a network trained on it, every detector asked) and its readings are kept, so that a stopped run goes on where
it was. A poisoned set is held against all clean sets, a clean one against all others, as an audit would do it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ddaudit.attacks.backdoor_scan.auditor import (
    DETECTORS,
    BackdoorScan,
    BackdoorScanSettings,
    exhibit,
)
from ddaudit.attacks.backdoor_scan.calibration import Calibrated, calibrate
from ddaudit.attacks.backdoor_scan.detector import DetectorReading
from ddaudit.attacks.backdoor_scan.scanning import ByDetector, read, usable
from ddaudit.auditing import PRESETS, Context
from ddaudit.data import load_data
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch
from ddaudit.sets import DistilledSet, load
from ddaudit.stats import Interval, auc, clopper_pearson

LEVEL = 0.05
SCAN = "scan as a whole"


@dataclass(frozen=True)
class Row:
    """One detector on one group of poisoned sets.

    Attributes:
        auc: of its largest excess, poisoned sets against clean ones.
        detected: share of poisoned sets with a p-value of at most 5 %.
        named: share of poisoned sets whose worst class is the attacker's target.
        flagged: share that the published threshold flags; None: there is none.
        false_alarms: the same of clean sets.
    """

    detector: str
    auc: Interval
    detected: Interval
    named: Interval
    flagged: float | None
    false_alarms: float | None


def readings_of(path: Path, ctx: Context, settings: BackdoorScanSettings, kept: Path) -> ByDetector:
    """What every detector that can be asked reads of one set file; kept as JSON."""
    file = kept / f"{path.parent.name}-{path.stem}.json"
    if file.exists():
        stored = json.loads(file.read_text())
        return {
            name: DetectorReading(torch.tensor(r["scores"], dtype=torch.float64), r["flagged"])
            for name, r in stored.items()
        }
    made = load(path)
    seeds = [ctx.seed_for("detection", path.stem, i) for i in range(settings.victims)]
    networks = ctx.train([made] * len(seeds), seeds=seeds)
    seen = exhibit(made, ctx, settings)
    asked, _ = usable(settings.chosen(), networks[0], seen)
    found = read(asked, networks, seen)
    text = {n: {"scores": r.scores.tolist(), "flagged": r.flagged} for n, r in found.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".part").write_text(json.dumps(text))
    file.with_suffix(".part").rename(file)
    return found


def evaluate(
    poisoned: Sequence[ByDetector], targets: Sequence[int], clean: Sequence[ByDetector]
) -> list[Row]:
    """A row for each detector that read every set, and one for the scan.

    Args:
        poisoned: readings of poisoned sets; ``targets`` the class that each one's trigger leads to.
        clean: readings of at least three clean sets.
    """
    names = [d.name for d in DETECTORS if all(d.name in r for r in (*poisoned, *clean))]
    quiet = [{n: r[n].scores for n in names} for r in clean]
    bad = [calibrate({n: r[n].scores for n in names}, quiet) for r in poisoned]
    good = [calibrate(r, [*quiet[:i], *quiet[i + 1 :]]) for i, r in enumerate(quiet)]
    titles = {d.name: d.title for d in DETECTORS}
    rows = [
        _row(
            titles[n],
            [(float(c.verdicts[n].excess.max()), c.verdicts[n].p_value, c.verdicts[n].suspect) for c in bad],
            targets,
            [float(c.verdicts[n].excess.max()) for c in good],
            _mean(poisoned, n),
            _mean(clean, n),
        )
        for n in names
    ]  # fmt: skip
    return [*rows, _row(SCAN, [_whole(c) for c in bad], targets, [_whole(c)[0] for c in good])]


def _row(
    detector: str,
    bad: Sequence[tuple[float, float, int]],
    targets: Sequence[int],
    good: Sequence[float],
    flagged: float | None = None,
    false_alarms: float | None = None,
) -> Row:
    scores = torch.tensor([*(b[0] for b in bad), *good])
    detected = sum(b[1] <= LEVEL for b in bad)
    named = sum(b[2] == t for b, t in zip(bad, targets, strict=True))
    return Row(
        detector,
        auc(scores, torch.arange(len(scores)) < len(bad)),
        clopper_pearson(detected, len(bad)),
        clopper_pearson(named, len(bad)),
        flagged,
        false_alarms,
    )


def _whole(calibrated: Calibrated) -> tuple[float, float, int]:
    worst = max(calibrated.verdicts.values(), key=lambda v: float(v.excess.max()))
    return float(worst.excess.max()), calibrated.p_value, worst.suspect


def _mean(readings: Sequence[ByDetector], name: str) -> float | None:
    flagged = [f for r in readings if (f := r[name].flagged) is not None]
    return sum(flagged) / len(flagged) if flagged else None


def markdown(groups: Mapping[str, Sequence[Row]], clean: int) -> str:
    """The rows as a table."""
    lines = [
        f"| attack | detector | AUC | p <= 0.05 | right class | threshold flags | of {clean} clean sets |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, rows in groups.items():
        for r in rows:
            cells = [group, r.detector, _text(r.auc), _text(r.detected), _text(r.named)]
            cells += ["-" if v is None else f"{v:.2f}" for v in (r.flagged, r.false_alarms)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(value: Interval) -> str:
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def group_of(made: DistilledSet, path: Path) -> tuple[str, int]:
    """What poisoned a set, and the class its trigger leads to; by its file's name and 0 where the card is silent."""
    note = made.card.poison
    if note is None:
        return path.stem.rpartition("-")[0], 0
    share = "" if note.ratio is None else f", {100 * note.ratio:g} %"
    return f"{note.attack}{share}", note.target


def main() -> None:
    """Read all sets, print the table, and write it as a page where one is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clean", type=Path, nargs="+", required=True)
    parser.add_argument("--poisoned", type=Path, nargs="+", required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--readings", type=Path, required=True)
    options = parser.parse_args()
    data = load_data(options.data, root=options.data_root)
    ctx = Context(
        data=data, preset=PRESETS["quick"], arch=fit(Arch("convnet", width=32), data.shape)
    )
    settings = BackdoorScan().configure("quick")
    clean = [readings_of(f, ctx, settings, options.readings) for f in sorted(options.clean)]
    groups: dict[str, list[tuple[ByDetector, int]]] = {}
    for file in sorted(options.poisoned):
        group, target = group_of(load(file), file)
        found = readings_of(file, ctx, settings, options.readings)
        groups.setdefault(group, []).append((found, target))
    rows = {
        f"{group} ({len(own)})": evaluate([r for r, _ in own], [t for _, t in own], clean)
        for group, own in groups.items()
    }
    print(markdown(rows, len(clean)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
