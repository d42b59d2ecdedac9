"""Time other people's functions and ours alternately, after checking that both compute the same.

    OMP_NUM_THREADS=1 python -m benchmarks.peers --peer DatasetCondensation=DIR [--peer mtt-distillation=DIR]
                                                 [--rounds 5] [--width 128] [--images 28]

DIR is a checkout of github.com/VICO-UoE/DatasetCondensation or github.com/GeorgeCazenavette/mtt-distillation; nothing
of them is part of this repository. Their steps are inline in scripts, so the lines between their functions (networks,
``match_loss``, ``epoch``, ``ReparamModule``) are written here as there. Shapes are Fashion-MNIST's at 10 images per
class, the pixels random. A row is printed only where both losses agree to 1e-4. Rounds alternate (theirs, ours, theirs,
...) in one process, so that both meet the same load; CPU seconds are the steadier figure on a shared machine. "share"
is our multiplications and additions per CPU second, by those of a large matrix product of the machine.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.costs import processor
from ddaudit.data import Dataset, ImageData
from ddaudit.distillation import Recipe, distill, make_recipe
from ddaudit.distillation.students import unrolled
from ddaudit.models import Arch, Network, build
from ddaudit.training import PROTOCOLS, EvaluationProtocol, reuse_memory, train_many

IPC, CLASSES, AGREE = 10, 10, 1e-4


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: what is timed, once.
        losses: (theirs, ours) on the same tensors.
        theirs, ours: run it ``n`` times and return the CPU and wall seconds of each.
        flops: multiplications and additions of one, times two.
        target: how many times faster ours is to be.
    """

    name: str
    losses: tuple[float, float]
    theirs: Callable[[int], list[tuple[float, float]]]
    ours: Callable[[int], list[tuple[float, float]]]
    flops: float
    target: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peer", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--images", type=int, default=28, help="pixels per side")
    parser.add_argument(
        "--per-class", type=int, default=256, help="real images of a class in a step"
    )
    parser.add_argument("--steps", type=int, default=10, help="of a student of trajectory matching")
    parser.add_argument("--only", default="", help="part of a row's name")
    args = parser.parse_args()
    peers = dict(text.split("=", 1) for text in args.peer)
    rate = matrix_rate()
    print(
        f"{processor()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, Python "
        f"{platform.python_version()}; matrix product of 1024: {rate / 1e9:.0f} GFLOP per CPU second\n"
    )
    print(
        "| step | losses | theirs CPU s | ours CPU s | ratio (target) | theirs wall s | ours wall s | share |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, folder in peers.items():
        for make in CASES[name]:
            if args.only not in make.__name__:
                continue
            with modules_of(Path(folder)) as theirs:
                print(row(make(theirs, args), args.rounds, rate), flush=True)


def row(case: Case, rounds: int, rate: float) -> str:
    """A line of the table; refuses to time what does not compute the same."""
    theirs, ours = case.losses
    if abs(theirs - ours) > AGREE * max(1.0, abs(theirs)):
        return f"| {case.name} | {theirs:.6g}, {ours:.6g}: NOT EQUAL | | | | | | |"
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for _ in range(rounds):
        times[0].extend(case.theirs(1))
        times[1].extend(case.ours(1))
    (a, aw), (b, bw) = ([statistics.median(t[i] for t in side) for i in (0, 1)] for side in times)
    share = case.flops / b / rate
    return (
        f"| {case.name} | {theirs:.5f}, {ours:.5f} | {a:.3f} | {b:.3f} | **{a / b:.2f}x** "
        f"({case.target:g}x) | {aw:.3f} | {bw:.3f} | {share:.0%} |"
    )


def matrix_rate() -> float:
    """Floating-point operations per CPU second of a product of 1024 x 1024 matrices."""
    a = torch.randn(1024, 1024)
    best = 0.0
    for _ in range(8):
        cpu, _ = timed(lambda: [a @ a for _ in range(8)])
        best = max(best, 8 * 2 * 1024**3 / cpu)
    return best


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(CPU, wall) seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def evaluated(loss: Callable[[], Tensor]) -> tuple[float, float]:
    """(a loss, the floating-point operations of making it and its gradient)."""
    with FlopCounterMode(display=False) as counter, reuse_memory():
        total = loss()
        total.backward()
    return float(total.detach()), float(counter.get_total_flops())


@contextmanager
def modules_of(folder: Path) -> Iterator[Any]:
    """A peer's modules by name (``theirs.utils``), importable while this lasts.

    What they import and these steps do not use (plots, old names of scipy) is stood in for.
    """
    stand_ins = {"scipy.ndimage.interpolation": ["rotate"], "kornia": [], "wandb": [], "tqdm": []}
    added = []
    for name, members in stand_ins.items():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            added.append(name)
            for member in members:
                setattr(sys.modules[name], member, None)
    sys.path.insert(0, str(folder))
    names = [file.stem for file in folder.glob("*.py")]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        wanted = ("utils", "networks", "reparam_module")
        yield types.SimpleNamespace(
            **{n: importlib.import_module(n) for n in wanted if (folder / f"{n}.py").exists()}
        )
    finally:
        sys.path.remove(str(folder))
        for name in (*names, *added):
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def their_network(theirs: Any, net: Network, args: argparse.Namespace) -> nn.Module:
    """Their ConvNet with the weights of ours."""
    made: nn.Module = theirs.networks.ConvNet(
        1, CLASSES, args.width, 3, "relu", "instancenorm", "avgpooling", (args.images, args.images)
    )
    for mine, other in zip(made.parameters(), net.body.parameters(), strict=True):
        mine.data.copy_(other.data)
    return made.train()


def our_network(args: argparse.Namespace, seed: int = 0) -> Network:
    return build(
        Arch("convnet", width=args.width), shape=(1, args.images, args.images), num_classes=CLASSES,
        seed=seed, mean=(0.0,), std=(1.0,),
    )  # fmt: skip


def records(args: argparse.Namespace) -> Dataset:
    """Random pixels, as many per class as a step draws, twice over."""
    g = torch.Generator().manual_seed(0)

    def part(count: int) -> ImageData:
        images = torch.randint(0, 256, (count * CLASSES, 1, args.images, args.images), generator=g)
        labels = torch.arange(CLASSES).repeat_interleave(count)
        return ImageData(images.to(torch.uint8), labels, tuple(map(str, range(CLASSES))))

    return Dataset(
        "random pixels", part(2 * args.per_class), part(2), part(2), (0.5,), (0.25,), augment=""
    )


def ours_by_the_step(recipe: Recipe, data: Dataset) -> Callable[[int], list[tuple[float, float]]]:
    """CPU and wall seconds of the last of two steps of a distillation, between its reports of progress."""

    def run(count: int) -> list[tuple[float, float]]:
        marks = []

        def progress(done: int, total: int) -> None:
            marks.append((time.process_time(), time.perf_counter()))

        made = recipe.options({"loop.iterations": 1 + count})
        distill(made, data.train, data=data, ipc=IPC, seed=0, progress=progress)
        return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]

    return run


def batch(data: Dataset) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(real, labels, synthetic, labels), normalised, class after class."""
    each = len(data.train) // CLASSES // 2
    index = torch.cat([c * 2 * each + torch.arange(each) for c in range(CLASSES)])
    real = (data.train.pixels(index) - 0.5) / 0.25
    start = torch.cat([c * 2 * each + each + torch.arange(IPC) for c in range(CLASSES)])
    synthetic = ((data.train.pixels(start) - 0.5) / 0.25).requires_grad_()
    return real, data.train.labels[index], synthetic, data.train.labels[start]


def class_rows(labels: Tensor) -> Tensor:
    one = nn.functional.one_hot(labels, CLASSES).T.float()
    return one / one.sum(1, keepdim=True)


def our_loss(
    recipe: Recipe, net: Network, tensors: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    """A recipe's objective on given tensors."""
    real, y, synthetic, labels = tensors
    objective = recipe.objective
    assert objective is not None
    target = objective.real(net, real, y, class_rows(y)[None])
    made = objective.synthetic(net, synthetic[None], labels, class_rows(labels), None)
    return objective.distance(net, target, made).sum()


def dm_step(theirs: Any, args: argparse.Namespace) -> Case:
    data = records(args)
    tensors, net = batch(data), our_network(args)
    real, y, synthetic, _ = tensors
    optimiser = torch.optim.SGD([synthetic], lr=1.0, momentum=0.5)
    pools = [(y == c).nonzero().squeeze(1) for c in range(CLASSES)]

    def loss(network: Any) -> Tensor:  # ours or theirs: each has its ``embed``
        total = torch.tensor(0.0)
        for c in range(CLASSES):
            seen = real[pools[c][torch.randperm(args.per_class)]]
            own = synthetic[c * IPC : (c + 1) * IPC]
            there, here = network.embed(seen).detach(), network.embed(own)
            total = total + torch.sum((there.mean(0) - here.mean(0)) ** 2)
        return total

    def step() -> None:
        made = their_network(theirs, our_network(args), args)
        for p in made.parameters():
            p.requires_grad_(False)
        total = loss(made)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()

    sizes = {"networks.width": args.width, "reader.per_class": args.per_class}
    recipe = replace(make_recipe("dm", profile="paper", options=sizes), augment="")
    mine, flops = evaluated(lambda: our_loss(recipe, net, tensors))
    both = (float(loss(their_network(theirs, net, args)).detach()), mine)
    return Case(
        f"DM step, {args.per_class} real and 10 synthetic images a class", both, repeated(step),
        ours_by_the_step(recipe, data), flops, 2.5,
    )  # fmt: skip


def dc_step(theirs: Any, args: argparse.Namespace) -> Case:
    data = records(args)
    tensors, net = batch(data), our_network(args)
    real, y, synthetic, labels = tensors
    optimiser = torch.optim.SGD([synthetic], lr=0.1, momentum=0.5)
    criterion = nn.CrossEntropyLoss()
    how = types.SimpleNamespace(device="cpu", dis_metric="ours")

    def loss(network: nn.Module) -> Tensor:
        total, weights = torch.tensor(0.0), list(network.parameters())
        for c in range(CLASSES):
            at = slice(c * args.per_class, (c + 1) * args.per_class)
            own = slice(c * IPC, (c + 1) * IPC)
            aims = torch.autograd.grad(criterion(network(real[at]), y[at]), weights)
            there = [g.detach().clone() for g in aims]
            here = torch.autograd.grad(
                criterion(network(synthetic[own]), labels[own]), weights, create_graph=True
            )
            total = total + theirs.utils.match_loss(here, there, how)
        return total

    def step() -> None:
        total = loss(their_network(theirs, our_network(args), args))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()

    options = {
        "networks.width": args.width,
        "reader.per_class": args.per_class,
        "loop.outer": 1,
        "loop.inner": 0,
    }
    recipe = make_recipe("dc", profile="paper", options=options)
    mine, flops = evaluated(lambda: our_loss(recipe, net, tensors))
    both = (float(loss(their_network(theirs, net, args)).detach()), mine)
    return Case(
        f"DC matching step, {args.per_class} real and 10 synthetic images a class", both, repeated(step),
        ours_by_the_step(recipe, data), flops, 2.0,
    )  # fmt: skip


def victim_step(theirs: Any, args: argparse.Namespace) -> Case:
    data = records(args)
    _, _, synthetic, labels = batch(data)
    x = synthetic.detach()
    pixels = x * 0.25 + 0.5
    how = types.SimpleNamespace(device="cpu", dsa=False)
    criterion = nn.CrossEntropyLoss()
    protocol = replace(PROTOCOLS["dc"], augment="", epochs_plain=1000)

    def start() -> tuple[nn.Module, torch.optim.Optimizer, DataLoader[Any]]:
        made = their_network(theirs, our_network(args), args)
        optimiser = torch.optim.SGD(made.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        return made, optimiser, DataLoader(TensorDataset(x, labels), batch_size=256, shuffle=True)

    def train(steps: int | None, how: EvaluationProtocol = protocol) -> Network:
        (made,) = train_many(
            [(pixels, labels)], arch=Arch("convnet", width=args.width), num_classes=CLASSES, mean=(0.5,),
            std=(0.25,), protocol=replace(how, max_steps=steps), seeds=[0],
        )  # fmt: skip
        return made

    made, optimiser, loader = start()
    for _ in range(3):
        theirs.utils.epoch("train", loader, made, optimiser, criterion, how, aug=False)
    taught = train(None, replace(protocol, epochs_plain=2))  # three passes, and no cut of the rate
    with torch.no_grad():
        both = (float(criterion(made(x), labels)), float(criterion(taught(pixels), labels)))

    def step() -> None:
        theirs.utils.epoch("train", loader, made, optimiser, criterion, how, aug=False)

    def ours(count: int) -> list[tuple[float, float]]:
        few, many = timed(lambda: train(2)), timed(lambda: train(2 + 4 * count))
        return [((many[0] - few[0]) / (4 * count), (many[1] - few[1]) / (4 * count))]

    net = our_network(args)
    _, flops = evaluated(lambda: criterion(net(pixels), labels))
    return Case("victim training step, batch of 100", both, repeated(step), ours, flops, 2.0)


def mtt_step(theirs: Any, args: argparse.Namespace) -> Case:
    data = records(args)
    _, _, synthetic, labels = batch(data)
    start, goal = our_network(args), our_network(args, seed=1)
    for p, q in zip(goal.body.parameters(), start.body.parameters(), strict=True):
        p.data = q.data + 0.01 * p.data
    criterion = nn.CrossEntropyLoss()
    begin = torch.cat([p.detach().reshape(-1) for p in start.body.parameters()])
    end = torch.cat([p.detach().reshape(-1) for p in goal.body.parameters()])
    rate = torch.tensor(0.01, requires_grad=True)

    def loss(network: nn.Module) -> Tensor:
        at = begin.clone().requires_grad_()
        for _ in range(args.steps):
            taught = criterion(network(synthetic, flat_param=at), labels)
            at = at - rate * torch.autograd.grad(taught, at, create_graph=True)[0]
        missing = nn.functional.mse_loss(at, end, reduction="sum")
        return missing / nn.functional.mse_loss(begin, end, reduction="sum")

    def student() -> nn.Module:
        made: nn.Module = theirs.reparam_module.ReparamModule(their_network(theirs, start, args))
        return made

    def lesson(at: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(start.body, dict(at), (x,)), y)

    def our() -> Tensor:
        points = [{n: p.detach() for n, p in net.body.named_parameters()} for net in (start, goal)]
        for p in points[0].values():
            p.requires_grad_(True)
        lessons = [lesson] * args.steps
        return unrolled(lessons, synthetic, labels, rate, start=points[0], goal=points[1])

    def step_ours() -> None:
        with reuse_memory():
            our().backward()

    mine, flops = evaluated(our)
    both = (float(loss(student()).detach()), mine)
    return Case(
        f"MTT step, {args.steps} steps of a student on 100 images", both,
        repeated(lambda: loss(student()).backward()), repeated(step_ours), flops, 1.5,
    )  # fmt: skip


def repeated(step: Callable[[], object]) -> Callable[[int], list[tuple[float, float]]]:
    return lambda count: [timed(step) for _ in range(count)]


CASES: dict[str, tuple[Callable[[Any, argparse.Namespace], Case], ...]] = {
    "DatasetCondensation": (dm_step, dc_step, victim_step),
    "mtt-distillation": (mtt_step,),
}


if __name__ == "__main__":
    main()
