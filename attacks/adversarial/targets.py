"""One search per image and target class, several targets at a time where few images stand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Search = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(M,) int64 images and (M,) int64 ranks of their targets, in ascending order -> (M, C, H, W) x', (M,) bool whether it
broke the network.

A search of several targets of an image may end all of them with the first that succeeds (:func:`without`).
"""


def each_target(x: Tensor, count: int, room: int, search: Search) -> Tensor:
    """(N, C, H, W) x' of the first target that breaks an image, x where none does.

    The strongest rival goes alone, since most images that fall do so there. Then as many targets as ``room`` allows run
    in one batch: a handful of images that stand would else cost nine runs of batches too small for any processor.
    """
    made, left = x.clone(), torch.arange(len(x), device=x.device)
    rank = 0
    while rank < count and len(left):
        wide = min(count - rank, max(1, room // len(left))) if rank else 1
        ranks = torch.arange(rank, rank + wide, device=x.device).repeat_interleave(len(left))
        found, broken = search(left.repeat(wide), ranks)
        broken = broken.view(wide, len(left))
        falls = broken.any(0)
        which = broken.int().argmax(0)[falls]
        made[left[falls]] = found.view(wide, len(left), *x.shape[1:])[which, falls.nonzero()[:, 0]]
        left, rank = left[~falls], rank + wide
    return made


def without(owners: Tensor, broken: Tensor) -> Tensor:
    """(M,) bool: the searches of images none of whose searches has succeeded.

    Args:
        owners: (M,) int64 the image that a search is of.
        broken: (M,) bool.
    """
    return ~torch.isin(owners, owners[broken])
