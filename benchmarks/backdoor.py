"""Backdoor injections on DM and DC, and what networks make of them: makes docs/results/backdoor.md.

    python -m benchmarks.backdoor --out runs/backdoor --data-root DIR [--data NAME,..] [--methods NAME,..]
                                  [--attacks "NAME;.."] [--seeds 3] [--scan N] [--seconds N] [--page-only]

Every cell (data, method, attack, seed) writes its set into ``--out`` as a set file with the poison on its card, so that
detectors can be run over all of them, and its numbers into ``--state``; running again computes what is missing. Clean
sets stand there too, as ``DATA-METHOD-clean-SEED.safetensors``. ``--scan N`` then reads all of them, and N clean sets
of each method, with the detectors of ``backdoor-scan`` (benchmarks.detection).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import doorping
from benchmarks.detection import LEVEL, Reading, evaluate, scan
from benchmarks.pages import State, share, span
from ddaudit.attacks._common.trigger import budget, trigger_of
from ddaudit.attacks.backdoor.attempt import Attempt, variants_of
from ddaudit.attacks.backdoor.auditor import networks_of
from ddaudit.attacks.backdoor.injection import INJECTIONS, Injected, Scene, inject
from ddaudit.attacks.backdoor.outcomes import Outcome, gain
from ddaudit.attacks.backdoor_scan.auditor import DETECTORS
from ddaudit.attacks.backdoor_scan.detector import FEWEST_ROWS
from ddaudit.auditing import PRESETS, Context, recipe_subject
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch, Network
from ddaudit.sets import DistilledSet, load, save

ARCH = Arch.parse("ConvNetW32")
TARGET, VICTIMS, IPC = 0, 2, 10
FEWEST_CLEAN = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "naive": {},
    "naive, 10 %": {"ratio": 0.1},
    "doorping": {},
    "invisible": {},
    "simple-trigger": {},
    "relax-trigger": {},
    "sneakdoor": {},
    "poisoned-distillation": {},
}
"""Rows of the page: an attack's small profile with these numbers."""
ON = {
    ("dm", "doorping"): {"untrained": True, "every": 10},
    ("dm", "invisible"): {"untrained": True, "every": 10},
    ("fashion-mnist", "sneakdoor"): {"epochs": 3},
}
"""What a method, or a data set, needs otherwise: dm trains no networks; Fashion-MNIST has 50 times the records."""


@dataclass(frozen=True)
class Cell:
    """One poisoned set; attack "clean" is the set that its victims are compared with."""

    data: str
    method: str
    attack: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.data}/{self.method}/{self.attack}/{self.seed}"

    def file(self, folder: Path) -> Path:
        """Where its set stands."""
        words = self.attack.replace(", ", "-").replace(" %", "")
        return folder / f"{self.data}-{self.method}-{words}-{self.seed}.safetensors"


class Bench:
    """One data set: its context, clean sets and clean victims, each made once."""

    def __init__(self, data: Dataset, out: Path) -> None:
        self.data, self.out = data, out
        # As many networks as the cells that are stored: more would not be comparable with them.
        preset = PRESETS["quick"].model_copy(update={"victims": VICTIMS})
        self.ctx = Context(data=data, preset=preset, arch=fit(ARCH, data.shape), ipc=IPC)
        self._clean: dict[Path, list[Network]] = {}

    def clean(self, cell: Cell) -> DistilledSet:
        """The clean set of a method and seed, from its file where it is."""
        path = Cell(cell.data, cell.method, "clean", cell.seed).file(self.out)
        if not path.exists():
            recipe = resolve(cell.method, profile="small")
            save(distill(recipe, self.data.train, data=self.data, ipc=IPC, seed=cell.seed), path)
        return load(path)

    def victims(self, made: DistilledSet, seed: int) -> list[Network]:
        """Two networks trained on a set, of the same seeds for all sets of a seed."""
        seeds = [self.ctx.seed_for("victim", seed, i) for i in range(VICTIMS)]
        return self.ctx.train([made] * len(seeds), seeds=seeds)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """A cell's numbers; its set is written first."""
        began = time.monotonic()
        path = Cell(cell.data, cell.method, "clean", cell.seed).file(self.out)
        clean = self.clean(cell)
        if path not in self._clean:
            self._clean = {path: self.victims(clean, cell.seed)}
        if cell.attack == "clean":
            right = [self.ctx.predict(n, self.data.test.images).argmax(1) == self.data.test.labels
                     for n in self._clean[path]]  # fmt: skip
            return {"cta": float(torch.stack(right).double().mean())}
        name = cell.attack.partition(",")[0]
        numbers = {
            **OPTIONS[cell.attack],
            **ON.get((cell.method, name), {}),
            **ON.get((cell.data, name), {}),
        }
        attack = INJECTIONS.get(name).at("small").options(numbers)
        recipe = recipe_subject(resolve(cell.method, profile="small")).recipe
        scene = Scene(self.data, TARGET, cell.seed, self.ctx.arch, lambda: clean, recipe, IPC)
        file = cell.file(self.out)
        if file.exists():
            made = load(file)
            note = made.card.poison
            assert note is not None
            planted = Injected(
                made, trigger_of(made), None, note.ratio, note.ratio_of, note.source_class
            )
        else:
            planted = inject(attack, scene)
            save(planted.made, file)
        attempt = Attempt(self.ctx, attack, planted, self.data.test, TARGET)
        nets = self.victims(planted.made, cell.seed)
        attacked, before = attempt.on(nets), attempt.on(self._clean[path])
        size = budget(planted.trigger, self.data.test.images)
        free = attempt.on(nets, clamp=False) if attempt.leaves_pixels else attacked
        won = gain(attacked, before)
        full = {}
        if planted.poisoned is not None and cell.seed == 0:
            full = _rates(
                "asr_full", attempt.on(networks_of(self.ctx, planted.poisoned.train, 1, cell.seed))
            )
        return {
            "cta": share(attacked.correct), "cta_clean": share(before.correct), **_rates("asr", attacked),
            **_rates("asr_clean", before), **_rates("asr_unclamped", free), **full,
            "gain": [won.value, won.low, won.high], "linf": size.linf, "l2": size.l2, "pixels": size.pixels,
            "source": planted.source_class, "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

    def scan(self, cell: Cell) -> Reading:
        """What detectors read of a cell's set; a clean one is made where it is missing."""
        if cell.attack == "clean":
            self.clean(cell)
        made = load(cell.file(self.out))
        return scan(self.ctx, made, self.victims(made, cell.seed)[0])


def _rates(name: str, found: Outcome) -> dict[str, float]:
    return {f"{name}_{variant}": share(hits) for variant, hits in variants_of(found).items()}


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Seed by seed, so that a run that was stopped has every attack."""
    for seed in range(args.seeds):
        for data in args.data.split(","):
            for method in args.methods.split(","):
                for attack in ("clean", *OPTIONS):
                    if attack in ("clean", *args.attacks.split(";")):
                        yield Cell(data, method, attack, seed)


def scans(args: argparse.Namespace) -> Iterator[Cell]:
    """Everything that detectors read: the poisoned sets that are there, and clean ones."""
    for cell in cells(args):
        if cell.attack != "clean" and cell.file(args.out).exists():
            yield cell
    for seed in range(args.scan):
        for data in args.data.split(","):
            for method in args.methods.split(","):
                yield Cell(data, method, "clean", seed)


def page(state: State, todo: list[Cell]) -> str:
    """The results page."""
    lines = [
        "# Backdoors that survive distillation, and that are put in afterwards", "",
        "DM and DC at IPC 10, reduced: the `small` profiles of recipes (ConvNet width 32; DM 300 iterations, DC 20 x 5)"
        " and of attacks, target class 0; two victims a set (ConvNet width 32, protocol `quick`), all test images. "
        "Percent, mean over seeds [lowest, highest seed]. ASR is exclusive (test images of other classes) and clamped "
        "to valid pixels. *Clean ASR*: networks of the clean set, same trigger; *gain*: the paired difference. "
        "*Full*: one network of the whole poisoned training set (seed 0). What an attack deviates in stands in "
        "`ddaudit list injections --json`.", "",
        "    python -m benchmarks.backdoor --out runs/backdoor --data-root DIR", "",
    ]  # fmt: skip
    for data in dict.fromkeys(c.data for c in todo):
        for method in dict.fromkeys(c.method for c in todo):
            lines += _table(
                state,
                [c for c in todo if (c.data, c.method) == (data, method)],
                f"{method} on {data}",
            )
    return "\n".join([*lines, *doorping.section(state), *_notes(state, todo)]) + "\n"


def _table(state: State, todo: list[Cell], title: str) -> list[str]:
    clean = [
        state.cells[c.key]["cta"] for c in todo if c.attack == "clean" and c.key in state.cells
    ]
    if not clean:
        return []
    lines = [
        f"## {title}", "", f"Clean set: accuracy {span(clean)}.", "",
        "| attack | seeds | CTA | ASR | clean ASR | gain | ASR unclamped | full | trigger: pixels, grey levels |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for attack in OPTIONS:
        got = [state.cells[c.key] for c in todo if c.attack == attack and c.key in state.cells]
        if not got:
            continue
        moved = f"{got[0]['pixels']:.0f}, {255 * got[0]['linf']:.0f}"
        values = [
            [g["cta"] for g in got], [g["asr_exclusive"] for g in got], [g["asr_clean_exclusive"] for g in got],
            [g["gain"][0] for g in got], [g["asr_unclamped_exclusive"] for g in got],
        ]  # fmt: skip
        lines.append(
            f"| {attack} | {len(got)} | "
            + " | ".join(map(span, values))
            + f" | {_full(got, 'exclusive')} | {moved} |"
        )
        if "asr_source" in got[0]:
            hit, before, free = (
                [g[f"{k}_source"] for g in got] for k in ("asr", "asr_clean", "asr_unclamped")
            )
            won = [a - b for a, b in zip(hit, before, strict=True)]
            shown = " | ".join(map(span, (hit, before, won, free)))
            lines.append(
                f"| {attack}, source class | {len(got)} | | {shown} | {_full(got, 'source')} | |"
            )
    poisoned = {a: _readings(state, [c for c in todo if c.attack == a]) for a in OPTIONS}
    first = todo[0]
    clean = [Cell(first.data, first.method, "clean", seed) for seed in range(1000)]
    return [*lines, "", *_detection(_readings(state, clean), poisoned)]


def _detection(clean: list[Reading], poisoned: Mapping[str, list[Reading]]) -> list[str]:
    """What detectors make of the poisoned sets, once a few clean ones are read."""
    read = {attack: found for attack, found in poisoned.items() if found}
    if len(clean) < FEWEST_CLEAN or not read:
        return []
    rows = {a: evaluate(found, [TARGET] * len(found), clean) for a, found in read.items()}
    first = next(iter(rows.values()))
    lines = [
        "Detectors of `backdoor-scan`, one network a set: AUC [95 % interval] over clean sets, and how many poisoned "
        f"sets have a p-value of at most {LEVEL:g}. Of clean sets as many have one as the p-value says, whatever a "
        f"detector reads: one in {len(clean) + 1} is the largest of {len(clean) + 1}, and that is no measurement. "
        "False alarms of the published thresholds are one.", "",
        "| attack | " + " | ".join(r.detector for r in first) + " |", "|---|" + "---|" * len(first),
    ]  # fmt: skip
    for attack, own in rows.items():
        many = len(read[attack])
        cells = [
            f"{r.auc.value:.2f} [{r.auc.low:.2f}, {r.auc.high:.2f}], {round(r.detected.value * many)} of {many}"
            for r in own
        ]
        lines.append(f"| {attack} | " + " | ".join(cells) + " |")
    flagged = ["" if r.false_alarms is None else f"{100 * r.false_alarms:.0f} %" for r in first]
    lines.append("| clean sets, flagged by the published threshold | " + " | ".join(flagged) + " |")
    absent = [d.title for d in DETECTORS if d.title not in {r.detector for r in first}]
    if absent:
        lines += ["", f"Not asked: {', '.join(absent)} need {FEWEST_ROWS} images a class."]
    return [*lines, ""]


def _readings(state: State, todo: list[Cell]) -> list[Reading]:
    return [state.cells[f"scan/{c.key}"] for c in todo if f"scan/{c.key}" in state.cells]


def _full(got: list[dict[str, Any]], variant: str) -> str:
    values = [g[f"asr_full_{variant}"] for g in got if f"asr_full_{variant}" in g]
    return f"{100 * values[0]:.1f}" if values else ""


def _notes(state: State, todo: list[Cell]) -> list[str]:
    done = sum(c.key in state.cells for c in todo)
    return [
        f"{done} of {len(todo)} cells are there. `doorping` and `invisible` on dm move their trigger on its untrained "
        "networks, every tenth question, because dm trains none; on dc they follow the networks that have learned the "
        "set. `sneakdoor` trains its surrogate for 3 epochs on Fashion-MNIST. Poison ratios: naive, doorping and "
        "invisible 1 % of all records (naive also 10 %), simple- and relax-trigger 10 % as copies, sneakdoor 5 % of "
        "the target class, poisoned-distillation none (it sees the finished set). Where *full* is high and ASR is low, "
        "the attack works on the records and distillation lost its trigger.",
    ]  # fmt: skip


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the set files")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--data", default="digits,fashion-mnist")
    parser.add_argument("--methods", default="dm,dc")
    parser.add_argument(
        "--attacks", default=";".join(OPTIONS), help="rows, separated by semicolons"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--state", type=Path, default=Path("docs/results/backdoor.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/backdoor.md"))
    parser.add_argument(
        "--scan", type=int, default=0, help="clean sets that detectors are held against"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--page-only", action="store_true")
    args = parser.parse_args()
    state, todo, start = State(args.state), list(cells(args)), time.monotonic()
    benches: dict[str, Bench] = {}
    list(INJECTIONS.items())  # imported now: a long run is of one state of the code

    def run(
        keyed: Iterator[tuple[str, Cell]], measure: Callable[[Bench, Cell], Mapping[str, Any]]
    ) -> None:
        for key, cell in keyed:
            if key in state.cells or time.monotonic() - start > args.seconds:
                continue
            if cell.data not in benches:
                benches[cell.data] = Bench(load_data(cell.data, root=args.data_root), args.out)
            numbers = measure(benches[cell.data], cell)
            state.add(key, numbers)
            shown = {k: numbers[k] for k in ("cta", "asr_exclusive", "seconds") if k in numbers}
            print(key, shown, flush=True)
            args.page.write_text(page(state, todo))

    if not args.page_only:
        run(((c.key, c) for c in todo), Bench.measure)
        run(((f"scan/{c.key}", c) for c in scans(args)), Bench.scan)
    args.page.write_text(page(state, todo))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
