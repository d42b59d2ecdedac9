"""One engine that trains many small networks: victims, shadows and evaluation pools.

A network's result depends on its own set and seed, never on its neighbours or on the strategy
picked (within floating-point tolerance). Arithmetic is float32 throughout; TF32 is switched off
while training on CUDA.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from ddaudit.models import Arch, Network, build
from ddaudit.training._data import Pool, check_set, pixels
from ddaudit.training._memory import reuse_memory
from ddaudit.training._plan import Plan, plan
from ddaudit.training._steps import Compiled, train_loop, train_stacked
from ddaudit.training.protocols import EvaluationProtocol

log = logging.getLogger(__name__)

Strategy = Literal["auto", "loop", "compiled", "stacked"]


def train_many(
    sets: Sequence[tuple[Tensor, Tensor]],
    *,
    arch: Arch,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    protocol: EvaluationProtocol,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    strategy: Strategy = "auto",
) -> list[Network]:
    """Train one network per (set, seed) pair.

    Args:
        sets: (images, labels) each: images (M, C, H, W) float pixels in [0, 1] or uint8, labels
            (M,) int64 or (M, num_classes) float distributions. Sets may differ in size; the same
            tensors may appear many times.
        arch: architecture of all networks.
        mean: per-channel normalisation mean; ``std`` likewise.
        protocol: how to train, with its augmentation resolved (``protocol.for_data(...)``).
        seeds: one per set: initialisation, data order and augmentation of that network.
        device: where to train and where the networks are left.
        strategy: "loop" one at a time, "compiled" one at a time through torch.compile, "stacked"
            all at once through torch.func; "auto" picks by device and size. Each network's
            ``trained_with`` says which ran.

    Returns:
        One network per pair, in order, in eval mode on ``device``.

    Raises:
        BadInput: images, labels or architecture do not fit each other.
    """
    if len(sets) != len(seeds):
        raise ValueError(f"{len(sets)} sets but {len(seeds)} seeds")
    device = torch.device(device)
    for images, labels in sets:
        check_set(images, labels, num_classes)
    networks = [
        build(arch, shape=_shape(x), num_classes=num_classes, seed=s, mean=mean, std=std).to(device)
        for (x, _), s in zip(sets, seeds, strict=True)
    ]
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for k, (x, y) in enumerate(sets):
        groups[(tuple(x.shape), x.dtype == torch.uint8, y.ndim)].append(k)
    with _exact_float32(device), reuse_memory():
        for members in groups.values():
            chosen = plan(
                strategy, networks[members[0]], count=len(members), size=len(sets[members[0]][0]),
                protocol=protocol, device=device,
            )  # fmt: skip
            log.info(
                "training %d x %s as %s: %s", len(members), arch, chosen.strategy, chosen.reason
            )
            _run(
                chosen,
                [networks[k] for k in members],
                [sets[k] for k in members],
                [seeds[k] for k in members],
                protocol=protocol,
                mean=mean,
                std=std,
                device=device,
            )
    return networks


def predict(
    network: Network,
    images: Tensor,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 512,
) -> Tensor:
    """Logits in eval mode, without gradients.

    Args:
        network: any Network; its training flag is put back afterwards.
        images: (N, C, H, W) float pixels in [0, 1] or uint8.
        device: None for where the network is; else the network is moved there.
        batch_size: images at a time.

    Returns:
        (N, K) float32 on the CPU.
    """
    if device is not None:
        network.to(device)
    logits = torch.empty(len(images), network.num_classes)
    training = network.training
    network.eval()
    with torch.inference_mode(), reuse_memory():
        for i in range(0, len(images), batch_size):
            batch = pixels(images[i : i + batch_size].to(network.device))
            logits[i : i + batch_size] = network(batch).cpu()
    network.train(training)
    return logits


def _run(
    chosen: Plan,
    networks: list[Network],
    sets: list[tuple[Tensor, Tensor]],
    seeds: list[int],
    *,
    protocol: EvaluationProtocol,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> None:
    """Carry out a plan on networks whose sets are alike in shape, size and kind of labels."""
    used = chosen.strategy
    compiled = None
    if used == "compiled":
        try:
            compiled = Compiled(networks[0], batch=min(protocol.batch_size, len(sets[0][0])))
        except Exception as error:  # compilers fail in as many ways as there are compilers
            log.warning(
                "torch.compile failed (%s), training in a loop", str(error).splitlines()[:1]
            )
            used = "loop"
    for at in range(0, len(networks), chosen.chunk):
        part = slice(at, at + chosen.chunk)
        pool = Pool.of(sets[part], mean=mean, std=std, device=device)
        if used == "stacked":
            train_stacked(networks[part], pool, seeds=seeds[part], protocol=protocol)
        elif compiled is not None:
            compiled.train(networks[at], pool, seed=seeds[at], protocol=protocol)
        else:
            train_loop(networks[at], pool, seed=seeds[at], protocol=protocol)
    for network in networks:
        network.trained_with = used


def _shape(images: Tensor) -> tuple[int, int, int]:
    c, h, w = images.shape[1:]
    return int(c), int(h), int(w)


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Full float32 products on CUDA: with TF32 a network would depend on the card it met."""
    if device.type != "cuda":
        yield
        return
    old = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = old
