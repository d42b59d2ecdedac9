"""Robust distillation against what it must beat, under AutoAttack: writes docs/results/robust.md from a JSON.

    python -m benchmarks.robust --out runs/robust [--data digits] [--seeds 3] [--images 100] [--rows NAME,..]
                                [--seconds N] [--page-only]

Every method at its ``small`` profile beside its plain base, the same base with adversarially trained victims, and the
base with victims that stop as soon as they are as accurate on validation records as the robust variant's. AutoAttack
standard at 8, 2 and 1 / 255 on the first test images; an image that stands at a larger radius stands at a smaller one.
Sets and victims are kept in ``--out``, verdicts image by image in ``--state``: a run that was stopped goes on, all rows
of one seed before the next seed, and a later one with more ``--images`` extends it; several may share both, with other
``--rows``. ``--page-only`` computes nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import keep, read_state
from ddaudit.attacks.adversarial.execution import classify
from ddaudit.attacks.adversarial.suite import autoattack, pgd
from ddaudit.audits.store import RunStore
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import Recipe, distill, resolve
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch, Network, build
from ddaudit.sets import DistilledSet
from ddaudit.stats import crossed_rate, paired_difference
from ddaudit.training import PROTOCOLS, Ascent, EvaluationProtocol, Extras, Robust, train_many

TITLES = {"digits": "Digits (scikit-learn's, 8x8)", "fashion-mnist": "Fashion-MNIST"}
GREYS = {"digits": (8, 2, 1), "fashion-mnist": (2, 1)}
FEWER: dict[str, dict[type, dict[str, int]]] = {
    "fashion-mnist": {Experts: {"networks.epochs": 2}, ExpertPaths: {"networks.count": 1}}
}
"""Where there are many records, options of methods by the networks that they train on them."""
SHORT = (
    "Networks that methods train on the records take two passes over them, and trajectories come from one expert: "
    "there are 45 times as many records here as of digits."
)
AGAINST = Ascent(epsilon=8 / 255, steps=5, size=4 / 255)
IPC, PIECE, PGD = 10, 50, 1000
ENOUGH = 200
"""Images under AutoAttack from which it decides gains; a few say less than PGD on all."""


@dataclass(frozen=True)
class Row:
    """Victims of one method's sets.

    Attributes:
        method: whose sets.
        base: method whose plainly trained victims it is compared with; "" for plain bases.
        how: "plain", "adversarial", "card" (the card's protocol), or "stopped" where the victims of ``like`` are as
            accurate.
        like: a method.
    """

    method: str
    base: str = ""
    how: str = "plain"
    like: str = ""

    @property
    def key(self) -> str:
        return "/".join(filter(None, (self.method, self.how, self.like)))

    @property
    def title(self) -> str:
        says = {
            "adversarial": ", victims trained under attack",
            "stopped": f", victims stopped at the accuracy of `{self.like}`",
        }
        return f"`{self.method}`" + says.get(self.how, "")


PAIRS = {  # plain base -> robust variants
    "dm": ("dm+guard", "dm+adversarial"),
    "mtt": ("mtt+adversarial",),
    "idm": ("rome", "c2r"),
    "kip": ("adv-kip",),
    "dc": ("dc+guard", "dc+adversarial", "dc+cvar"),
    "dd": ("robust-learning",),
    "sre2l": ("sre2l+guard",),
}


def all_rows() -> list[Row]:
    """In the order in which they are computed."""
    out = [Row("random"), Row("random", "random", "adversarial")]
    for base, variants in PAIRS.items():
        how = "card" if base == "sre2l" else "plain"
        out.append(Row(base, how=how))
        if how == "plain":
            out.append(Row(base, base, "adversarial"))
        for variant in variants:
            out.append(Row(variant, base, how))
            if how == "plain":
                out.append(Row(base, base, "stopped", variant))
    return [*out, Row("full"), Row("full", "full", "adversarial")]


class Bench:
    """Sets, victims and verdicts of one data set."""

    def __init__(self, data: Dataset, store: RunStore, state: Path) -> None:
        self.data, self._store, self._path = data, store, state
        self.arch = fit(Arch.parse("ConvNetW32"), data.shape)
        self.cells: dict[str, dict[str, Any]] = read_state(state).get(data.name, {})
        self._met: set[str] = set()

    def extend(self, row: Row, seed: int, images: int) -> None:
        """Judge the first ``images`` test images by AutoAttack, those that are judged already left out; before any of
        them, a part of the test records by PGD."""
        net, key, greys = self.victim(row, seed), f"{row.key}/{seed}", GREYS[self.data.name]
        if key not in self._met:
            # A folder that is gone is made again: verdicts go on where the network is the one that they are of.
            first = self._first(net, greys[0], seed)
            known = self.cells.get(key, {})
            if {k: known.get(k) for k in first} != first:
                self.cells[key] = {**first, "bits": {}}
            self._met.add(key)
        cell = self.cells[key]
        done = len(cell["bits"].get(str(greys[0]), ""))
        x, y = self.data.test.images[done:images], self.data.test.labels[done:images]
        stands = torch.zeros(len(x), dtype=torch.bool)
        for grey in greys:
            todo = (~stands).nonzero().squeeze(1)
            if len(todo):
                got = autoattack(net, x[todo], y[todo], eps=grey / 255, seed=seed)
                stands[todo] = got.survived
            bits = "".join(map(str, stands.int().tolist()))
            cell["bits"][str(grey)] = cell["bits"].get(str(grey), "") + bits
        keep(self._path, self.data.name, key, value=cell)

    def skip(self, row: Row, seed: int) -> None:
        """Keep that a control is the base itself."""
        key = f"{row.key}/{seed}"
        self.cells[key] = {"base": True}
        keep(self._path, self.data.name, key, value=self.cells[key])

    def _first(self, net: Network, grey: int, seed: int) -> dict[str, Any]:
        """Accuracy, and which of the first test images stand under PGD."""
        x, y = self.data.test.images[:PGD], self.data.test.labels[:PGD]
        got = pgd(net, x, y, eps=grey / 255, steps=20, seed=seed)
        return {
            "clean": self._accuracy(net, self.data.test.images, self.data.test.labels),
            "pgd": "".join(map(str, got.survived.int().tolist())),
        }

    def needed(self, row: Row, seed: int) -> bool:
        """False for a control that is no other than the base: it is no more accurate than the variant."""
        if row.how != "stopped":
            return True
        like = self.victim(Row(row.like, row.base), seed)
        return self._validated(self.victim(Row(row.method), seed)) > self._validated(like)

    def victim(self, row: Row, seed: int) -> Network:
        """The network of a row and seed, trained or found."""
        key = f"{self.data.name}-{row.key.replace('/', '-')}-{seed}"
        known = self._store.load_networks(key, self.arch, self.data)
        if known:
            return known[0]
        made = self._set(row.method, seed)
        protocol = PROTOCOLS["quick"].for_data(self.data.augment)
        if row.how == "card":
            protocol = EvaluationProtocol.from_card(made.card.protocol or {})
            protocol = protocol.for_data(self.data.augment)
        if row.how == "adversarial":
            protocol = replace(protocol, robust=Robust(AGAINST))
        net = self._train(made, protocol, seed, row)
        self._store.save_networks(key, [net])
        return net

    def _train(
        self, made: DistilledSet, protocol: EvaluationProtocol, seed: int, row: Row
    ) -> Network:
        goal = self._validated(self.victim(Row(row.like), seed)) if row.how == "stopped" else 2.0
        kept: list[Mapping[str, Tensor]] = []

        def watch(_: int, passes: int, parameters: Mapping[str, Tensor]) -> None:
            if goal > 1 or kept or passes % 5:
                return
            net = self._fresh(seed)
            now = {n: p.detach().clone() for n, p in parameters.items()}
            net.body.load_state_dict(now, strict=False)
            if self._validated(net) >= goal:
                kept.append(now)

        (net,) = train_many(
            [(made.images, made.labels)], arch=self.arch, num_classes=self.data.num_classes,
            mean=self.data.mean, std=self.data.std, protocol=protocol, seeds=[seed], extras=[Extras(made.store)],
            after_pass=watch, strategy="loop",
        )  # fmt: skip
        if kept:
            net.body.load_state_dict(kept[0], strict=False)
        return net

    def _fresh(self, seed: int) -> Network:
        data = self.data
        return build(
            self.arch, shape=data.shape, num_classes=data.num_classes, seed=seed, mean=data.mean, std=data.std
        )  # fmt: skip

    def _set(self, method: str, seed: int) -> DistilledSet:
        key = f"{self.data.name}-{method}-{seed}"
        known = self._store.load_set(key)
        if known is None:
            known = distill(
                self._recipe(method), self.data.train, data=self.data, ipc=IPC, seed=seed, store=self._store
            )  # fmt: skip
            self._store.save_set(key, known)
        return known

    def _recipe(self, method: str) -> Recipe:
        networks = resolve(method, profile="small").networks
        known = FEWER.get(self.data.name, {}).items()
        fewer = next((options for kind, options in known if isinstance(networks, kind)), {})
        return resolve(method, profile="small", options=fewer)

    def _validated(self, net: Network) -> float:
        return self._accuracy(net, self.data.validation.images, self.data.validation.labels)

    @staticmethod
    def _accuracy(net: Network, images: Tensor, labels: Tensor) -> float:
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        return float((classify(net, x) == labels).float().mean())


def todo(
    bench: Bench, rows: Sequence[Row], seeds: int, images: int
) -> Iterator[tuple[Row, int, int]]:
    """(row, seed, images to reach): of each seed all rows by PGD alone (0) first, then by AutoAttack on the first
    images, before more of any."""
    first = str(GREYS[bench.data.name][0])
    for seed in range(seeds):
        for stop in range(0, images + PIECE, PIECE):
            for row in rows:
                cell = bench.cells.get(f"{row.key}/{seed}")
                if cell and cell.get("base"):
                    continue
                got = -1 if cell is None else len(cell["bits"].get(first, ""))
                if got < min(stop, images):
                    yield row, seed, min(stop, images)


def page(state: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> str:
    """The results page, of whatever is there."""
    lines = [
        "# Robust distillation under AutoAttack", "",
        "    python -m benchmarks.robust --out DIR", "",
        f"Sets of {IPC} images per class, `small` profiles, ConvNet of width 32 under the quick protocol (decoupled "
        "methods: their card's). Accuracy in percent, means over seeds of one victim each, with the range over seeds "
        "for clean accuracy (all test records). AutoAttack standard (APGD-CE, APGD-T, FAB-T with 100 steps, Square of "
        "5000 queries), L-infinity, on the first test images; PGD with 20 steps from a random start on up to "
        f"{PGD}, with 95 % intervals over images and seeds. These first images may be easier than all test records, of "
        "which clean accuracy is: compare columns of attacks among rows, not with it. Gains are to the "
        f"base's plain victims at the largest radius, by AutoAttack where both have {ENOUGH} "
        "images, else by PGD, on the same images, with 95 % intervals over images (from two seeds: and victims). "
        f"Victims trained under attack: PGD-AT at 8/255, {AGAINST.steps} steps of 4/255. A stopped victim is the "
        "base's as soon as it is as accurate on validation records as the variant's; where the base is no more "
        "accurate, the row is missing and the base itself is the control. Decoupled methods have none at equal "
        "accuracy. 'No help shown' is said where the base, or it at equal accuracy, may be as robust: of one seed's "
        "victims, an interval speaks of these networks alone.",
    ]  # fmt: skip
    for name, cells in state.items():
        if not cells:
            continue
        greys = GREYS[name]
        head = [f"AA {g}/255" for g in reversed(greys)] + [f"PGD {greys[0]}/255"]
        lines += [
            "", f"## {TITLES[name]}", "", *([SHORT, ""] if name in FEWER else []),
            "| victims of | base | clean | " + " | ".join(head)
            + f" | gain at {greys[0]}/255 | seeds | AA: seeds x images |",
            "|" + "---|" * (7 + len(greys)),
        ]  # fmt: skip
        for row in rows:
            got = {s: c for s in range(99) if (c := cells.get(f"{row.key}/{s}")) and "clean" in c}
            if got:
                lines.append(_line(row, got, cells, greys))
        lines += [*_duels(rows, cells, greys), *_both(cells, greys)]
    for name in TITLES:
        cells = state.get(name, {})
        missing = [r.title for r in rows if r.how != "stopped" and f"{r.key}/0" not in cells]
        if missing:
            named = "; ".join(missing) if cells else "all rows"
            lines += ["", f"Not measured yet on {TITLES[name]}: {named}."]
    return "\n".join(lines) + "\n"


def _line(row: Row, got: Mapping[int, Any], cells: Mapping[str, Any], greys: Sequence[int]) -> str:
    clean = [100 * c["clean"] for c in got.values()]
    shown = [f"{sum(clean) / len(clean):.1f} [{min(clean):.1f}, {max(clean):.1f}]"]
    for by in [*map(str, reversed(greys)), "pgd"]:
        judged = [bits for c in got.values() if len(bits := _bits(c, by))]
        shown.append(_share(judged))
    judged_by = [len(bits) for c in got.values() if len(bits := _bits(c, str(greys[0])))]
    plain = Row(row.base, how="card" if row.how == "card" else "plain")
    gain = _gain(row, plain, cells, greys) if row.base else ""
    base = f"`{row.base}`" if row.base else ""
    by_auto = f"{len(judged_by)} x {max(judged_by)}" if judged_by else ""
    return f"| {row.title} | {base} | " + " | ".join([*shown, gain, str(len(got)), by_auto]) + " |"


def _share(judged: Sequence[Tensor]) -> str:
    """Percent of images that stand, with its 95 % interval over images and seeds; "" of none."""
    if not judged:
        return ""
    same = min(map(len, judged))
    known = crossed_rate(torch.stack([bits[:same] for bits in judged]).double())
    return f"{100 * known.value:.1f} [{100 * known.low:.1f}, {100 * known.high:.1f}]"


def _duels(rows: Sequence[Row], cells: Mapping[str, Any], greys: Sequence[int]) -> list[str]:
    """Each robust variant against its plain base, that base at equal accuracy, and that base trained under attack."""
    lines = [
        "", f"Gains of each variant at {greys[0]}/255, in points, over what it must beat:", "",
        "| variant | plain base | base at equal accuracy | base trained under attack | says |", "|" + "---|" * 5,
    ]  # fmt: skip
    for row in rows:
        if not row.base or row.how not in ("plain", "card") or f"{row.key}/0" not in cells:
            continue
        plain = Row(row.base, how=row.how)
        stopped = Row(row.base, row.base, "stopped", row.method)
        hard = Row(row.base, row.base, "adversarial")
        # Seed by seed the base itself, where it is no more accurate than the variant.
        itself = [s for s in range(99) if cells.get(f"{stopped.key}/{s}", {}).get("base")]
        equal = {
            **cells, **{f"{stopped.key}/{s}": cells[f"{plain.key}/{s}"] for s in itself if f"{plain.key}/{s}" in cells}
        }  # fmt: skip
        gains = [
            _gain(row, plain, cells, greys),
            _gain(row, stopped, equal, greys),
            _gain(row, hard, cells, greys),
        ]
        known = [s for s in range(99) if f"{stopped.key}/{s}" in equal]
        same = f" (the base itself in {len(itself)} of {len(known)} seeds)" if itself else ""
        lines.append(
            f"| {row.title} | {gains[0]} | {gains[1]}{same} | {gains[2]} | {_says(gains)} |"
        )
    return lines


def _both(cells: Mapping[str, Any], greys: Sequence[int]) -> list[str]:
    """On how many images the two attacks disagree."""
    strongest = str(greys[0])
    pairs = [(_bits(c, strongest), _bits(c, "pgd")) for c in cells.values() if "pgd" in c]
    pairs = [(aa[: len(weaker)], weaker[: len(aa)]) for aa, weaker in pairs if len(aa)]
    if not pairs:
        return []
    broken = sum(int(((aa == 0) & (weaker == 1)).sum()) for aa, weaker in pairs)
    missed = sum(int(((aa == 1) & (weaker == 0)).sum()) for aa, weaker in pairs)
    count = sum(len(aa) for aa, _ in pairs)
    return [
        "", f"Of {count} verdicts at {strongest}/255 by both, AutoAttack breaks {broken} images that stand under PGD, "
        f"and PGD {missed} that stand under AutoAttack.",
    ]  # fmt: skip


def _says(gains: Sequence[str]) -> str:
    """What gains over the base, over it at equal accuracy and over it trained under attack come to."""
    base, equal, hard = map(_sign, gains)
    if base < 0:
        return "hurts"
    if base > 0 and not gains[1]:
        return "helps; nothing of equal accuracy beside it"
    if (base, equal) != (1, 1):
        return "no help shown"
    if not gains[2]:
        return "helps; nothing trained under attack beside it"
    return (
        "helps, more than training under attack"
        if hard > 0
        else "helps, no more than training under attack"
    )


def _gain(row: Row, other: Row, cells: Mapping[str, Any], greys: Sequence[int]) -> str:
    """Points by which a row is more robust than another on the same images, with 95 % interval; "" where unknown."""
    keys = [(f"{row.key}/{s}", f"{other.key}/{s}") for s in range(99)]
    pairs = [(cells[a], cells[b]) for a, b in keys if a in cells and b in cells]
    # Where the base itself is the control, a cell says no more than that.
    pairs = [pair for pair in pairs if all("bits" in cell for cell in pair)]
    if not pairs:
        return ""
    least = min(len(_bits(c, str(greys[0]))) for pair in pairs for c in pair)
    by, least = (str(greys[0]), least) if least >= ENOUGH else ("pgd", PGD)
    a, b = (torch.stack([_bits(p[k], by)[:least] for p in pairs]) for k in (0, 1))
    apart = paired_difference(a, b)
    shown = f"{100 * apart.value:+.1f} [{100 * apart.low:+.1f}, {100 * apart.high:+.1f}]"
    return shown + (" (PGD)" if by == "pgd" else "")


def _sign(gain: str) -> int:
    """1 or -1 where an interval lies above or below 0, else 0."""
    if not gain:
        return 0
    low, high = (float(v) for v in gain[gain.index("[") + 1 : gain.index("]")].split(","))
    return 1 if low > 0 else -1 if high < 0 else 0


def _bits(cell: Mapping[str, Any], by: str) -> Tensor:
    """(n,) 1.0 where the image stands, under AutoAttack at a radius in grey levels or under "pgd"."""
    verdicts = cell["pgd"] if by == "pgd" else cell["bits"].get(by, "")
    return torch.tensor([float(b) for b in verdicts])


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of sets and victims")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rows", help="methods to compute now; default: all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--page", type=Path, default=Path("docs/results/robust.md"))
    parser.add_argument("--state", type=Path, default=Path("docs/results/robust.json"))
    parser.add_argument("--page-only", action="store_true")
    args = parser.parse_args()
    rows, start = all_rows(), time.monotonic()
    if not args.page_only:
        data = load_data(args.data, root=args.data_root)
        bench = Bench(data, RunStore(str(args.out)), args.state)
        wanted = [r for r in rows if not args.rows or r.method in args.rows.split(",")]
        for row, seed, stop in todo(bench, wanted, args.seeds, args.images):
            if time.monotonic() - start > args.seconds:
                break
            began = time.monotonic()
            if bench.needed(row, seed):
                bench.extend(row, seed, stop)
            else:
                bench.skip(row, seed)
            print(f"{row.key} {seed} {stop}: {time.monotonic() - began:.0f} s", flush=True)
    args.page.write_text(page(read_state(args.state), rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
