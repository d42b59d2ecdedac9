"""Audit correct private recipes again and again: how often does the privacy auditor accuse them?

    OMP_NUM_THREADS=1 python benchmarks/false_alarms.py [--methods ndpdc,psg] [--repeats 40] [--json FILE]

Every repeat has its own seed, canaries, coins and noise. A recipe is accused when a named check fails, or
when the lower bound of all attacks together is above the claimed epsilon; at 95 % confidence that may
happen in 1 of 20 audits. Bounds of single attacks and the Gaussian bound decide nothing in a report and
are listed for comparison. Recipes are cut down so that an audit takes seconds: the mechanism is the same.
Claims are re-derived by PLD and RDP; PRV would take longer than all the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import torch

from ddaudit.attacks.privacy.auditor import Privacy
from ddaudit.auditing import PRESETS, Context, Subject
from ddaudit.data import load_data
from ddaudit.defenses.privacy import accountants
from ddaudit.distillation import METHODS, Recipe, distill, resolve
from ddaudit.findings import Finding
from ddaudit.models import Arch
from ddaudit.stats import clopper_pearson

NARROW = {"networks.arch": "ConvNetD2W8", "networks.width": None}
CUT = {
    "ndpdc": {**NARROW, "loop.iterations": 30},
    "psg": {**NARROW, "loop.iterations": 5, "loop.outer": 2, "loop.inner": 2, "loop.repeats": 3},
    "dosser": {
        **NARROW,
        "networks.dims": 16,
        "networks.images": 100,
        "loop.iterations": 120,
        "loop.pool": 30,
    },
}
SETTINGS = {"canaries": 200, "networks": 4, "known": 1000}


@dataclass(frozen=True)
class Audit:
    """One repeat: the claim, the checks that failed, and the bound of every attack by both methods."""

    seed: int
    claimed: float
    failed: list[str]
    bounds: dict[str, float]
    gaussian: dict[str, float]
    seconds: float

    @property
    def accused(self) -> bool:
        """What a report would show in red."""
        return bool(self.failed) or self.bounds["any"] > self.claimed


def cut_down(method: str, *, epsilon: float, delta: float, noise_seed: int | None) -> Recipe:
    """The method with few questions and narrow networks, claiming (epsilon, delta)."""
    claim = {"reader.epsilon": epsilon, "reader.delta": delta, "reader.noise_seed": noise_seed}
    return resolve(method, profile="small", options={**CUT[method], **claim})


def audit(ctx: Context, recipe: Recipe, seed: int) -> Audit:
    """Distil, distil again with canaries, attack, and ask the reader."""
    started = time.perf_counter()
    released = distill(recipe, ctx.data.train, data=ctx.data, ipc=ctx.ipc, seed=seed)
    subject = Subject(id=recipe.name, kind="recipe", recipe=recipe, set=released)
    auditor = Privacy()
    found = auditor.run(subject, ctx, auditor.configure("quick", SETTINGS), seed)
    claimed = found.metric("privacy.epsilon_claimed").value
    assert claimed is not None
    return Audit(
        seed=seed,
        claimed=claimed,
        failed=[c.name for c in found.checks if not c.passed],
        bounds=_bounds(found, "one-run"),
        gaussian=_bounds(found, "one-run-gdp"),
        seconds=time.perf_counter() - started,
    )


def repeat(method: str, options: argparse.Namespace) -> list[Audit]:
    """``options.repeats`` audits of one method."""
    data = load_data("digits")
    preset = PRESETS["quick"].model_copy(update={"victims": 1})
    done = []
    for i in range(options.repeats):
        noise = None if options.noise_seed is None else options.noise_seed + i
        recipe = cut_down(method, epsilon=options.epsilon, delta=options.delta, noise_seed=noise)
        # A context keeps sets and victims: every repeat gets its own.
        ctx = Context(data=data, preset=preset, arch=Arch.parse("ConvNetD2W8"), ipc=1)
        done.append(audit(ctx, recipe, options.first + i))
        print(f"{method} {i + 1}/{options.repeats}: {_line(done[-1])}", file=sys.stderr, flush=True)
    return done


def table(results: dict[str, list[Audit]]) -> list[str]:
    """Markdown: one row per method and attack."""
    rows = [
        "| method | attack | accused | rate (95 % interval) | mean bound | largest | Gaussian bound above |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, audits in results.items():
        for attack in audits[0].bounds:
            values = [a.bounds[attack] for a in audits]
            hits = sum(
                a.accused if attack == "any" else a.bounds[attack] > a.claimed for a in audits
            )
            rate = clopper_pearson(hits, len(audits))
            gaussian = [a.gaussian[attack] > a.claimed for a in audits if attack in a.gaussian]
            name = "all together, and checks" if attack == "any" else attack
            rows.append(
                f"| {method} | {name} | {hits} of {len(audits)} "
                f"| {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}) "
                f"| {mean(values):.3f} | {max(values):.3f} "
                f"| {f'{sum(gaussian)} of {len(gaussian)}' if gaussian else ''} |"
            )
    return rows


def _bounds(found: Finding, method: str) -> dict[str, float]:
    return {
        m.params["adversary"]: m.value or 0.0
        for m in found.metrics
        if m.name == "privacy.epsilon_lower_bound" and m.params["method"] == method
    }


def _line(a: Audit) -> str:
    verdict = f"ACCUSED {a.failed}" if a.accused else "fine"
    return f"{verdict}, bound {a.bounds['any']:.2f} of {a.claimed:.2f}, {a.seconds:.1f} s"


def _plain(a: Audit) -> dict[str, Any]:
    return {**replace(a).__dict__, "accused": a.accused}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the options, run, print, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=",".join(CUT))
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-4)
    parser.add_argument("--first", type=int, default=0, help="seed of the first repeat")
    parser.add_argument("--noise-seed", type=int, help="repeatable noise (otherwise the system's)")
    parser.add_argument("--json", type=Path, help="also write every repeat to this file")
    options = parser.parse_args(arguments)
    results = {}
    with mock.patch.object(accountants, "_prv", side_effect=RuntimeError):
        for method in options.methods.split(","):
            if method in CUT and method in METHODS.names():
                results[method] = repeat(method, options)
            else:
                print(f"{method}: not known here, left out", file=sys.stderr)
    if not results:
        parser.error("no method left to audit")
    print(
        f"# False alarms of the privacy auditor: digits, claim ({options.epsilon:g}, {options.delta:g})\n"
    )
    print("\n".join(table(results)))
    seconds = mean([a.seconds for audits in results.values() for a in audits])
    print(
        f"\n{SETTINGS['canaries']} canaries; {seconds:.1f} s an audit; torch {torch.__version__}."
    )
    if options.json:
        kept = {m: [_plain(a) for a in audits] for m, audits in results.items()}
        what = {
            "epsilon": options.epsilon,
            "delta": options.delta,
            "settings": SETTINGS,
            "cut": CUT,
        }
        options.json.write_text(json.dumps({**what, "audits": kept}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
