"""Time the training engine's strategies, memory reuse and pooling; print markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/bench_training.py [--case small|big|all] [--write FILE.md]

Timed is what ``train_many`` runs: steps of the "dc" protocol with augmentation. A figure is the extra
time of a longer run over a shorter one, per network and step, so that start-up and compiling drop
out; compiling is in the column "start s" (with an empty cache). Wall time and CPU time are both
given: on a shared machine the second is the steadier one.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.models import Arch
from ddaudit.models._pool import AvgPool2
from ddaudit.training import PROTOCOLS, engine, predict, reuse_memory, train_many

DSA = "color_crop_cutout_flip_scale_rotate"


@dataclass(frozen=True)
class Case:
    """One network and set size, how many networks, and steps of the short and the long run."""

    title: str
    arch: str
    shape: tuple[int, int, int]
    images: int
    networks: int
    steps: tuple[int, int]


CASES = {
    "small": [
        Case("ConvNet-2/32, 3x8x8, batch 10", "ConvNetD2W32", (3, 8, 8), 10, 8, (20, 120)),
        Case("ConvNet-2/32, 3x8x8, batch 100", "ConvNetD2W32", (3, 8, 8), 100, 8, (10, 50)),
    ],
    "big": [
        Case("ConvNet-3/128, 1x28x28, batch 100", "ConvNet", (1, 28, 28), 100, 2, (2, 6)),
    ],
}


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def run(case: Case, strategy: str, steps: int, device: str) -> tuple[float, float]:
    """Train the case's networks for ``steps`` steps."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(case.images, *case.shape, generator=g)
    labels = torch.arange(case.images) % 10
    channels = case.shape[0]

    def work() -> None:
        train_many(
            [(images + 0.01 * k, labels) for k in range(case.networks)],
            arch=Arch.parse(case.arch),
            num_classes=10,
            mean=[0.5] * channels,
            std=[0.25] * channels,
            protocol=replace(PROTOCOLS["dc"], augment=DSA, max_steps=steps),
            seeds=range(case.networks),
            device=device,
            strategy=strategy,  # type: ignore[arg-type]
        )
        if device == "cuda":
            torch.cuda.synchronize()

    return seconds(work)


def step_times(case: Case, strategy: str, device: str, repeats: int) -> tuple[float, float, float]:
    """(wall, CPU) milliseconds per network and step, and the seconds that starting took."""
    short, long = case.steps
    per = 1e3 / (case.networks * (long - short))
    first_wall, _ = run(case, strategy, short, device)
    shorts = [run(case, strategy, short, device) for _ in range(repeats)]
    longs = [run(case, strategy, long, device) for _ in range(repeats)]
    wall, cpu = (min(t[i] for t in longs) - min(t[i] for t in shorts) for i in range(2))
    start = first_wall - wall * short / (long - short)
    return wall * per, cpu * per, max(start, 0.0)


def strategies(cases: list[Case], device: str, repeats: int) -> list[str]:
    """The table of strategies, with and without memory reuse."""
    rows = [
        "| case | networks | strategy | wall ms | CPU ms | start s |",
        "|---|---|---|---|---|---|",
    ]
    variants = [("loop", " without memory reuse"), ("loop", ""), ("compiled", ""), ("stacked", "")]
    for case in cases:
        for strategy, note in variants:
            context: AbstractContextManager[object] = (
                mock.patch.object(engine, "reuse_memory", nullcontext) if note else nullcontext()
            )
            with context:
                wall, cpu, start = step_times(case, strategy, device, repeats)
            rows.append(
                f"| {case.title} | {case.networks} | {strategy}{note} "
                f"| {wall:.2f} | {cpu:.2f} | {start:.1f} |"
            )
            print(rows[-1], flush=True)
    return rows


def prediction(device: str) -> list[str]:
    """The table of prediction with and without memory reuse."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(1024, 3, 32, 32, generator=g)
    network = train_many(
        [(images[:10], torch.arange(10))],
        arch=Arch(),
        num_classes=10,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        protocol=replace(PROTOCOLS["dc"], augment="", max_steps=1),
        seeds=[0],
        device=device,
    )[0]
    rows = [
        "| predict, ConvNet-3/128, 3x32x32 | wall ms / image | CPU ms / image |",
        "|---|---|---|",
    ]
    for note in ("without memory reuse", "with memory reuse"):
        context: AbstractContextManager[object] = (
            mock.patch.object(engine, "reuse_memory", nullcontext)
            if note.startswith("without")
            else nullcontext()
        )
        with context:
            times = [seconds(lambda: predict(network, images)) for _ in range(3)]
        wall, cpu = (min(t[i] for t in times) for i in range(2))
        rows.append(f"| {note} | {wall / 1.024:.2f} | {cpu / 1.024:.2f} |")
        print(rows[-1], flush=True)
    return rows


def pooling() -> list[str]:
    """The table of the pooling layer against torch's, forward and backward."""
    rows = ["| average pooling, 100x32xHxW | torch, CPU us | AvgPool2, CPU us |", "|---|---|---|"]
    ours = AvgPool2()

    def both(pool: Callable[[Tensor], Tensor], x: Tensor) -> float:
        def once() -> None:
            x.grad = None
            y = pool(x)
            y.backward(torch.ones_like(y))

        once()

        def ten() -> None:
            for _ in range(10):
                once()

        return min(seconds(ten)[1] / 10 for _ in range(5)) * 1e6

    with reuse_memory():
        for side in (8, 16, 32):
            x = torch.randn(100, 32, side, side, requires_grad=True)
            theirs = both(lambda t: F.avg_pool2d(t, 2), x)
            rows.append(f"| {side}x{side} | {theirs:.0f} | {both(ours, x):.0f} |")
            print(rows[-1], flush=True)
    return rows


def machine(device: str) -> str:
    """One line on where the figures come from."""
    cores = os.cpu_count()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return (
        f"Machine: {name}, {cores} cores, torch {torch.__version__} on {torch.get_num_threads()} "
        f"thread(s), Python {platform.python_version()}, {platform.system()}, "
        f"load average {os.getloadavg()[0]:.1f}."
    )


def main() -> None:
    """Parse the options, run, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    names = list(CASES) if options.case == "all" else [options.case]
    cases = [case for name in names for case in CASES[name]]

    # Compile from scratch: a cache left by an earlier run would hide what compiling costs.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="ddaudit-bench-")
    lines = ["# Training engine", "", (__doc__ or "").split("\n\n")[2].strip(), ""]
    lines += [machine(options.device), ""]
    lines += [*strategies(cases, options.device, options.repeats), ""]
    lines += [*prediction(options.device), ""]
    if options.device == "cpu":
        lines += [*pooling(), ""]
    print("\n".join(lines))
    if options.write:
        options.write.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
