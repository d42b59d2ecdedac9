"""Square attack: random search from queries alone, no gradients, by changing one window of the image at a time.

All images share the draws of windows and of their signs, as in the authors' code; only the start is an image's own. On
images with a short side (a table's record has height 1) a window keeps its area and grows along the other side.

Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search",
ECCV 2020, algorithms 1 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.ball import Ball, Noise
from ddaudit.attacks.adversarial.execution import Model
from ddaudit.attacks.adversarial.losses import margin

_TINY = 1e-12
_SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10 000 after which the share of pixels in a window is halved."""
_PUBLISHED = 10_000

AHEAD = 32
"""Images of a pass: where fewer stand, the next queries are asked at the same time, as if none of them succeeded."""

Window = tuple[slice, slice]
Change = Callable[[Tensor, Tensor], Tensor]
"""x (N, C, H, W) and where the search is -> what it tries next."""


@dataclass(frozen=True)
class Square:
    """Minimises the margin; an image leaves when it is broken."""

    queries: int = 5000
    share: float = 0.8
    """Share of pixels in the first windows."""
    rescale: bool = True
    """Halvings keep their place in the budget, as where the attack stands alone; AutoAttack runs the first half of the
    published 10 000."""

    @property
    def name(self) -> str:
        return "square"

    def window(self, query: int) -> float:
        """Share of pixels in the window of query ``query``, counted from 0."""
        at = query * _PUBLISHED // self.queries if self.rescale else query
        return self.share * 0.5 ** sum(at > halving for halving in _SCHEDULE)

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        return self.search(model, x, y, ball, noise)[0]

    def search(
        self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) x'; (N,) int64 queries until an image was broken (1 is the start), 0 where it never was."""
        g, linf = noise.shared("windows"), ball.norm == "Linf"
        at = _stripes(x, ball, noise) if linf else _tiles(x, ball, noise)
        made, ids = at.clone(), torch.arange(len(x), device=x.device)
        needed = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        value = margin(model.logits(at), y)
        drawn: list[Change] = []
        draw, room = _paint if linf else _shift, min(AHEAD, model.room)
        done, ahead = 0, 1
        while done < self.queries:
            stays = value <= 0
            if not bool(stays.all()):
                made[ids[~stays]], needed[ids[~stays]] = at[~stays], done + 1
                x, y, at, value, ids = (t[stays] for t in (x, y, at, value, ids))
            if not len(ids):
                return made, needed
            ahead = max(1, min(ahead, room // len(ids), self.queries - done))
            for query in range(done + len(drawn), done + ahead):
                drawn.append(draw(x.shape[1:], ball, self.window(query), g))
            tried = torch.stack([change(x, at) for change in drawn[:ahead]])
            new = margin(model.logits(tried.flatten(0, 1)), y.repeat(ahead)).view(ahead, len(ids))
            better = new > value
            # Queries after the first that moves an image were asked where it no longer is: they are asked again.
            moves = better.any(1).nonzero()
            last = int(moves[0]) if len(moves) else ahead - 1
            at = torch.where(better[last].view(-1, 1, 1, 1), tried[last], at)
            value = torch.maximum(new[last], value)
            drawn, done = drawn[last + 1 :], done + last + 1
            ahead = last + 1 if len(moves) else 2 * ahead
        made[ids] = at
        needed[ids[value > 0]] = self.queries + 1
        return made, needed


# ---- Linf: windows of one colour at the ball's corners ---------------------------------------------


def _stripes(x: Tensor, ball: Ball, noise: Noise) -> Tensor:
    signs = (noise.uniform(x[:, :, :1, :]) < 0.5).to(x) * 2 - 1
    return (x + ball.eps * signs).clamp(ball.low, ball.high)


def _paint(shape: Sequence[int], ball: Ball, share: float, g: torch.Generator) -> Change:
    rows, columns = _place(shape[1:], _sides(shape[1:], share, least=1), g)
    signs = torch.randint(2, (shape[0], 1, 1), generator=g) * 2 - 1

    def change(x: Tensor, at: Tensor) -> Tensor:
        tried = at.clone()
        window = x[:, :, rows, columns] + ball.eps * signs.to(x)
        tried[:, :, rows, columns] = window.clamp(ball.low, ball.high)
        return tried

    return change


# ---- L2: mass moved from one window into a pyramid in another ---------------------------------------


def _tiles(x: Tensor, ball: Ball, noise: Noise) -> Tensor:
    """Pyramids with random signs, side by side."""
    (channels, height, width), delta = x.shape[1:], torch.zeros_like(x)
    tall, wide = max(1, min(height, height // 5)), max(1, min(width, width // 5))
    g = noise.shared("tiles")
    down, right = height // tall, width // wide
    signs = noise.uniform(x.new_empty(len(x), channels, down, right)) < 0.5
    top, left = (height - down * tall) // 2, (width - right * wide) // 2
    for i in range(down):
        for j in range(right):
            pyramid = _pyramids(tall, wide, g).to(x) * (signs[:, :, i, j, None, None].to(x) * 2 - 1)
            rows, columns = top + i * tall, left + j * wide
            delta[:, :, rows : rows + tall, columns : columns + wide] = pyramid
    return (x + ball.eps * ball.normalised(delta)).clamp(ball.low, ball.high)


def _shift(shape: Sequence[int], ball: Ball, share: float, g: torch.Generator) -> Change:
    tall, wide = sides = _sides(shape[1:], share, least=3)
    to, source = ((..., *_place(shape[1:], sides, g)) for _ in range(2))
    both = torch.zeros(*shape[1:], dtype=torch.bool)
    both[to], both[source] = True, True
    signs = torch.randint(2, (shape[0], 1, 1), generator=g) * 2 - 1
    pyramid = _pyramids(tall, wide, g)

    def change(x: Tensor, at: Tensor) -> Tensor:
        delta = at - x
        total = delta.square().sum((1, 2, 3), keepdim=True)
        in_windows = (delta * both.to(x.device)).square().sum((2, 3), keepdim=True)
        there = delta[to]
        new = pyramid.to(x) * signs.to(x) + there / (_length(there) + _TINY)
        # What the two windows and the unused radius hold goes, channel by channel, into the first window.
        unused = (ball.eps**2 - total).clamp_min(0) / x.shape[1]
        new = new / (_length(new) + _TINY) * (unused + in_windows).sqrt()
        delta = delta.clone()
        delta[source] = 0
        delta[to] = new
        return (x + ball.eps * ball.normalised(delta)).clamp(ball.low, ball.high)

    return change


def _pyramids(height: int, width: int, g: torch.Generator) -> Tensor:
    """(height, width) of length 1: one half a positive pyramid, the other a negative one, either way round."""
    across = bool(torch.rand(1, generator=g) > 0.5)
    if height == 1 or width == 1:
        across = height == 1
    a, b = (width, height) if across else (height, width)
    halves = [_pyramid(a // 2, b), -_pyramid(a - a // 2, b)] if a > 1 else [_pyramid(a, b)]
    both = torch.cat(halves)
    both = both / both.norm()
    turned: Tensor = both.T if across else both
    return turned


def _pyramid(height: int, width: int) -> Tensor:
    """(height, width) of length 1: nested rectangles around the centre, the k-th adding 1 / k^2."""
    i, j = height // 2, width // 2
    away = torch.maximum(
        (torch.arange(height) - i).abs()[:, None], (torch.arange(width) - j).abs()[None]
    )
    steps = max(i, j) + 1
    added = 1 / torch.arange(1, steps + 1).square()
    outside_in = added.flip(0).cumsum(0).flip(0)
    value = outside_in[away.clamp_max(steps - 1)]
    unit: Tensor = value / value.norm()
    return unit


# ---- windows -----------------------------------------------------------------------------------------


def _sides(shape: Sequence[int], share: float, *, least: int) -> tuple[int, int]:
    """Height and width of a window that holds ``share`` of the pixels, a square where the image allows."""
    height, width = shape
    side = max(least, round(math.sqrt(share * height * width)))
    if least > 1 and side % 2 == 0:
        side += 1
    tall, wide = min(side, height), min(side, width)
    if tall < side:
        wide = min(width, max(wide, math.ceil(side * side / tall)))
    elif wide < side:
        tall = min(height, max(tall, math.ceil(side * side / wide)))
    return tall, wide


def _place(shape: Sequence[int], sides: tuple[int, int], g: torch.Generator) -> Window:
    starts = [
        int(torch.randint(n - s + 1, (1,), generator=g)) for n, s in zip(shape, sides, strict=True)
    ]
    return tuple(slice(a, a + s) for a, s in zip(starts, sides, strict=True))  # type: ignore[return-value]


def _length(delta: Tensor) -> Tensor:
    return delta.square().sum((2, 3), keepdim=True).sqrt()
