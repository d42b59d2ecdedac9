"""The loops behind ``train_many``: one network at a time (plain or compiled), or K stacked."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from ddaudit.models import Body, Network
from ddaudit.seeds import stable_seed
from ddaudit.training._data import Pool, generator, orders
from ddaudit.training._sharpness import sharpness_aware
from ddaudit.training.augment import AugmentParams, apply, concatenate, draw
from ddaudit.training.losses import loss, stored_targets, to_uniform
from ddaudit.training.protocols import EvaluationProtocol, Schedule
from ddaudit.training.views import (
    Replay,
    Views,
    apply_views,
    crop_and_flip,
    draw_views,
    mix_labels,
    paste,
    stack_views,
)

Forward = Callable[[Tensor], Tensor]
AfterChunk = Callable[[int, Sequence[Mapping[str, Tensor]]], None]
"""Called with the passes done, from 0, and every network's named parameters."""


@dataclass(frozen=True, eq=False)
class Beside:
    """What a set brings beside images and labels, on the device of training.

    Attributes:
        store: views and labels to replay, or None.
        outliers: a pool of images that the network should be unsure of (its labels are not read).
        shift: (K,) constants added to the logits of labelled images, or None.
        tilt: (K,) weights of the classes at the end, or None.
    """

    store: Replay | None = None
    outliers: Pool | None = None
    shift: Tensor | None = None
    tilt: Tensor | None = None


def train_loop(
    network: Network,
    pool: Pool,
    *,
    seed: int,
    protocol: EvaluationProtocol,
    beside: Beside,
    after: AfterChunk | None = None,
) -> None:
    """Train one network in place on a pool of one set."""
    network.train()
    _train_body(
        network.body, network.body, pool, seed=seed, protocol=protocol, beside=beside, after=after
    )
    network.eval()


class Compiled:
    """A compiled copy of a body that trains many networks of its kind: compiling is paid for once.

    Raises:
        Exception: whatever the compiler raised; the caller falls back to the loop.
    """

    def __init__(self, like: Network, *, batch: int) -> None:
        self.body = copy.deepcopy(like.body).train()
        self.batch = batch
        # All bodies share one code object, and after eight variants of it the compiler would silently give up.
        torch.compiler.reset()
        self._compiled: Forward = torch.compile(self.body, dynamic=False)
        probe = torch.zeros(batch, *like.shape, device=like.device)
        self._compiled(probe).sum().backward()

    def __call__(self, x: Tensor) -> Tensor:
        # The smaller last batch of a pass would be compiled a second time for a fraction of the
        # steps.
        return self._compiled(x) if len(x) == self.batch else self.body(x)

    def train(
        self,
        network: Network,
        pool: Pool,
        *,
        seed: int,
        protocol: EvaluationProtocol,
        beside: Beside,
        after: AfterChunk | None = None,
    ) -> None:
        """Train one network in place on a pool of one set."""
        self.body.load_state_dict(network.body.state_dict())
        _train_body(self.body, self, pool, seed=seed, protocol=protocol, beside=beside, after=after)
        network.body.load_state_dict(self.body.state_dict())
        network.eval()


def train_stacked(
    networks: Sequence[Network],
    pool: Pool,
    *,
    seeds: Sequence[int],
    protocol: EvaluationProtocol,
    after: AfterChunk | None = None,
) -> None:
    """Train K networks in place and at once: one vectorised step for all of them.

    The loss is the sum of the K mean losses, so each network sees its own gradient only.
    """
    strategy = protocol.augment or ""
    batches = orders(
        seeds, size=pool.size, batch_size=protocol.batch_size, device=pool.images.device
    )
    augments = [generator(seed, "augment") for seed in seeds]
    looks = [generator(seed, "views") for seed in seeds]
    params, buffers = stack_module_state([n.body for n in networks])
    template: nn.Module = networks[0].body.train()

    def call(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(template, (p, b), (x,))
        return logits

    stacked = torch.vmap(call)

    def loss_at(index: Tensor, _step: int) -> Callable[[], Tensor]:
        x, y = pool.batch(index)
        size = x.shape[1]
        views = stack_views([_draw_views(protocol, g, size, x.shape) for g in looks], size)
        x = apply_views(x.flatten(0, 1), views).view_as(x)
        x = _augment_stack(x, [draw(strategy, g, size, shape=x.shape) for g in augments])
        wanted = mix_labels(y.flatten(0, 1), views, shape=x.shape)

        def total() -> Tensor:
            logits = stacked(params, buffers, x).flatten(0, 1)
            return loss(logits, wanted, protocol, reduction="sum") / size

        return total

    def tell(passes: int, values: Sequence[Tensor]) -> None:
        if after is not None:
            named = _named(params, values)
            after(passes, [{n: p[k] for n, p in named.items()} for k in range(len(networks))])

    schedule = protocol.schedule(pool.size)
    leaves = [p for p in params.values() if p.requires_grad]
    _descend(leaves, loss_at, batches, protocol, schedule, after=tell, stacked=True)
    with torch.no_grad():
        for k, network in enumerate(networks):
            for name, value in network.body.named_parameters():
                value.copy_(params[name][k])
            network.eval()


def _train_body(
    body: Body,
    forward: Forward,
    pool: Pool,
    *,
    seed: int,
    protocol: EvaluationProtocol,
    beside: Beside,
    after: AfterChunk | None,
) -> None:
    strategy = protocol.augment or ""
    device = pool.images.device
    batches = orders([seed], size=pool.size, batch_size=protocol.batch_size, device=device)
    augment, look = generator(seed, "augment"), generator(seed, "views")
    robust, attacks = protocol.robust, generator(seed, "attacks")
    outlying = _outlying(forward, beside.outliers, protocol, seed=seed)
    schedule = protocol.schedule(pool.size)

    def loss_at(index: Tensor, step: int) -> Callable[[], Tensor]:
        if protocol.labels == "store":
            assert beside.store is not None, "checked by train_many"
            epoch = (step - 1) // schedule.per_epoch
            x, y = _replayed(pool, beside.store, index[0], epoch, protocol)
        else:
            x, y = (part[0] for part in pool.batch(index))
            views = _draw_views(protocol, look, len(x), x.shape)
            x, y = apply_views(x, views), mix_labels(y, views, shape=x.shape)
            x = apply(x, draw(strategy, augment, len(x), shape=x.shape))
        seen, aim = x, y
        if robust is not None:
            aim = y.argmax(1) if protocol.loss == "mse" and y.ndim == 2 else y
            seen = robust.see(body, x, aim, mean=pool.mean, std=pool.std, generator=attacks)

        def said(images: Tensor) -> Tensor:
            return forward(images) if beside.shift is None else forward(images) + beside.shift

        def total() -> Tensor:
            attacked = said(seen)
            logits = said(x) if robust is not None and robust.trades else attacked
            weight = None
            if beside.tilt is not None:
                weight = 1 + (beside.tilt - 1) * (step / schedule.steps) ** 2
            sum_ = loss(logits, y, protocol, weight=weight)
            if robust is not None:
                sum_ = sum_ + robust.added(body, x, aim, logits, attacked)
            if protocol.hard_weight > 0:
                own = pool.batch(index)[1][0]
                own = own.argmax(1) if own.ndim == 2 else own
                sum_ = sum_ + protocol.hard_weight * F.cross_entropy(logits, own)
            return sum_ if outlying is None else sum_ + protocol.outlier_weight * outlying()

        return total

    def tell(passes: int, values: Sequence[Tensor]) -> None:
        if after is not None:
            after(passes, [_named(dict(body.named_parameters()), values)])

    leaves: list[Tensor] = [p for p in body.parameters() if p.requires_grad]
    _descend(leaves, loss_at, batches, protocol, schedule, after=tell)
    body.zero_grad(set_to_none=True)


def _replayed(
    pool: Pool, store: Replay, index: Tensor, epoch: int, protocol: EvaluationProtocol
) -> tuple[Tensor, Tensor]:
    """The stored views (B, C, H, W) of the images at ``index`` (B,), and the targets stored with them."""
    e = epoch % len(store.boxes)

    def seen(which: Tensor) -> Tensor:
        images, _ = pool.batch(which[None])
        return crop_and_flip(images[0], store.boxes[e, which], store.flips[e, which])

    x = seen(index)
    if store.partners is not None and store.patches is not None:
        x = paste(x, seen(store.partners[e, index].long()), store.patches[e, index])
    return x, stored_targets(store.logits[e, index], protocol)


def _outlying(
    forward: Forward, pool: Pool | None, protocol: EvaluationProtocol, *, seed: int
) -> Callable[[], Tensor] | None:
    """The loss on the next batch of outliers, seen as the protocol sees images but for mixtures; None without."""
    if pool is None or protocol.outlier_weight == 0:
        return None
    device, strategy = pool.images.device, protocol.augment or ""
    size = min(protocol.batch_size, pool.size)
    batches = orders(
        [stable_seed(seed, "outliers")], size=pool.size, batch_size=size, device=device
    )
    augment, look = generator(seed, "outliers"), generator(seed, "outlier views")

    def next_loss() -> Tensor:
        x = pool.batch(next(batches))[0][0]
        views = draw_views(look, len(x), shape=x.shape, crop=protocol.crop, flip=protocol.flip)
        x = apply(apply_views(x, views), draw(strategy, augment, len(x), shape=x.shape))
        return to_uniform(forward(x))

    return next_loss


def _descend(
    leaves: list[Tensor],
    loss_at: Callable[[Tensor, int], Callable[[], Tensor]],
    batches: Iterable[Tensor],
    protocol: EvaluationProtocol,
    schedule: Schedule,
    *,
    after: Callable[[int, Sequence[Tensor]], None],
    stacked: bool = False,
) -> None:
    """Gradient descent; at a learning-rate cut the optimiser is made anew, as published.

    ``loss_at`` draws what a step sees and returns its loss as a function of the leaves' present values; ``after`` is
    told how many passes are done (the last may be cut short), and what the leaves would be if it ended there: their
    moving average, where the protocol keeps one.
    """
    optimizer = _optimizer(leaves, protocol, protocol.lr)
    kept = [p.detach().clone() for p in leaves] if protocol.ema else leaves
    after(0, kept)
    for step, index in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        total = loss_at(index, step)
        if protocol.sam > 0:
            sharpness_aware(
                total, leaves, radius=protocol.sam, surrogate=protocol.sam_gap, stacked=stacked
            )
        else:
            total().backward()
        optimizer.step()
        if protocol.ema:
            blend(kept, leaves, protocol.ema)
        if step % schedule.per_epoch == 0 or step == schedule.steps:
            after(-(-step // schedule.per_epoch), kept)
        if step == schedule.steps:
            if protocol.ema:
                with torch.no_grad():
                    for p, mean in zip(leaves, kept, strict=True):
                        p.copy_(mean)
            return
        if protocol.lr_schedule != "step":
            lr = protocol.lr * _share_of_rate(protocol, step / schedule.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
        elif step == schedule.decay_at and protocol.decay != 1.0:
            optimizer = _optimizer(leaves, protocol, protocol.lr * protocol.decay)


def _named(parameters: Mapping[str, Tensor], values: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters with ``values`` in the place of those that are trained."""
    trained = [name for name, p in parameters.items() if p.requires_grad]
    return {**parameters, **dict(zip(trained, values, strict=True))}


def blend(average: Sequence[Tensor], now: Sequence[Tensor], decay: float) -> None:
    """Move an average towards the present values, in place: ``decay`` of it stays."""
    for kept, p in zip(average, now, strict=True):
        kept.lerp_(p.detach(), 1 - decay)


def _share_of_rate(protocol: EvaluationProtocol, done: float) -> float:
    """What is left of the learning rate when a fraction ``done`` of the steps is done; one cut is not made here."""
    if protocol.lr_schedule == "thirds":
        return float(protocol.decay ** int((done >= 2 / 3) + (done >= 5 / 6)))
    turn = math.pi if protocol.lr_schedule == "cosine" else math.pi / 2
    return 0.5 * (1 + math.cos(turn * done))


def _optimizer(
    leaves: list[Tensor], protocol: EvaluationProtocol, lr: float
) -> torch.optim.Optimizer:
    decay = protocol.weight_decay
    if protocol.optimiser == "adamw":
        return torch.optim.AdamW(leaves, lr=lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        leaves, lr=lr, momentum=protocol.momentum, weight_decay=decay, fused=True
    )


def _draw_views(
    protocol: EvaluationProtocol, g: torch.Generator, n: int, shape: Sequence[int]
) -> Views:
    return draw_views(
        g,
        n,
        shape=shape,
        crop=protocol.crop,
        flip=protocol.flip,
        cutmix=protocol.cutmix,
        mixup=protocol.mixup,
    )


def _augment_stack(x: Tensor, params: list[AugmentParams]) -> Tensor:
    """(K, B, C, H, W), one draw per network; networks that drew the same operation share a call."""
    if all(p.op == "none" for p in params):
        return x
    out = torch.empty_like(x)
    for op in sorted({p.op for p in params}):
        rows = [k for k, p in enumerate(params) if p.op == op]
        at = torch.tensor(rows, device=x.device)
        joint = concatenate([params[k] for k in rows], [x.shape[1]] * len(rows))
        out[at] = apply(x[at].flatten(0, 1), joint).view(len(rows), *x.shape[1:])
    return out
