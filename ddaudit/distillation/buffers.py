"""Expert paths that others trained: MTT's replay buffers, read as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddaudit.distillation.store import Store, content_key
from ddaudit.errors import BadInput
from ddaudit.models.checkpoints import read_weights
from ddaudit.sets.files import digest
from ddaudit.training.engine import AfterPass

KeeperOf = Callable[[str, int], AfterPass]
_NAME = re.compile(r"replay_buffer_(\d+)\.pt")
_EXPECTED = "MTT's buffer.py writes replay_buffer_0.pt, replay_buffer_1.pt, ..: lists of paths, each a list of points."


def keep_buffers(
    where: Path,
    like: Mapping[str, Tensor],
    *,
    count: int,
    straight: bool,
    store: Store,
    keeper: KeeperOf,
) -> list[tuple[str, int]]:
    """Put the paths of replay buffers into a store, the way experts that are trained here are kept.

    Args:
        where: a folder with ``replay_buffer_N.pt``, which are read in the order of N, or one such file.
        like: the network's parameters by name, in the order of its layers: that of the tensors of a point.
        count: experts that are wanted; files beyond them are not opened.
        straight: whether ``keeper`` keeps ends and shares alone.
        store: what is there already, of a file with the same bytes, is not read again.
        keeper: (key, passes) -> what is told of every point, and puts it into the store.

    Returns:
        (key, passes) of each expert, at most ``count``.

    Raises:
        BadInput: no such file, code in it, another layout, or another network's parameters.

    Source: GeorgeCazenavette/mtt-distillation, commit 50dccea, buffer.py: files of 10 paths, a path is the parameters
    before training and after every pass, in the order of ``net.parameters()``.
    """
    found: list[tuple[str, int]] = []
    shapes = [tuple(p.shape) for p in like.values()]
    for file in _files(where):
        if len(found) >= count:
            break
        key = content_key("buffer", digest(file), list(like), shapes, straight)
        head = store.get(key)
        if head is None:
            paths = _paths(file, shapes)
            for number, points in enumerate(paths):
                _keep(points, list(like), content_key(key, number), keeper)
            # Last: where it is, the paths are.
            head = {"passes": torch.tensor([len(points) - 1 for points in paths])}
            store.put(key, head)
        found += [(content_key(key, k), int(n)) for k, n in enumerate(head["passes"].tolist())]
    return found[:count]


def _files(where: Path) -> list[Path]:
    if where.is_file():
        return [where]
    numbered = {
        int(named.group(1)): file
        for file in (where.iterdir() if where.is_dir() else ())
        if (named := _NAME.fullmatch(file.name))
    }
    if not numbered:
        raise BadInput(where, "holds no replay_buffer_N.pt", _EXPECTED)
    return [numbered[n] for n in sorted(numbered)]


def _paths(file: Path, shapes: Sequence[tuple[int, ...]]) -> list[list[list[Tensor]]]:
    """The content of a file, checked: paths of at least two points, each of the network's parameters."""
    content = read_weights(file)
    if not isinstance(content, list) or not content:
        raise BadInput(file, "is no list of paths", _EXPECTED)
    for points in content:
        if not isinstance(points, list) or len(points) < 2:
            raise BadInput(file, "holds a path that is no list of two points or more", _EXPECTED)
        for point in points:
            held = point if isinstance(point, (list, tuple)) else [point]
            given = [tuple(p.shape) if isinstance(p, Tensor) else None for p in held]
            if given != list(shapes):
                what = f"holds points of {len(given)} tensors that are not the network's {len(shapes)} parameters"
                todo = "Set networks.arch and networks.width to what the experts are."
                raise BadInput(file, what, todo)
            if not all(bool(torch.isfinite(p).all()) for p in point):
                raise BadInput(file, "holds parameters that are no finite numbers")
        if all(torch.equal(a, b) for a, b in zip(points[0], points[-1], strict=True)):
            # On a CPU, detach().cpu() copies nothing: every point is the network as it was in the end.
            what = "holds a path that does not move, as MTT's buffer.py writes them on a CPU"
            raise BadInput(file, what, "Make it on a GPU, or leave networks.buffers out.")
    return content


def _keep(points: list[list[Tensor]], names: list[str], key: str, keeper: KeeperOf) -> None:
    keep = keeper(key, len(points) - 1)
    for passes, point in enumerate(points):
        keep(0, passes, {n: p.float() for n, p in zip(names, point, strict=True)})
