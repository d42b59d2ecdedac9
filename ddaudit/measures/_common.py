"""What the measuring auditors share: victims' answers, right or not, and words on the size of the sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddaudit.auditing import Context, Subject
from ddaudit.findings import Caveat
from ddaudit.models import Network
from ddaudit.training import EvaluationProtocol


def victim_logits(ctx: Context, subject: Subject, seed: int, images: Tensor) -> Tensor:
    """(V, N, K) float32 logits of every victim of the subject on the images."""
    return torch.stack([ctx.predict(net, images) for net in ctx.victims(subject, seed)])


def correct(
    ctx: Context, subject: Subject, seed: int, *, protocol: EvaluationProtocol | None = None
) -> Tensor:
    """(V, N) float64: 1 where a victim of the subject classifies a test image correctly.

    Args:
        protocol: as for :meth:`Context.victims`.
    """
    return _right(ctx.answers(subject, seed, protocol=protocol), ctx)


def hits(nets: Sequence[Network], ctx: Context) -> Tensor:
    """The same of networks that are no subject's victims."""
    asked = ctx.test().images
    return _right(torch.stack([ctx.predict(net, asked) for net in nets]), ctx)


def _right(logits: Tensor, ctx: Context) -> Tensor:
    return (logits.argmax(2) == ctx.test().labels).double()


def few_images(n: int, victims: int) -> list[str]:
    """Caveats on the size of the sample."""
    out: list[str] = []
    if n < 1000:
        text = f"Only {n} test images: differences of a few points are within the intervals."
        out.append(Caveat(text, "sample", 3))
    if victims == 1:
        text = "One network: the intervals cover test-image sampling, not retraining."
        out.append(Caveat(text, "sample", 2))
    elif victims == 2:
        text = (
            "Two networks per set say little about a third: where they differ, intervals are wide."
        )
        out.append(Caveat(text, "sample", 3))
    return out
