"""The loops behind ``train_many``: one network at a time (plain or compiled), or K stacked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from ddaudit.models import Body, Network
from ddaudit.training._data import Pool, generator, orders
from ddaudit.training.augment import AugmentParams, apply, concatenate, draw
from ddaudit.training.protocols import EvaluationProtocol, Schedule

Forward = Callable[[Tensor], Tensor]


def train_loop(network: Network, pool: Pool, *, seed: int, protocol: EvaluationProtocol) -> None:
    """Train one network in place on a pool of one set."""
    network.train()
    _train_body(network.body, network.body, pool, seed=seed, protocol=protocol)
    network.eval()


class Compiled:
    """A compiled copy of a body that trains many networks of its kind: compiling is paid for once.

    Raises:
        Exception: whatever the compiler raised; the caller falls back to the loop.
    """

    def __init__(self, like: Network, *, batch: int) -> None:
        self.body = copy.deepcopy(like.body).train()
        self.batch = batch
        self._compiled: Forward = torch.compile(self.body, dynamic=False)
        probe = torch.zeros(batch, *like.shape, device=like.device)
        self._compiled(probe).sum().backward()

    def __call__(self, x: Tensor) -> Tensor:
        # The smaller last batch of a pass would be compiled a second time for a fraction of the
        # steps.
        return self._compiled(x) if len(x) == self.batch else self.body(x)

    def train(
        self, network: Network, pool: Pool, *, seed: int, protocol: EvaluationProtocol
    ) -> None:
        """Train one network in place on a pool of one set."""
        self.body.load_state_dict(network.body.state_dict())
        _train_body(self.body, self, pool, seed=seed, protocol=protocol)
        network.body.load_state_dict(self.body.state_dict())
        network.eval()


def train_stacked(
    networks: Sequence[Network], pool: Pool, *, seeds: Sequence[int], protocol: EvaluationProtocol
) -> None:
    """Train K networks in place and at once: one vectorised step for all of them.

    The loss is the sum of the K mean losses, so each network sees its own gradient only.
    """
    strategy = protocol.augment or ""
    batches = orders(
        seeds, size=pool.size, batch_size=protocol.batch_size, device=pool.images.device
    )
    augments = [generator(seed, "augment") for seed in seeds]
    params, buffers = stack_module_state([n.body for n in networks])
    template: nn.Module = networks[0].body.train()

    def call(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(template, (p, b), (x,))
        return logits

    stacked = torch.vmap(call)

    def loss_at(index: Tensor) -> Tensor:
        x, y = pool.batch(index)
        x = _augment_stack(x, [draw(strategy, g, x.shape[1], shape=x.shape) for g in augments])
        logits = stacked(params, buffers, x)
        total = F.cross_entropy(logits.flatten(0, 1), y.flatten(0, 1), reduction="sum")
        return total / x.shape[1]

    _descend(list(params.values()), loss_at, batches, protocol, protocol.schedule(pool.size))
    with torch.no_grad():
        for k, network in enumerate(networks):
            for name, value in network.body.named_parameters():
                value.copy_(params[name][k])
            network.eval()


def _train_body(
    body: Body, forward: Forward, pool: Pool, *, seed: int, protocol: EvaluationProtocol
) -> None:
    strategy = protocol.augment or ""
    batches = orders(
        [seed], size=pool.size, batch_size=protocol.batch_size, device=pool.images.device
    )
    augment = generator(seed, "augment")

    def loss_at(index: Tensor) -> Tensor:
        x, y = pool.batch(index)
        x, y = x[0], y[0]
        x = apply(x, draw(strategy, augment, len(x), shape=x.shape))
        return F.cross_entropy(forward(x), y)

    _descend(list(body.parameters()), loss_at, batches, protocol, protocol.schedule(pool.size))
    body.zero_grad(set_to_none=True)


def _descend(
    leaves: list[Tensor],
    loss_at: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    protocol: EvaluationProtocol,
    schedule: Schedule,
) -> None:
    """SGD with one learning-rate cut; there the optimiser is made anew, as published."""

    def fresh(lr: float) -> torch.optim.SGD:
        return torch.optim.SGD(
            leaves,
            lr=lr,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            fused=True,
        )

    optimizer = fresh(protocol.lr)
    for step, index in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        loss_at(index).backward()
        optimizer.step()
        if step == schedule.steps:
            return
        if step == schedule.decay_at:
            optimizer = fresh(protocol.lr * protocol.decay)


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
