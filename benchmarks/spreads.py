"""How far apart do draws of ``random`` lie, and networks trained on one draw? Measured, for ``benchmarks.worlds``.

    OMP_NUM_THREADS=1 python -m benchmarks.spreads [--data digits-colored:bias=0.5] [--draws 8] [--victims 6]

Networks are trained as the quick preset trains them, and all answer the same records. What finitely many records add
to a spread is taken out again (mean squares of the layout draws x networks x records), and rates become the logits,
areas the sigmas of separation that the simulation moves.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import torch
from torch import Tensor

from ddaudit.attacks._common.signals import negative_loss
from ddaudit.auditing import PRESETS, Context, Subject
from ddaudit.data import load_data
from ddaudit.distillation import make_recipe
from ddaudit.distillation.networks import fit
from ddaudit.models import Arch

ATTENUATION = 0.66
"""Slope of a rate p in the logit of its mean record over p (1 - p), where difficulty spreads by 1.6 logits."""
MIDDLE = (0.1, 0.9)
"""Cells (group, class) with a rate in between have a logit worth measuring."""


def spreads(x: Tensor) -> tuple[float, float]:
    """Variances of the effects of draws and of networks on the mean of a (D, V, N) table; below 0 by chance."""
    _, v, n = x.shape
    networks = float(x.mean(2).var(1).mean())
    rest = sum(_rest(one) for one in x) / len(x)
    victim = networks - rest / n
    by_draw = x.mean(1)
    return float(by_draw.mean(1).var()) - _rest(by_draw) / n - victim / v, victim


def _rest(table: Tensor) -> float:
    """Variance of a (R, N) table beyond its rows and columns."""
    rest = table - table.mean(1, keepdim=True) - table.mean(0) + table.mean()
    return float((rest**2).sum()) / ((len(table) - 1) * (table.shape[1] - 1))


def separations(inside: list[Tensor], outside: Tensor) -> tuple[float, float, float]:
    """Mean, and variances of draws and of networks, of how far members' scores lie apart, in sigmas.

    Args:
        inside: by draw, (V, M) scores of its members.
        outside: (D, V, N) scores of records that no draw holds.
    """
    above = torch.stack(
        [
            torch.stack([_above(s, t) for s, t in zip(*both, strict=True)])
            for both in zip(inside, outside, strict=True)
        ]
    )  # (D, V, M) placements of members
    below = torch.stack(
        [
            torch.stack([1 - _above(t, s) for s, t in zip(*both, strict=True)])
            for both in zip(inside, outside, strict=True)
        ]
    )  # (D, V, N) of the others
    areas, (d, v, m), n = above.mean(2), above.shape, below.shape[2]
    rest = sum(_rest(a) / m + _rest(b) / n for a, b in zip(above, below, strict=True)) / d
    victim = float(areas.var(1).mean()) - rest
    # Every draw has members of its own; the others are the same for all.
    records = float(above.mean(1).var(1).mean()) / m + _rest(below.mean(1)) / n
    draw = float(areas.mean(1).var()) - records - victim / v
    normal = torch.distributions.Normal(0.0, 1.0)
    apart = math.sqrt(2) * float(normal.icdf(areas.mean()))
    slope = float(normal.log_prob(torch.tensor(apart / math.sqrt(2))).exp()) / math.sqrt(2)
    return apart, draw / slope**2, victim / slope**2


def _above(scores: Tensor, among: Tensor) -> Tensor:
    """(M,) share of ``among`` below each score, ties one half."""
    ranked = torch.sort(among).values
    low, high = (torch.searchsorted(ranked, scores, right=right) for right in (False, True))
    return (low + high).double() / (2 * len(among))


def measure(data: str, *, draws: int, victims: int, ipc: int) -> str:
    """The lines to print."""
    real = load_data(data)
    preset = PRESETS["quick"].model_copy(update={"victims": victims})
    arch = fit(replace(Arch.parse("ConvNet"), width=32), real.shape)
    ctx = Context(real, preset, arch, ipc=ipc)
    recipe = make_recipe("random", profile="small", epsilon=None, delta=None, options={})
    subject = Subject("random", "recipe", recipe, identity="random")
    test = real.extra.get("test_paired", real.test)
    answers: list[Tensor] = []
    inside: list[Tensor] = []
    outside: list[Tensor] = []
    for seed in range(draws):
        nets = ctx.victims(subject, seed)
        answers.append(torch.stack([ctx.predict(net, test.images) for net in nets]))
        members = real.train.subset(torch.tensor(ctx.distilled(subject, seed).card.member_indices))
        for records, out in ((members, inside), (real.test, outside)):
            scores = [
                negative_loss(ctx.predict(net, records.images), records.labels) for net in nets
            ]
            out.append(torch.stack(scores))
    logits = torch.stack(answers)  # (D, V, N, K)
    hits = (logits.argmax(3) == test.labels).double()
    sure = logits.double().softmax(3).amax(3)
    rate = float(hits.mean())
    lines = [
        _line("accuracy", rate, spreads(hits), ATTENUATION * rate * (1 - rate)),
        _line("over-confidence", float((sure - hits).mean()), spreads(sure - hits), float((sure * (1 - sure)).mean())),
    ]  # fmt: skip
    if test.groups is not None:
        lines.append(_cells(hits, test.groups * real.num_classes + test.labels))
    apart, *both = separations(inside, torch.stack(outside))
    lines.append(_line("separation of members", apart, (both[0], both[1]), 1.0))
    return "\n".join(lines)


def _cells(hits: Tensor, cell: Tensor) -> str:
    """Beyond what moves all cells of a draw or of a network alike."""
    found = []
    apart = hits - hits.mean(2, keepdim=True)
    for c in torch.unique(cell).tolist():
        rate = float(hits[:, :, cell == c].mean())
        if MIDDLE[0] <= rate <= MIDDLE[1]:
            slope = ATTENUATION * rate * (1 - rate)
            found.append([v / slope**2 for v in spreads(apart[:, :, cell == c])])
    draw, victim = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    return _line(f"rates of {len(found)} cells", float(hits.mean()), (draw, victim), 1.0)


def _line(name: str, value: float, variances: tuple[float, float], slope: float) -> str:
    draw, victim = (math.sqrt(max(v, 0.0)) for v in variances)
    moved = f"{draw / slope:.2f} and {victim / slope:.2f}"
    return f"{name:<24} {value:.3f}: draws {draw:.3f}, networks {victim:.3f}; moved {moved}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="digits-colored:bias=0.5")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--victims", type=int, default=6)
    parser.add_argument("--ipc", type=int, default=10)
    args = parser.parse_args()
    print(measure(args.data, draws=args.draws, victims=args.victims, ipc=args.ipc))


if __name__ == "__main__":
    main()
