"""AutoAttack standard: ours against torchattacks' classes and, by path, the authors' repository, at equal steps.

    python benchmarks/autoattack.py --data-root DIR [--images 500] [--eps 1 2 4 8] [--reference DIR]

The victim is a ConvNet-3 (``--width``) trained on random Fashion-MNIST images of each class. All three run in one
process, one after the other on the same images, and are judged by the same verification. ``--reference`` is a checkout
of github.com/fra31/auto-attack. Prints a table for benchmarks/RESULTS.md; CPU seconds are what other work on the
machine disturbs least.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.execution import classify, verify
from ddaudit.attacks.adversarial.suite import autoattack
from ddaudit.attacks.adversarial.torchattacks_adapter import library_autoattack
from ddaudit.auditing import PRESETS, Context, recipe_subject, stratified
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import make_recipe
from ddaudit.models import Arch

Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def victim(data: Dataset, *, width: int, ipc: int) -> nn.Module:
    """A network trained under the quick protocol on random real images."""
    preset = PRESETS["quick"].model_copy(update={"victims": 1})
    arch = replace(Arch.parse("ConvNet"), width=width)
    ctx = Context(data=data, preset=preset, arch=arch, ipc=ipc)
    return ctx.victims(recipe_subject(make_recipe("random", profile="small")), 0)[0]


def contenders(args: argparse.Namespace) -> dict[str, Attack]:
    """Name -> (N,) bool of the images that stand."""

    def ours(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return autoattack(net, x, y, eps=eps, steps=args.steps, queries=args.queries).survived

    def library(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return library_autoattack(
            net, x, y, eps=eps, steps=args.steps, queries=args.queries
        ).survived

    def reference(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        from autoattack import AutoAttack  # type: ignore[import-not-found]

        aa = AutoAttack(net, norm="Linf", eps=eps, seed=0, verbose=False, device="cpu")
        for part in (aa.apgd, aa.apgd_targeted):
            part.n_iter, part.n_iter_orig = args.steps, args.steps
            part.n_iter_2, part.n_iter_min, part.size_decr = (
                max(int(f * args.steps), 1) for f in (0.22, 0.06, 0.03)
            )
        aa.fab.n_iter, aa.square.n_queries = args.steps, args.queries
        made = aa.run_standard_evaluation(x.clone(), y, bs=256)
        valid = verify(x, made, eps=eps, norm="Linf")
        return (classify(net, x) == y) & ~(valid & (classify(net, made) != y))

    found: dict[str, Attack] = {"ours": ours, "torchattacks": library}
    if args.reference:
        sys.path.insert(0, str(args.reference))
        found["fra31/auto-attack"] = reference
    return found


def main() -> None:
    """Measure and print one row per (radius, implementation)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--eps", type=float, nargs="+", default=[2, 8], help="grey levels of 255")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--queries", type=int, default=5000)
    args = parser.parse_args()
    data = load_data("fashion-mnist", root=args.data_root)
    net = victim(data, width=args.width, ipc=args.ipc)
    test = stratified(data.test, args.images)
    x, y = test.pixels(), test.labels
    clean = float((classify(net, x) == y).double().mean())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), Fashion-MNIST, {len(test)} images, "
        f"ConvNet-3 width {args.width} trained on {args.ipc} images a class, clean {clean:.3f}, {args.steps} steps, "
        f"{args.queries} queries\n\n"
        "| eps | implementation | robust accuracy | differs from ours on | CPU s | times ours |\n"
        "|---|---|---|---|---|---|"
    )
    for grey in args.eps:
        first: tuple[Tensor, float] | None = None
        for name, attack in contenders(args).items():
            began = time.process_time()
            stands = attack(net, x, y, grey / 255)
            spent = time.process_time() - began
            first = first or (stands, spent)
            base, seconds = first
            differ = int((stands != base).sum())
            print(
                f"| {grey:g}/255 | {name} | {float(stands.double().mean()):.4f} | {differ} images | {spent:.1f} | "
                f"{spent / seconds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
