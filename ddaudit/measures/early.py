"""Training on all records with early stopping: the usual defence against wrong labels, without a distilled set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.models import Network
from ddaudit.training import train_many

PASSES = 60
"""At most about so many passes are looked at; every other, third, ... of a longer training, and the end."""


def early_stopped(ctx: Context, train: ImageData, held: ImageData, seed: int) -> list[Network]:
    """Networks as they were after the pass that was best on held-out records, labels as they come.

    As many as the preset has victims, by the audit's protocol. No test record is looked at.

    Args:
        train: all of it is trained on.
        held: what decides when to stop; its labels may be wrong, too.

    Raises:
        Unsupported: no held-out records, or an architecture whose parameters alone do not make a network.
    """
    count, protocol = ctx.preset.victims, ctx.protocol
    kept = [ctx.random_network("early", seed, k) for k in range(count)]
    if not len(held):
        raise Unsupported(f"'{ctx.data.name}' has no validation records to stop by")
    if any(name for name, _ in kept[0].body.named_buffers()):
        raise Unsupported(
            f"early stopping keeps parameters, and {ctx.arch} also keeps batch statistics"
        )
    schedule = protocol.schedule(len(train))
    passes = -(-schedule.steps // schedule.per_epoch)
    keeper = _Keeper(ctx, held, -(-passes // PASSES), passes, kept)
    train_many(
        [(train.images, train.labels)] * count,
        arch=ctx.arch,
        num_classes=ctx.data.num_classes,
        mean=ctx.data.mean,
        std=ctx.data.std,
        protocol=protocol,
        seeds=[ctx.seed_for("early", seed, k) for k in range(count)],
        device=ctx.device,
        after_pass=keeper,
    )
    return kept


@dataclass(eq=False)
class _Keeper:
    """Keeps the parameters of the best pass so far; the first of equally good ones."""

    ctx: Context
    held: ImageData
    every: int
    last: int
    kept: list[Network]
    best: dict[int, float] = field(default_factory=dict)

    def __call__(self, position: int, passes: int, parameters: Mapping[str, Tensor]) -> None:
        if passes % self.every and passes != self.last:
            return
        probe = self.ctx.random_network("early probe")
        probe.body.load_state_dict(dict(parameters), strict=False)
        said = self.ctx.predict(probe, self.held.images).argmax(1)
        right = float((said == self.held.labels).double().mean())
        if right > self.best.get(position, -1.0):
            self.best[position] = right
            with torch.no_grad():
                self.kept[position].body.load_state_dict(dict(parameters), strict=False)
