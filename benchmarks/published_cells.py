"""Cells of published tables, made again at full width: writes docs/results/published.md.

    OMP_NUM_THREADS=1 python -m benchmarks.published_cells --data-root DIR [--only CELL,..] [--seconds S] [--page-only]

``--data-root`` holds FashionMNIST/ and cifar10_jpeg/. A cell is some sets of one method and networks trained on each
as the method's paper does: ConvNet-3 of width 128 under the protocol "dc", without augmentation (300 epochs) or with
DSA (1000), scored on every test image after the last epoch. Every accuracy is kept in ``--state`` once it is known, so
that a run that was stopped goes on where it was; what distillation made is kept in ``--work``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import keep, read_state
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import distill, make_recipe
from ddaudit.distillation.store import FolderStore
from ddaudit.models import Arch
from ddaudit.seeds import stable_seed
from ddaudit.sets import DistilledSet, load, save
from ddaudit.training import PROTOCOLS, predict, train_many

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """One entry of a published table, and how it is made again.

    Attributes:
        sets: distilled with seeds 0, 1, ..; ``networks`` are trained on each.
        augment: of the evaluation: "" none, None the data set's own DSA.
        options: what differs from the recipe's published values, by dotted name.
        note: each difference from the published cell in words, for the page.
        why: where the numbers differ, the reason, once it is known.
        table: what published.csv calls the data; "": as ``data``, without "-jpeg".
    """

    method: str
    data: str
    ipc: int
    sets: int
    networks: int
    augment: str | None = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    why: str = ""
    table: str = ""

    @property
    def key(self) -> str:
        return f"{self.method}-{self.table or self.data}-{self.ipc}"

    @property
    def entry(self) -> tuple[str, str, int]:
        """Where published.csv has it."""
        return self.method, self.table or self.data.removesuffix("-jpeg"), self.ipc


_EMBEDDING = {"loop.arch": "ConvNetW32"}
_EMBEDDED = "embedded by a ConvNet-3 of width 32 after 500 steps (2 to 3 passes over the records)"
_SAME = "at IPC 1 the records of herding: both take the one nearest to the mean"
CELLS = (
    Cell("random", "fashion-mnist", 1, 5, 2),
    Cell(
        "random", "cifar10-jpeg", 1, 5, 1,
        note="images re-encoded as JPEG; DC-BENCH's leaderboard, with its own augmentation, says 15.4",
    ),
    Cell("herding", "fashion-mnist", 1, 1, 4, options=_EMBEDDING, note=_EMBEDDED),
    Cell("k-center", "fashion-mnist", 1, 1, 4, options=_EMBEDDING, note=f"{_EMBEDDED}; {_SAME}"),
    Cell(
        "herding", "cifar10-jpeg", 1, 1, 3, options=_EMBEDDING,
        note=f"{_EMBEDDED}; images re-encoded as JPEG",
    ),
    Cell(
        "k-center", "cifar10-jpeg", 1, 1, 2, options=_EMBEDDING,
        note=f"{_EMBEDDED}; {_SAME}; images re-encoded as JPEG",
    ),
    Cell(
        "dc", "fashion-mnist", 1, 1, 5,
        options={"loop.iterations": 80, "reader.per_class": 64},
        note="80 networks (paper: 1000), 64 records per class and step (256), one set (5)",
    ),
    Cell("random", "fashion-mnist", 10, 3, 1),
    Cell("k-center", "fashion-mnist", 10, 1, 2, options=_EMBEDDING, note=_EMBEDDED),
    Cell("herding", "fashion-mnist", 10, 1, 2, options=_EMBEDDING, note=_EMBEDDED),
    Cell(
        "dm", "fashion-mnist", 1, 1, 5, augment=None,
        options={"loop.iterations": 300, "reader.per_class": 64},
        note="300 iterations (paper: 20 000), 64 records per class and step (256), one set (5)",
    ),
    Cell("random", "cifar10-jpeg", 10, 3, 1, note="images re-encoded as JPEG"),
    *(
        Cell(
            "random", f"cifar10-lt:base=cifar10-jpeg,imbalance={factor}", 10, 3, 1, augment=None,
            note="long-tailed training images, as many of every class in the set; images re-encoded as JPEG",
            table=f"cifar10-lt-{factor}",
        )
        for factor in (10, 50, 100)
    ),
)  # fmt: skip


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/published.md"))
    parser.add_argument("--state", type=Path, default=Path("docs/results/published.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/published"))
    parser.add_argument("--only", help="cells to extend now, such as random-fashion-mnist-1")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--page-only", action="store_true", help="compute nothing")
    args = parser.parse_args()
    state, start, loaded = State(args.state), time.monotonic(), dict[str, Dataset]()
    chosen = [c for c in CELLS if not args.only or c.key in args.only.split(",")]
    for cell in [] if args.page_only else chosen:
        for seed in range(cell.sets):
            for network in range(cell.networks):
                if time.monotonic() - start > args.seconds or state.has(cell, seed, network):
                    continue
                if cell.data not in loaded:
                    loaded[cell.data] = load_data(cell.data, root=args.data_root)
                began = time.monotonic()
                made = distilled(cell, seed, loaded[cell.data], args.work)
                value = accuracy(cell, made, seed, network, loaded[cell.data])
                state.put(cell, seed, network, value)
                told = f"{cell.key} set {seed} network {network}: {100 * value:.2f} %"
                print(f"{told}, {time.monotonic() - began:.0f} s", flush=True)
    args.out.write_text(page(state), encoding="utf-8")


def distilled(cell: Cell, seed: int, data: Dataset, work: Path) -> DistilledSet:
    """The cell's set of this seed, made once."""
    file = work / f"{cell.key}-{seed}.safetensors"
    if not file.exists():
        recipe = make_recipe(cell.method, profile="paper", options=dict(cell.options), strict=True)
        store = FolderStore(work / "store")
        made = distill(recipe, data.train, data=data, ipc=cell.ipc, seed=seed, store=store)
        file.parent.mkdir(parents=True, exist_ok=True)
        save(made, file)
    return load(file)


def accuracy(cell: Cell, made: DistilledSet, seed: int, network: int, data: Dataset) -> float:
    """Of one network trained on a set: the share of all test images that it gets right."""
    protocol = PROTOCOLS["dc"].for_data(data.augment)
    if cell.augment is not None:
        protocol = replace(protocol, augment=cell.augment)
    (net,) = train_many(
        [(made.images, made.labels)],
        arch=Arch.parse("ConvNet"),
        num_classes=data.train.num_classes,
        mean=data.mean,
        std=data.std,
        protocol=protocol,
        seeds=[stable_seed("published", cell.key, seed, network)],
    )
    right = predict(net, data.test.images).argmax(1) == data.test.labels
    return float(right.float().mean())


class State:
    """Accuracies by cell, set and network, fractions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, dict[str, float]] = read_state(path)

    def has(self, cell: Cell, seed: int, network: int) -> bool:
        return f"{seed}.{network}" in self.values.get(cell.key, {})

    def of(self, cell: Cell) -> list[list[float]]:
        """One list per set, of its networks' accuracies."""
        sets: dict[str, list[float]] = {}
        for at, value in sorted(self.values.get(cell.key, {}).items()):
            sets.setdefault(at.split(".")[0], []).append(value)
        return list(sets.values())

    def put(self, cell: Cell, seed: int, network: int, value: float) -> None:
        at, value = f"{seed}.{network}", round(value, 4)
        self.values.setdefault(cell.key, {})[at] = value
        keep(self.path, cell.key, at, value=value)


@dataclass(frozen=True)
class Published:
    """What a paper's table says: percents, where it was read, and the tag of its provenance."""

    value: float
    std: float | None
    tag: str

    def reached(self, value: float) -> bool:
        """Within 2 points of it, or within 2 of its standard deviations."""
        return abs(value - self.value) <= max(2.0, 2 * (self.std or 0.0))


def read_published() -> dict[tuple[str, str, int], Published]:
    """(method, data, IPC) -> the published entry, from published.csv."""
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as file:
        return {
            (r["method"], r["data"], int(r["ipc"])): Published(
                100 * float(r["accuracy"]),
                100 * float(r["plus_minus"]) if r["plus_minus"] else None,
                r["tag"],
            )
            for r in csv.DictReader(file)
        }


def page(state: State) -> str:
    """The results page, of every cell that has a number."""
    published, lines = read_published(), []
    reached = counted = 0
    for cell in CELLS:
        sets = state.of(cell)
        if not sets:
            continue
        values = [100 * v for made in sets for v in made]
        mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        entry = published[cell.entry]
        counted, reached = counted + 1, reached + entry.reached(mean)
        told = f"{entry.value:.1f}" + (f" ± {entry.std:.1f}" if entry.std is not None else "")
        cells = (
            f"`{cell.method}`", cell.table or cell.data, str(cell.ipc), told, entry.tag, f"{mean:.1f} ± {spread:.1f}",
            f"{mean - entry.value:+.1f}", "yes" if entry.reached(mean) else "no",
            f"{len(sets)}, {len(values)}",
            "none" if cell.augment == "" else "DSA", cell.note or "as published",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    reasons = [
        f"- `{c.method}`, {c.data}, IPC {c.ipc}: {c.why}" for c in CELLS if c.why and state.of(c)
    ]
    return "\n".join([
        "# Published cells, made again", "",
        f"{reached} of {counted} cells are within 2 points of the published mean or within 2 of its standard "
        "deviations. Networks are ConvNet-3 of width 128 with instance norm under the published protocol (SGD 0.01, "
        "momentum 0.9, batch 256; 300 epochs without augmentation, 1000 with DSA), scored on all test images after "
        "the last epoch; nothing is chosen by test images. A tenth of the training images is held out and not used. "
        "Accuracy in percent, mean ± standard deviation over all networks, as the tables have it. The column "
        '"source" says where the published number was read: "[P]" in the paper; "from memory" was not checked.', "",
        "    OMP_NUM_THREADS=1 python -m benchmarks.published_cells --data-root DIR", "",
        "| method | data | IPC | published | source | here | difference | reached | sets, networks | augmentation "
        "| what differs |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *lines, "", *reasons,
    ]).rstrip() + "\n"  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
