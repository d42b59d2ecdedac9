"""What drawing noise again costs: a noisy answer that is drawn k times, audited by what the product audits with.

    DDAUDIT_DATA=... python benchmarks/renoising.py --data fashion-mnist --records 2000 --write FILE.json

A schedule asks P questions about private data, keeps the *clean* sums, and draws fresh noise at each of k * P
optimisation steps, while its accountant counts P noisy answers. It is our own re-implementation, for measurement
only; the product's private source stores the noisy answer and has no such mode. The audit plants canaries, lets an
attacker see every noisy answer of the run (what the accountant's statement covers) or the final images alone, and
bounds epsilon from below with 95 % confidence.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddaudit.attacks._common.releases import Observed, Release
from ddaudit.attacks.privacy.adversaries import LinearEvidence, score_final_set
from ddaudit.attacks.privacy.bound import bound
from ddaudit.attacks.privacy.canaries import plant
from ddaudit.auditing import stratified
from ddaudit.data import ImageData, load_data
from ddaudit.defenses.privacy.accounting import epsilon
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation import Recipe, distill, resolve
from ddaudit.distillation.networks import Fresh, fit
from ddaudit.models import build

SHARES = ((0.4, 0.4), (0.1, 0.1), (0.05, 0.0))


class RedrawnGate(PrivateSource):
    """Stores clean sums and draws noise at every use; its ledger counts every sum once."""

    noise: float = 0.0

    def plan(self, plan: Plan) -> PrivateSource:
        self.noise = plan.sigma
        return super().plan(replace(plan, sigma=0.0))

    def noisy_sum(self, query_id: str, signals: Any, rows: Any) -> Tensor:
        clean = super().noisy_sum(query_id, signals, rows)
        return self._noisy(clean, self.noise * self._planned().clip)

    def ledger(self, name: str) -> list[Any]:
        return [e.model_copy(update={"sigma": self.noise}) for e in super().ledger(name)]


@dataclass(frozen=True)
class Redrawn(PoissonGaussian):
    """The private reader with that gate behind it."""

    def gate(self, data: ImageData, members: Tensor) -> PrivateSource:
        return RedrawnGate(data, members, noise_seed=self.noise_seed)


class MeanOfDraws:
    """An observer that averages the answers to each question: the attacker's sufficient statistic."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Release, Tensor, int]] = {}

    def __call__(self, release: Release) -> None:
        question, values = release.query.id, release.values[0]
        first, total, count = self.seen.get(question, (release, 0 * values, 0))
        self.seen[question] = (first, total + values, count + 1)

    def scores(self, canaries: ImageData, known: ImageData) -> Tensor:
        """(m,) evidence that each canary is in the pool."""
        evidence: LinearEvidence | None = None
        for release, total, count in self.seen.values():
            weights = release.rows(known)
            evidence = evidence or LinearEvidence(len(canaries), len(weights))
            share = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
            evidence.add(
                release.signals(canaries),
                release.rows(canaries),
                total / count,
                share @ release.signals(known),
            )
        assert evidence is not None
        return evidence.scores()


def audit(recipe: Recipe, data: Any, args: argparse.Namespace, *, seed: int) -> dict[str, float]:
    """One run with canaries: the claim, what the schedule really proves, and the lower bounds."""
    generator = torch.Generator().manual_seed(seed)
    pool = stratified(data.train, args.records)
    planted = plant(pool, count=args.canaries, kinds=("mislabelled",), generator=generator)
    observer = MeanOfDraws()
    watched = replace(recipe, reader=Observed(recipe.reader, observer))  # type: ignore[arg-type]
    made = distill(watched, planted.pool, data=data, ipc=args.ipc, seed=seed)
    claim = made.card.privacy
    assert claim is not None
    draws = [count for _, _, count in observer.seen.values()]
    really = [e.model_copy(update={"sigma": e.sigma / max(draws) ** 0.5}) for e in claim.ledger]
    channels = data.shape[0]
    arch = fit(Fresh("ConvNet", args.width).resolve(), data.shape)
    nets = [
        build(arch, shape=data.shape, num_classes=data.num_classes, seed=10_000 * seed + i,
              mean=(0.5,) * channels, std=(0.5,) * channels).eval()
        for i in range(args.networks)
    ]  # fmt: skip
    scores = {
        "every answer": observer.scores(planted.records, planted.base),
        "final images": score_final_set(made, planted.records, planted.base, networks=nets),
    }
    row = {
        "claimed": claim.epsilon,
        "draws": statistics.mean(draws),
        "most_draws": max(draws),
        "transcript": epsilon(really, claim.delta),
        "sigma": claim.ledger[-1].sigma,
        "q": claim.ledger[-1].q,
    }
    for name, values in scores.items():
        found = bound(values, planted.included, shares=SHARES, delta=claim.delta)
        row |= {name: found.epsilon, f"{name}, Gaussian": found.epsilon_gdp}
    return row


def main() -> None:
    """Measure each schedule and print one markdown row per (schedule, how noise is drawn)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--records", type=int, default=1200)
    parser.add_argument("--canaries", type=int, default=300)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--redraws", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    data = load_data(args.data)
    rows = []
    print(
        "| noise | steps per question | claimed | proven for the run | every answer | final images | s |"
    )
    print("|---|---|---|---|---|---|---|")
    for redraws in args.redraws:
        for kind in (PoissonGaussian, Redrawn):
            recipe = resolve(
                "dosser",
                profile="small",
                options={
                    "loop.pool": args.questions,
                    "loop.iterations": args.questions * redraws,
                    "networks.width": args.width,
                },
            )
            reader = kind(epsilon=args.epsilon, delta=args.delta, clip=1.0, batch=50, scale="sum")
            recipe = replace(recipe, reader=reader)
            start = time.perf_counter()
            found = [audit(recipe, data, args, seed=s) for s in range(args.seeds)]
            seconds = (time.perf_counter() - start) / args.seeds
            noise = "once, stored" if kind is PoissonGaussian else "drawn at every step"
            mean = {k: statistics.mean(r[k] for r in found) for k in found[0]}

            def show(name: str, found: list[dict[str, float]] = found) -> str:
                return "; ".join(f"{r[name]:.2f} ({r[f'{name}, Gaussian']:.2f})" for r in found)

            print(
                f"| {noise} | {redraws} | {mean['claimed']:.2f} | {mean['transcript']:.1f} | "
                f"{show('every answer')} | {show('final images')} | {seconds:.0f} |",
                flush=True,
            )
            rows.append({"noise": noise, "redraws": redraws, "seeds": found})
    if args.write:
        args.write.write_text(
            json.dumps({"settings": vars(args) | {"write": None}, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
