"""BEARD's published checkpoints, attacked as the benchmark does and as it should: writes docs/results/adversarial.md.

    python -m benchmarks.adversarial --data-root DIR --checkpoints DIR

``--data-root`` holds cifar10_jpeg/{train,test}.parquet; ``--checkpoints`` holds the benchmark's .pth files (CIFAR-10,
IPC 50, ConvNet). Every verdict is kept in ``--state``, image by image, so that a run that was stopped (``--seconds``)
goes on where it was, and a later one with larger ``--pgd`` or ``--autoattack`` extends it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.pages import read_state, write_state
from ddaudit.attacks.adversarial.beard import beard_pgd, clip_only
from ddaudit.attacks.adversarial.execution import classify
from ddaudit.attacks.adversarial.masking import clip_check
from ddaudit.attacks.adversarial.suite import autoattack, pgd
from ddaudit.data import ImageData, load_data
from ddaudit.models import Arch, Network, load_checkpoint
from ddaudit.stats import wilson

PUBLISHED = {  # clean, PGD-L2, PGD 8/255 untargeted: the authors' logs, percents
    "BACON": (69.95, 50.81, 28.86),
    "DC": (54.31, 32.09, None),
    "MTT": (69.66, 48.87, None),
}
GREYS = (1, 2, 4, 8)
Verdicts = Callable[[Network, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One measured number per checkpoint: how it is decided, on how many images, in pieces of which size."""

    key: str
    title: str
    verdicts: Verdicts
    images: int
    piece: int


def rows(args: argparse.Namespace) -> list[Row]:
    """In the order in which they are computed: cheap and decisive ones first."""

    def plain(net: Network, x: Tensor, y: Tensor) -> Tensor:
        return classify(net, x.float() / 255) == y

    def clipped(net: Network, x: Tensor, y: Tensor) -> Tensor:
        return clip_only(net, x) == y

    def compat(norm: Literal["Linf", "L2"], targeted: bool) -> Verdicts:
        return lambda net, x, y: beard_pgd(
            net, x, y, norm=norm, targeted=targeted, beard_compat=True
        )

    def correct_l2(net: Network, x: Tensor, y: Tensor) -> Tensor:
        return beard_pgd(net, x, y, norm="L2")

    def honest(grey: int) -> Verdicts:
        return lambda net, x, y: pgd(net, x, y, eps=grey / 255, steps=40, seed=0).survived

    def auto(grey: int) -> Verdicts:
        return lambda net, x, y: autoattack(net, x, y, eps=grey / 255, seed=0).survived

    few, many = args.autoattack, args.pgd
    out = [
        Row("clean", "clean", plain, args.clean, 1000),
        Row("clip", "clip only, no attack", clipped, args.clean, 1000),
        Row("compat-l2", "as coded: PGD-L2 0.5", compat("L2", False), many, 100),
        Row("compat-linf", "as coded: PGD Linf 8", compat("Linf", False), many, 100),
        Row("l2", "correct PGD-L2 0.5", correct_l2, many, 100),
    ]
    out += [Row(f"pgd-{g}", f"correct PGD {g}/255", honest(g), many, 100) for g in reversed(GREYS)]
    out += [Row(f"aa-{g}", f"AutoAttack {g}/255", auto(g), few, 20) for g in reversed(GREYS)]
    return out


class State:
    """Verdicts by checkpoint and row, as strings of 0 and 1 over the first images of the test set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bits: dict[str, dict[str, str]] = read_state(path)

    def of(self, name: str, key: str) -> str:
        return self.bits.get(name, {}).get(key, "")

    def extend(self, name: str, key: str, verdicts: Tensor) -> None:
        added = "".join(map(str, verdicts.int().tolist()))
        self.bits.setdefault(name, {})[key] = self.of(name, key) + added
        write_state(self.path, self.bits)


def pieces(state: State, names: list[str], todo: list[Row]) -> Iterator[tuple[str, Row, int, int]]:
    """What is still to be computed: row by row, all checkpoints of a piece before the next piece."""
    for row in todo:
        for start in range(0, row.images, row.piece):
            for name in names:
                done = len(state.of(name, row.key))
                stop = min(start + row.piece, row.images)
                if done < stop:
                    yield name, row, done, stop


def networks(
    folder: Path, test: ImageData, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Network]:
    """Name -> network, for every checkpoint of the benchmark in the folder."""
    found = {}
    for file in sorted(folder.glob("*_ConvNet_CIFAR10_50_*.pth")):
        net = load_checkpoint(
            file, arch=Arch.parse("ConvNet"), shape=test.shape, num_classes=10, mean=mean, std=std
        )
        net.body.compile(dynamic=True)  # halves the time of a pass on a CPU
        found[file.name.split("_")[0]] = net
    return found


def page(state: State, names: list[str], todo: list[Row], test: ImageData) -> str:
    """The results page."""
    lines = [
        "# BEARD's checkpoints, attacked as coded and as meant", "",
        "Three checkpoints that the BEARD benchmark publishes (CIFAR-10, IPC 50, ConvNet-3) on CIFAR-10 (JPEG): the "
        "images are re-encoded, which costs 0.4 to 2.3 points of clean accuracy against plain CIFAR-10. Accuracy in "
        "percent with 95 % Wilson intervals over the images; one victim each, so they speak of these networks.", "",
        "    python -m benchmarks.adversarial --data-root DIR --checkpoints DIR", "",
        "| | " + " | ".join(names) + " | images |", "|---|" + "---|" * (len(names) + 1),
        _published("published clean", 0, names), _published("published PGD-L2", 1, names),
        _published("published PGD Linf 8/255", 2, names),
    ]  # fmt: skip
    for row in todo:
        got = [state.of(name, row.key) for name in names]
        if any(got):
            counts = sorted({len(g) for g in got})
            shown = str(counts[0]) if len(counts) == 1 else " to ".join(map(str, counts))
            lines.append(f"| {row.title} | " + " | ".join(_cell(g) for g in got) + f" | {shown} |")
    lines += ["", *_reading(state, names)]
    return "\n".join(lines) + "\n"


def _reading(state: State, names: list[str]) -> list[str]:
    out = ["What the clip-only check of `adversarial` says of the benchmark's pipeline:", ""]
    for name in names:
        clean, clip = state.of(name, "clean"), state.of(name, "clip")
        n = min(len(clean), len(clip))
        if not n:
            continue
        differ = sum(a != b for a, b in zip(clean[:n], clip[:n], strict=True))
        check = clip_check(differ)
        verdict = "passed" if check.passed else "FAILED"
        out.append(
            f"- {name}: {check.name}: **{verdict}**, verdicts of {differ} of {n} images differ though nothing was "
            f"attacked (expected {check.expected})."
        )
        l2 = state.of(name, "compat-l2")
        if l2:
            same = sum(a == b for a, b in zip(l2, clip[: len(l2)], strict=True))
            out.append(
                f"- {name}: the benchmark's PGD-L2 gives the verdict of clamping alone on {same} of {len(l2)} images."
            )
    return [
        *out, "",
        "The rows as coded normalise the images, clamp them to [0, 1] and step by 2/225 (Linf) or 15/255 (L2) in units "
        "of normalised values, 10 steps from the image itself. The correct rows attack pixels with the normalisation "
        "inside the network: PGD with 40 steps of 2.5 eps / 40 from a random start, PGD-L2 with its budget, "
        "AutoAttack standard (APGD-CE, APGD-T, FAB-T with 100 steps and 9 targets, Square with 5000 queries). Images "
        "are the first ones of the test file, which is balanced over classes, so rows with equal counts are paired.",
    ]  # fmt: skip


def _published(title: str, index: int, names: list[str]) -> str:
    values = [PUBLISHED[name][index] for name in names]
    return (
        f"| {title} | " + " | ".join("" if v is None else f"{v:.2f}" for v in values) + " | 10000 |"
    )


def _cell(bits: str) -> str:
    if not bits:
        return ""
    right = wilson(bits.count("1"), len(bits))
    return f"{100 * right.value:.2f} [{100 * right.low:.1f}, {100 * right.high:.1f}]"


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/results/adversarial.md"))
    parser.add_argument("--state", type=Path, default=Path("docs/results/adversarial.json"))
    parser.add_argument("--clean", type=int, default=10_000)
    parser.add_argument("--pgd", type=int, default=1000)
    parser.add_argument("--autoattack", type=int, default=200)
    parser.add_argument("--only", help="rows to extend now, by key (aa-8,aa-4); default: all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    args = parser.parse_args()
    data, start = load_data("cifar10-jpeg", root=args.data_root), time.monotonic()
    nets = networks(args.checkpoints, data.test, data.mean, data.std)
    todo, state, names = rows(args), State(args.state), list(nets)
    chosen = [r for r in todo if not args.only or r.key in args.only.split(",")]
    for name, row, done, stop in pieces(state, names, chosen):
        if time.monotonic() - start > args.seconds:
            break
        began = time.monotonic()
        x, y = data.test.images[done:stop], data.test.labels[done:stop]
        state.extend(name, row.key, row.verdicts(nets[name], x, y))
        print(f"{name} {row.key} {stop}: {time.monotonic() - began:.1f} s", flush=True)
    args.out.write_text(page(state, names, todo, data.test))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
