"""How many rounds are matched on a network, and how long it trains between them: by number, or by how it does on real
records."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.distillation.parts import Query, Source
from ddaudit.models import Network


@dataclass(frozen=True)
class Schedule:
    """``outer`` matching rounds per network, ``inner`` epochs of network training on S between rounds."""

    outer: int
    inner: int


# Loops by IPC of DC (Zhao et al., ICLR 2021, appendix; authors' get_loops), also PSG's; those of
# other codes differ in the sizes that are added here.
DC_LOOPS = {
    1: Schedule(1, 1),
    10: Schedule(10, 50),
    20: Schedule(20, 25),
    30: Schedule(30, 20),
    40: Schedule(40, 15),
    50: Schedule(50, 10),
}
_LARGE = {51: Schedule(100, 10)}
LOOPS = {
    "dc": DC_LOOPS,
    "dcc": {**DC_LOOPS, 1: Schedule(10, 5)},
    "fairdd": {**DC_LOOPS, **_LARGE},
    "cobra": {**DC_LOOPS, **_LARGE, **dict.fromkeys(range(1, 10), Schedule(5, 10))},
    "trustdd": {**DC_LOOPS, 5: Schedule(10, 50)},
}


@dataclass(frozen=True)
class Watch:
    """Matching rounds on a network end when its accuracy on real records has settled; between two rounds it is
    trained on the synthetic set until that accuracy has moved.

    Attributes:
        settled: accuracies of the last ``window`` rounds that lie within this of each other end the rounds.
        moved: accuracies of the last ``window`` epochs that lie further apart end the training.
        window: how many.
        rounds, epochs: at most.

    Source: Wang et al., "CAFE", CVPR 2022, arXiv 2203.01531, section 3.4; values of the authors' code, whose loops
    have no upper bounds and whose accuracies carry a tenth of the one before.
    """

    settled: float = 0.04
    moved: float = 0.03
    window: int = 10
    rounds: int = 100
    epochs: int = 100

    def __post_init__(self) -> None:
        if min(self.window, self.rounds, self.epochs) < 1:
            raise ValueError("loop.watch.window, rounds and epochs must be at least 1")

    def has_settled(self, accuracies: list[float]) -> bool:
        """True when the last ``window`` accuracies of rounds lie close together."""
        last = accuracies[-self.window :]
        return len(last) == self.window and max(last) - min(last) < self.settled

    def has_moved(self, accuracies: list[float]) -> bool:
        """True when the last ``window`` accuracies of epochs lie apart."""
        last = accuracies[-self.window :]
        return len(last) == self.window and max(last) - min(last) > self.moved


@dataclass(frozen=True)
class Correct:
    """Whether a network classifies a record rightly: its mean is an accuracy."""

    shareable: bool = False

    def signals(self, net: Network, x: Tensor, y: Tensor) -> Tensor:
        """(B, 1) ones where it does."""
        with torch.no_grad():
            right: Tensor = net.body(x).argmax(1) == y
        return right[:, None].to(x.dtype)

    def real(self, net: Network, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, 1) accuracies of the rows."""
        return rows @ self.signals(net, x, y)


def accuracy(source: Source, net: Network, num_classes: int, name: str) -> float:
    """Mean accuracy over the rows of one question to the records, without augmentation."""
    query = Query(name, Correct(), net, (None,) * num_classes)
    return float(source.targets(query).mean().mean())
