"""What `ddaudit demo` could show: candidate methods and biases, judged on validation digits alone.

    OMP_NUM_THREADS=1 python benchmarks/demo_choice.py [--bias 0.9 0.5 0.3] [--methods dm dp-merf] [--seeds 2]

Validation digits are few and as biased as the training set, so they are painted anew, each in all ten colours. No test
image is read. A line is one method at one bias: mean over distillations with two networks each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from ddaudit.auditing import PRESETS, Context
from ddaudit.data import load_data
from ddaudit.data.colour import assign_all, painted
from ddaudit.distillation import distill, make_recipe
from ddaudit.distillation.networks import fit
from ddaudit.measures import deo
from ddaudit.models import Arch
from ddaudit.training import predict

METHODS = ("dm", "dm+fair", "dm+dp", "dm+fair+dp", "ldpdc", "ldpdc+fair", "dp-merf", "dp-merf+fair")
IPC, DELTA = 10, 1e-4


def trial(method: str, *, bias: float, epsilon: float, seeds: int) -> str:
    """One line of the table: accuracy, accuracy in the class's own colour, DEO_M, DEO_A, CPU seconds to distil."""
    data = load_data(f"digits-colored:bias={bias:g}")
    validation = painted(assign_all(load_data("digits").validation), style="fg")
    arch = fit(replace(Arch.parse("ConvNet"), width=32), data.shape)  # as an audit's quick preset
    ctx = Context(data, PRESETS["quick"], arch, ipc=IPC)
    recipe = make_recipe(method, profile="small", epsilon=epsilon, delta=DELTA, options={})
    labels, groups = validation.labels, validation.groups
    assert groups is not None
    counts = deo.cell_counts(labels, groups, num_classes=10, num_groups=10)
    rows = []
    for seed in range(seeds):
        started = time.process_time()
        made = distill(recipe, data.train, data=data, ipc=IPC, seed=seed)
        spent = time.process_time() - started
        nets = ctx.train([made] * 2, seeds=[100 * seed + 1, 100 * seed + 2])
        guesses = torch.stack([predict(net, validation.images).argmax(-1) for net in nets])
        rates = deo.cross_tabulate(guesses, labels, groups, counts)
        right = (guesses == labels).double()
        own = right[:, groups == labels].mean()
        rows.append([right.mean(), own, deo.deo_m(rates).mean(), deo.deo_a(rates).mean(), spent])
    values = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return f"{bias:<5g} {method:<14}" + "".join(f"{v:>9.2f}" for v in values)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bias", type=float, nargs="+", default=[0.9, 0.5, 0.3])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--epsilon", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args(argv)
    print(f"{'bias':<5} {'method':<14} accuracy  own col.    DEO_M    DEO_A    CPU s")
    for bias in args.bias:
        for method in args.methods:
            line = trial(method, bias=bias, epsilon=args.epsilon, seeds=args.seeds)
            print(line, flush=True)


if __name__ == "__main__":
    main()
