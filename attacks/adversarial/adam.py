"""Adam on inputs: each image has its own moments, and leaves with them."""

from __future__ import annotations

import torch
from torch import Tensor

_BETAS, _TINY = (0.9, 0.999), 1e-8


class InputAdam:
    """The steps of Kingma and Ba, "Adam", ICLR 2015, for a batch (N, ...) from which rows may be dropped."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self.rate, self.count = rate, 0
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, gradient: Tensor) -> Tensor:
        """(N, ...) the move that follows the gradient upwards."""
        self.count += 1
        self.first = _BETAS[0] * self.first + (1 - _BETAS[0]) * gradient
        self.second = _BETAS[1] * self.second + (1 - _BETAS[1]) * gradient.square()
        mean = self.first / (1 - _BETAS[0] ** self.count)
        size = (self.second / (1 - _BETAS[1] ** self.count)).sqrt()
        return self.rate * mean / (size + _TINY)

    def keep(self, rows: Tensor) -> None:
        """Drop the rows that are False."""
        self.first, self.second = self.first[rows], self.second[rows]
