"""What K shadow distillations at once cost, as a multiple of one distillation, measured in one process.

    python benchmarks/bench_shadows.py [--runs 64] [--ipc 10] [--iterations 100] [--repeats 3]

Single and shared runs alternate, and the ratio of their medians is printed. Seconds are CPU time of the process,
which other work on the machine disturbs least. A loop over K runs would cost K times one run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from ddaudit.data import load_data
from ddaudit.distillation import Recipe, distill_many, resolve


def seconds(recipe: Recipe, members: torch.Tensor, *, ipc: int) -> float:
    """CPU seconds of one call of distill_many on digits."""
    data = load_data("digits")
    start = time.process_time()
    distill_many(recipe, data.train, members, data=data, ipc=ipc, seed=0)
    return time.process_time() - start


def main() -> None:
    """Measure and print one row per (method, ipc)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["dm", "ndpdc", "random"])
    args = parser.parse_args()
    n = len(load_data("digits").train)
    many = torch.rand(args.runs, n, generator=torch.Generator().manual_seed(0)) < 0.5
    one = torch.ones(1, n, dtype=torch.bool)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.iterations} steps")
    print(
        f"| method | IPC | one run, CPU s | {args.runs} runs, CPU s | ratio |\n|---|---|---|---|---|"
    )
    for method in args.methods:
        options = {"loop.iterations": args.iterations} if method != "random" else {}
        recipe = resolve(method, profile="small", options=options)
        for ipc in args.ipc:
            seconds(recipe, one, ipc=ipc)  # warm-up
            single, shared = [], []
            for _ in range(args.repeats):
                single.append(seconds(recipe, one, ipc=ipc))
                shared.append(seconds(recipe, many, ipc=ipc))
            a, b = statistics.median(single), statistics.median(shared)
            print(f"| {method} | {ipc} | {a:.2f} | {b:.2f} | {b / a:.1f} |", flush=True)


if __name__ == "__main__":
    main()
