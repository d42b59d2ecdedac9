"""What values of a ``small`` profile are worth, judged on validation images alone; no test image is read.

    OMP_NUM_THREADS=1 python -m benchmarks.small_profiles METHOD.. [--ipc 1,10] [--seeds 3] [--data digits]
                                                          [--set PART.OPTION=VALUE[,PART.OPTION=VALUE..] ..]

The first line of a method is its profile as it stands; each ``--set`` adds one with other values. A figure is the mean
over distillations, with the standard deviation between them; two networks are trained on each set under the quick
preset. Random records of equal number are the reference, from ten draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ddaudit.auditing import PRESETS, Context
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import distill, make_recipe
from ddaudit.distillation.networks import fit
from ddaudit.distillation.store import FolderStore
from ddaudit.models import Arch
from ddaudit.training import predict

RANDOM_DRAWS = 10


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--ipc", default="1,10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--store", help="folder that keeps teachers and experts between calls")
    args = parser.parse_args(argv)
    data = load_data(args.data, root=args.data_root)
    for ipc in map(int, args.ipc.split(",")):
        if not args.methods:
            print(line("random", data, ipc, RANDOM_DRAWS, {}, None), flush=True)
        for method in args.methods:
            for chosen in ["", *args.sets]:
                options = dict(part.split("=", 1) for part in chosen.split(",") if part)
                store = FolderStore(args.store) if args.store else None
                print(line(method, data, ipc, args.seeds, options, store), flush=True)


def line(
    method: str,
    data: Dataset,
    ipc: int,
    seeds: int,
    options: Mapping[str, object],
    store: FolderStore | None,
) -> str:
    """One profile: accuracy on validation images, its spread between distillations, CPU seconds of one."""
    recipe = make_recipe(method, profile="small", options=options, strict=True)
    arch = fit(replace(Arch.parse("ConvNet"), width=32), data.shape)  # as an audit's quick preset
    ctx, held = Context(data, PRESETS["quick"], arch, ipc=ipc), data.validation
    rates, spent = [], 0.0
    for seed in range(seeds):
        began = time.process_time()
        made = distill(recipe, data.train, data=data, ipc=ipc, seed=seed, store=store)
        spent += time.process_time() - began
        nets = ctx.train([made] * 2, seeds=[100 * seed + 1, 100 * seed + 2])
        right = [predict(net, held.images).argmax(1) == held.labels for net in nets]
        rates.append(torch.stack(right).double().mean())
    accuracy = torch.stack(rates)
    spread = f"{accuracy.std():.3f}" if seeds > 1 else "-"
    told = " ".join(f"{name}={value}" for name, value in options.items()) or "as it stands"
    return (
        f"{method:<12} IPC {ipc:<3} {accuracy.mean():.3f} +- {spread} "
        f"{spent / seeds:6.1f} s  {told}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
