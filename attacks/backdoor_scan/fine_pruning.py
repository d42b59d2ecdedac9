"""Fine-pruning: take out the channels that clean images do not use, then train on: what is left of a backdoor?

Source: Liu, Dolan-Gavitt and Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID
2018; SCLBD/BackdoorBench, defense/fp.py: columns of the last linear layer are masked, 1 % of the channels at a time,
while clean accuracy falls by less than a tenth; then fine-tuning at rate 0.01. Both see trusted training records alone.
Here fine-tuning leaves batch statistics as they are, at one rate in batches of 64 and few epochs (BackdoorBench:
training mode, a cosine, 256, 100 epochs).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddaudit.models import Network

STEP = 0.01
TOLERATED = 0.1
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
_BATCH, _READ = 64, 256


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network after fine-pruning.

    Attributes:
        share: of the last block's channels that are gone.
    """

    network: Network
    share: float


def fine_prune(
    network: Network, clean: Tensor, labels: Tensor, *, epochs: int, generator: torch.Generator
) -> Pruned:
    """A pruned and fine-tuned copy of a network.

    Args:
        clean: (N, C, H, W) trusted training pixels in [0, 1]; ``labels`` (N,).
        epochs: of fine-tuning; 0 leaves it at pruning.
        generator: of the order of the batches.

    Raises:
        Unsupported: an architecture that does not say what its blocks are.
    """
    made = copy.deepcopy(network).eval()
    clean, labels = clean.to(made.device), labels.to(made.device)
    with torch.no_grad():
        sums, parts = torch.zeros(()), []
        for part in clean.split(_READ):
            *_, last, embedded = made.body.blocks(made.normalize(part))
            sums = sums.to(last) + last.transpose(0, 1).flatten(1).mean(1) * len(part)
            parts.append(embedded)
        features, order = torch.cat(parts), sums.argsort()
        gone = quiet_channels(made.body.classifier, features, labels, order)
    columns = features.shape[1] // len(order)
    kept = torch.ones(len(order), device=made.device)
    kept[order[:gone]] = 0
    mask = kept.repeat_interleave(columns)
    weight = made.body.classifier.weight
    with torch.no_grad():
        weight *= mask
    optimiser = torch.optim.SGD(made.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for _ in range(epochs):
        for batch in torch.randperm(len(clean), generator=generator).split(_BATCH):
            loss = nn.functional.cross_entropy(made(clean[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                weight *= mask
    return Pruned(made.requires_grad_(False), gone / len(order))


def quiet_channels(classifier: nn.Linear, features: Tensor, labels: Tensor, order: Tensor) -> int:
    """How many channels can go, least active first, while accuracy stays above nine tenths of what it was.

    Args:
        classifier: (N, D) features -> logits, D a multiple of the C channels.
        order: (C,) channels from the least active.
    """
    columns = features.shape[1] // len(order)
    left = features.clone()
    before = (classifier(left).argmax(1) == labels).float().mean()
    gone, step = 0, max(1, round(STEP * len(order)))
    for start in range(0, len(order) - step, step):
        for channel in order[start : start + step].tolist():
            left[:, channel * columns : (channel + 1) * columns] = 0
        after = (classifier(left).argmax(1) == labels).float().mean()
        if before - after >= TOLERATED * before:
            break
        gone = start + step
    return gone
