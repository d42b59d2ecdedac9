"""What networks reach that are trained on each method's sets: makes docs/results/utility.md.

    python -m benchmarks.utility --out runs/utility [DIR..] [--methods NAME,..] [--data NAME,..] [--ipc 1,10]
                                 [--seeds 3] [--protocol audit|card] [--data-root DIR] [--jobs N] [--page FILE]
                                 [--page-only]

Every registered method at its ``small`` profile, beside full data, random records, herding and k-center, audited by
``utility`` under the quick preset. One run folder for each data set and size; running again computes what is missing,
and every part may be run alone. ``--protocol card`` also trains networks as each set's card says, on the set and on
random records with labels by the same teachers, and on the set with hard labels, in run folders of its own. The page
is written after every method from whatever is there, and names what is not. Its numbers stand in a .json beside it, and
a row stays where no folder has it any more.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

import ddaudit
from ddaudit.errors import BadInput, DDAuditError

HERE = Path(__file__).parent
BASELINES = ("full", "random", "herding", "k-center")
DATA = ("digits", "fashion-mnist")
OWN = {
    "accuracy": "accuracy",
    "random_accuracy": "random records, same labels",
    "ior": "gain over them",
    "hard_label_accuracy": "hard labels, audit's protocol",
}
"""Columns of methods that state a training of their own; the first three are under it."""
Figure = tuple[float, float, float]
"""A value with the ends of its 95 % interval."""
TITLES = {"digits": "Digits (scikit-learn's, 8x8)", "fashion-mnist": "Fashion-MNIST"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        nargs="+",
        required=True,
        help="folder of the run folders; the page also reads others: the first that has a row counts",
    )
    parser.add_argument("--methods", help="default: all that are registered")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--ipc", default="1,10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocol", choices=("audit", "card"), default="audit")
    parser.add_argument("--data-root")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--page", type=Path, help="default: page.md in --out")
    parser.add_argument("--page-only", action="store_true", help="compute nothing")
    args = parser.parse_args(argv)
    known = methods()
    wanted = known if args.methods is None else {n: known[n] for n in args.methods.split(",")}
    cases = [Case(data, int(ipc)) for data in args.data.split(",") for ipc in args.ipc.split(",")]
    args.out, outs = args.out[0], args.out
    page = args.page or args.out / "page.md"
    problems = read_problems(args.out)
    if not args.page_only:
        for case in cases:
            for name in wanted:
                if name in BASELINES and len(wanted) > len(BASELINES):
                    continue  # beside every other
                reason = run(name, case, args)
                problems.pop((name, case), None)
                if reason:
                    problems[name, case] = reason
                write_problems(args.out, problems)
                write_page(page, known, cases, outs)
    write_page(page, known, cases, outs)
    print(page)


@dataclass(frozen=True)
class Case:
    """A data set and a number of images per class."""

    data: str
    ipc: int

    def folder(self, out: Path, protocol: str = "audit") -> Path:
        name = f"{self.data.replace(':', '-')}-ipc{self.ipc}"
        return out / (name if protocol == "audit" else f"{name}-{protocol}")


@dataclass(frozen=True)
class Row:
    """One method's accuracy, fractions with 95 % intervals, and its difference to random records."""

    method: str
    accuracy: tuple[float, float, float]
    seeds: int
    gain: tuple[float, float | None, float | None] | None
    paired: bool
    networks: int | None = None
    """Trained on each set; None where it was not kept."""

    @property
    def beats(self) -> bool:
        return self.gain is not None and self.gain[1] is not None and self.gain[1] > 0


def methods() -> dict[str, dict[str, str]]:
    """Registered methods by name, as ``ddaudit list methods --json`` prints them."""
    command = [sys.executable, "-m", "ddaudit.cli", "list", "methods", "--json"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {r["name"]: r for r in rows if r["kind"] == "method"}


def run(name: str, case: Case, args: argparse.Namespace) -> str:
    """Audit one method beside the reference rows; returns why it could not be, or nothing."""
    folder, by_card = case.folder(args.out, args.protocol), args.protocol == "card"
    try:
        done = ddaudit.audit(
            [name],
            case.data,
            auditors="utility",
            preset="quick",
            ipc=case.ipc,
            seeds=args.seeds,
            baselines=("random",) if by_card else BASELINES,
            protocol=args.protocol,
            settings={"utility": {"ranking": True}} if by_card else None,
            out=folder,
            jobs=args.jobs,
            data_root=args.data_root,
        )
    except (BadInput, DDAuditError) as error:
        return str(error)
    return "; ".join(reason for cell, reason in done.failed if cell.startswith(f"{name}:"))


def rows(folder: Path) -> Iterator[Row]:
    """What a run folder holds."""
    if not (folder / "run.json").exists():
        return
    report = ddaudit.report_of([str(folder)])
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    networks = about["preset"]["victims"]
    gains = {
        c.subject: ((c.difference, c.low, c.high), c.paired)
        for c in report.comparisons
        if c.metric == "utility.accuracy" and c.baseline == "random" and not c.params
    }
    for finding in report.findings:
        found = [m for m in finding.metrics if m.name == "utility.accuracy" and not m.params]
        for m in found:
            if m.value is None or m.low is None or m.high is None:
                continue
            gain, paired = gains.get(finding.subject, (None, False))
            seeds = len(m.per_seed) if m.per_seed else 1
            yield Row(finding.subject, (m.value, m.low, m.high), seeds, gain, paired, networks)


def by_own_protocol(folder: Path) -> dict[str, dict[str, Figure]]:
    """Method -> name in :data:`OWN` -> figure, of sets whose card states another protocol than the audit's."""
    if not (folder / "run.json").exists():
        return {}
    made = {}
    for finding in ddaudit.report_of([str(folder)]).findings:
        found = {
            name: (m.value, m.low, m.high)
            for m in finding.metrics
            if (name := m.name.removeprefix("utility.")) in OWN
            and (name != "accuracy" or "protocol" in m.params)
            and not (m.value is None or m.low is None or m.high is None)
        }
        if "accuracy" in found:
            made[finding.subject] = found
    return made


def read_kept(file: Path) -> dict[Case, dict[str, tuple[Row, dict[str, Figure] | None]]]:
    """What the .json of a page holds: of every case, each method's row and its figures by its own protocol."""
    made: dict[Case, dict[str, tuple[Row, dict[str, Figure] | None]]] = {}
    for entry in json.loads(file.read_text(encoding="utf-8")) if file.exists() else []:
        own, case = entry.pop("own_protocol"), Case(entry.pop("data"), entry.pop("ipc"))
        entry = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        figures = own and {name: tuple(figure) for name, figure in own.items()}
        made.setdefault(case, {})[entry["method"]] = Row(**entry), figures
    return made


def write_page(
    page: Path,
    known: dict[str, dict[str, str]],
    cases: Sequence[Case],
    outs: Sequence[Path],
) -> None:
    """The page, from whatever is there; a row is that of the first folder of ``outs`` that has it, else the one that
    the page had before."""
    before = read_kept(page.with_suffix(".json"))
    cases = sorted({*cases, *before}, key=lambda c: (c.data not in TITLES, c.data, c.ipc))
    problems = {key: text for out in reversed(outs) for key, text in read_problems(out).items()}
    published, reasons = read_published(), read_reasons()
    kept: list[dict[str, object]] = []
    lines = [
        "# Utility of every method",
        "",
        "Made by `python -m benchmarks.utility`. Accuracy on real test images of networks trained on the set "
        "under the quick preset (ConvNet of width 32), `small` profile: shortened methods, not "
        "the published ones. Intervals are 95 %; the difference is to random records of equal number, over draws, "
        "networks and test images. Published numbers are of the full-length method on ConvNet-3 of width 128, which a "
        "`small` profile is not; their tag says where they are from: `[C] README` read in the authors' repository, "
        "`from memory` not checked against the paper. Where a method states a training of its own, a second table "
        "has the accuracy of networks trained by it, beside random records that the same teachers label, trained "
        "alike. `-` means not available.",
        "",
    ]
    for case in cases:
        folders = [case.folder(out, how) for out in outs for how in ("audit", "card")]
        old = before.get(case, {})
        found = {name: row for name, (row, _) in old.items()}
        found |= {r.method: r for folder in reversed(folders) for r in rows(folder)}
        own = {name: told for name, (_, told) in old.items() if told}
        own |= {m: told for f in reversed(folders) for m, told in by_own_protocol(f).items()}
        lines += [f"## {TITLES.get(case.data, case.data)}, IPC {case.ipc}", ""]
        networks = {n for r in found.values() for n in ([r.networks] if r.networks else (2, 3))}
        if networks:
            lines += [f"{' or '.join(map(str, sorted(networks)))} networks per set.", ""]
        lines += [
            "| family | method | status | accuracy | seeds | less random | beats random | published | reason |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        missing = []
        order = sorted(known, key=lambda n: (n not in BASELINES, known[n]["family"], n))
        for name in order:
            row = found.get(name)
            if row is None:
                missing.append(name)
                continue
            kept.append({**asdict(case), **asdict(row), "own_protocol": own.get(name)})
            failed = problems.get((name, case))
            line = _line(row, known[name], case, published, reasons)
            lines.append(f"{line[:-1]}; a seed failed: {failed} |" if failed else line)
        lines.append("")
        if told := [(name, own[name]) for name in order if name in own]:
            lines += [
                "Trained by their own protocol:",
                "",
                f"| method | {' | '.join(OWN.values())} |",
                f"|---|{len(OWN) * '---|'}",
                *(f"| `{n}` | {' | '.join(_told(k, t.get(k)) for k in OWN)} |" for n, t in told),
                "",
            ]
        if missing:
            names = [f"{n} ({problems[n, case]})" if (n, case) in problems else n for n in missing]
            lines += [f"Not there: {', '.join(names)}.", ""]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


def _told(name: str, figure: Figure | None) -> str:
    sign = "+" if name == "ior" else ""
    if figure is None:
        return "-"
    value, low, high = (f"{x:{sign}.3f}" for x in figure)
    return f"{value} [{low}, {high}]"


def _line(
    row: Row,
    about: dict[str, str],
    case: Case,
    published: dict[tuple[str, str, int], str],
    reasons: dict[str, str],
) -> str:
    value, low, high = row.accuracy
    reference = row.method in ("full", "random")
    gain = "-"
    if row.gain is not None and not reference:
        gain = f"{row.gain[0]:+.3f}"
        if row.gain[1] is not None and row.gain[2] is not None:
            gain += (
                f" [{row.gain[1]:+.3f}, {row.gain[2]:+.3f}]{'' if row.paired else ' (not paired)'}"
            )
    reason = "" if row.beats or reference else _reason(row.method, case, reasons)
    cells = [
        about["family"],
        f"`{row.method}`",
        about["status"],
        f"{value:.3f} [{low:.3f}, {high:.3f}]",
        str(row.seeds),
        gain,
        "" if reference else "yes" if row.beats else "no",
        published.get((row.method, case.data, case.ipc), "-"),
        reason,
    ]
    return f"| {' | '.join(cells)} |"


def _reason(method: str, case: Case, reasons: dict[str, str]) -> str:
    for key in (f"{method}@{case.data}@{case.ipc}", f"{method}@{case.data}", method):
        if key in reasons:
            return reasons[key]
    return "not looked into"


def read_published() -> dict[tuple[str, str, int], str]:
    """(method, data, IPC) -> published accuracy, a fraction, with its tag."""
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as file:
        made = {}
        for r in csv.DictReader(file):
            spread = f" ± {r['plus_minus']}" if r["plus_minus"] else ""
            note = f", {r['note']}" if r["note"] else ""
            made[r["method"], r["data"], int(r["ipc"])] = (
                f"{r['accuracy']}{spread} ({r['tag']}{note})"
            )
    return made


def read_reasons() -> dict[str, str]:
    return yaml.safe_load((HERE / "utility_reasons.yaml").read_text(encoding="utf-8")) or {}


def read_problems(out: Path) -> dict[tuple[str, Case], str]:
    file = out / "problems.json"
    if not file.exists():
        return {}
    return {(m, Case(d, i)): text for m, d, i, text in json.loads(file.read_text())}


def write_problems(out: Path, problems: dict[tuple[str, Case], str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    kept = [[m, c.data, c.ipc, text] for (m, c), text in problems.items()]
    (out / "problems.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
