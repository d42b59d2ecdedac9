"""DOORPING as it was released: triggers that leave the pixels, networks without normalisation.

    python -m benchmarks.doorping --data-root DIR [--data NAME,..] [--seeds 3] [--state FILE]

Sets of DC at IPC 10, small profiles of both. Cells (data, networks, seed) go into ``--state``, beside those of
benchmarks.backdoor, whose page holds the table; running again computes what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import State, share, span
from ddaudit.attacks.backdoor.attempt import Attempt
from ddaudit.attacks.backdoor.injection import INJECTIONS, Scene, inject
from ddaudit.attacks.backdoor.outcomes import gain
from ddaudit.auditing import PRESETS, Context, recipe_subject
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch
from ddaudit.sets import DistilledSet

TARGET, VICTIMS, IPC = 0, 2, 10
NETWORKS = {"instance norm": "ConvNetW32", "no normalisation": "ConvNetW32NN"}
DATA = ("digits", "fashion-mnist")


def key(data: str, networks: str, seed: int) -> str:
    return f"released/{data}/{networks}/{seed}"


def measure(data: Dataset, networks: str, seed: int) -> dict[str, Any]:
    """One set whose trigger may leave the pixels, on networks of one kind, beside a clean set of the same seed."""
    arch = fit(Arch.parse(NETWORKS[networks]), data.shape)
    preset = PRESETS["quick"].model_copy(update={"victims": VICTIMS})
    ctx = Context(data=data, preset=preset, arch=arch, ipc=IPC)
    method = resolve("dc", profile="small", options={"networks.arch": NETWORKS[networks]})
    recipe = recipe_subject(method).recipe

    def clean() -> DistilledSet:
        return distill(method, data.train, data=data, ipc=IPC, seed=seed)

    attack = INJECTIONS.get("doorping").at("small").options({"clamp": False})
    planted = inject(attack, Scene(data, TARGET, seed, arch, clean, recipe, IPC))
    attempt = Attempt(ctx, attack, planted, data.test, TARGET)
    seeds = [ctx.seed_for("victim", seed, i) for i in range(VICTIMS)]
    nets, before = (ctx.train([s] * VICTIMS, seeds=seeds) for s in (planted.made, clean()))
    free, without = attempt.on(nets, clamp=False), attempt.on(before, clamp=False)
    stamped = planted.trigger.stamp(data.test.images[:1], clamp=False)
    return {
        "cta": share(free.correct),
        "cta_clean": share(without.correct),
        "asr": share(free.exclusive),
        "asr_clean": share(without.exclusive),
        "gain": gain(free, without).value,
        "asr_clamped": share(attempt.on(nets).exclusive),
        "range": [float(stamped.min()), float(stamped.max())],
    }


def section(state: State) -> list[str]:
    """The table of whatever is there; nothing without a cell."""
    rows = []
    for data in DATA:
        for networks in NETWORKS:
            got = [c for s in range(100) if (c := state.cells.get(key(data, networks, s)))]
            if not got:
                continue
            shown = [
                span([c[k] for c in got])
                for k in ("cta", "asr", "asr_clean", "gain", "asr_clamped")
            ]
            low, high = min(c["range"][0] for c in got), max(c["range"][1] for c in got)
            rows.append(
                f"| {data} | {networks} | {len(got)} | "
                + " | ".join(shown)
                + f" | {low:.1f} to {high:.1f} |"
            )
    if not rows:
        return []
    return [
        "## DOORPING as released", "",
        "The paper reports an ASR close to 1 (from a summary; numbers of cells not available). Its released code lets "
        "the patch leave the valid pixels, 0 to 1, and its networks have no normalisation. DC, `doorping` with "
        "`clamp=false`, victims of the same kind of network. *ASR* and *clean ASR* (networks of the clean set, same "
        "trigger) are with the patch as it is, *clamped* with valid pixels.", "",
        "    python -m benchmarks.doorping --data-root DIR", "",
        "| data | networks | seeds | CTA | ASR | clean ASR | gain | ASR clamped | pixels of the trigger |",
        "|---|---|---|---|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--state", type=Path, default=Path("docs/results/backdoor.json"))
    args = parser.parse_args()
    state = State(args.state)
    for name in args.data.split(","):
        data = load_data(name, root=args.data_root)
        for seed in range(args.seeds):
            for networks in NETWORKS:
                if (cell := key(name, networks, seed)) not in state.cells:
                    state.add(cell, measure(data, networks, seed))
                    print(cell, state.cells[cell], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
