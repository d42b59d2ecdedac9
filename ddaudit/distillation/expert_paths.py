"""Expert paths: how networks move while they are trained on the real records, kept in the job's store.

A path is a network's parameters after every pass over the records of a run. Trajectory matching asks for two points
of one: where a student starts, and where it should arrive.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.buffers import keep_buffers
from ddaudit.distillation.curriculum import Curriculum, el2n, part_of_classes
from ddaudit.distillation.lessons import Even, Lesson, teach
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh, fit
from ddaudit.distillation.store import Store, content_key
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.seeds import stable_seed
from ddaudit.training import EvaluationProtocol, Robust, train_many

log = logging.getLogger(__name__)

_BLOCK = 5
"""Experts that are trained in one call of the engine: what a killed run loses at most. A block is trained whole, so
that what is stored never depends on where a run was killed."""
_HELD = 2**28
"""Bytes of checkpoints held in memory; the rest are read from the store again."""


@dataclass(frozen=True)
class ExpertPaths(Fresh):
    """Networks trained on the real records of a run, with their parameters after every pass.

    A path depends on the records, its number and the numbers here, and on no seed of the distillation: runs on the
    same records, of any size, seed and method, share them through the job's store. A private reader refuses them.

    Attributes:
        arch, width: as in :class:`Fresh`.
        count: how many experts.
        epochs: passes over the records.
        lr, batch: of the experts' SGD, without momentum and weight decay.
        augment: of their training: "data" (the data set's DSA string), "" (none), or a DSA strategy.
        sam, sam_gap: radius and surrogate-gap weight of sharpness-aware training (FTD); 0: plain SGD.
        robust: how steps are changed so that the experts resist small changes; None: not at all.
        ema: decay of the moving average of the parameters, step by step, which the path is made of; 0: of them.
        curriculum: which records are seen in which pass (PAD); None: all in all.
        weight_decay: of the passes over all parameters.
        head: passes after those, in which the classifier alone is trained, every class being seen equally often
            (DAMED); a path is that much longer.
        lesson: which records a pass takes, and how the loss counts classes; None: every record once, classes alike.
        straight: keep a path's ends only, and move from one to the other in a straight line, every parameter tensor
            by the share of its own length that the expert had walked at that time (MCT).
        buffers: MTT's replay buffers, a folder or a file; their experts, ``count`` at most, stand for those that would
            be trained here on the records. None: experts are trained.

    Source: Cazenavette et al. (MTT), CVPR 2022, arXiv 2203.11932, section 3.2; Du et al. (FTD), CVPR 2023, arXiv
    2211.11004; Zhong et al. (MCT), CVPR 2025, arXiv 2406.19827, section 3, and Zhong0x29a/MCT, commit e959363,
    exps/trajectory_compression.py; Zhao et al. (DAMED), CVPR 2025, arXiv 2408.14506, section 4.2.
    """

    count: int = 100
    epochs: int = 50
    lr: float = 0.01
    batch: int = 256
    augment: str = "data"
    sam: float = 0.0
    sam_gap: float = 0.0
    robust: Robust | None = None
    ema: float = 0.0
    curriculum: Curriculum | None = None
    weight_decay: float = 0.0
    head: int = 0
    lesson: Lesson | None = None
    straight: bool = False
    buffers: str | None = None
    paths: Paths | None = field(default=None, repr=False, compare=False)
    """Filled by :meth:`learn`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.epochs < 1 or self.batch < 1:
            raise ValueError(
                "networks.count, networks.epochs and networks.batch must be at least 1"
            )
        if not self.lr > 0 or min(self.sam, self.sam_gap, self.weight_decay, self.head) < 0:
            raise ValueError(
                "networks.lr must be positive, networks.sam, sam_gap, weight_decay and head not negative"
            )
        if self.head and self.straight:
            raise ValueError("networks.head goes with networks.straight=false")
        if self.buffers and (self.head or self.lesson or self.robust or self.ema):
            raise ValueError(
                "networks.buffers holds experts that are trained: nothing can be taught them"
            )

    def bind(self, data: Dataset) -> ExpertPaths:
        """Needs records, which :meth:`learn` is given.

        Raises:
            BadInput: unknown architecture, or one whose state is more than its parameters.
        """
        if self.couples_records():
            raise BadInput(
                f"networks.arch={self.arch}",
                "keeps batch statistics, which no step on the synthetic set could match",
                "Use a network with instance, group, layer or no normalisation.",
            )
        if self.lesson is not None:
            self.lesson.records(data.train)
        return self

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> ExpertPaths:
        """This source with its networks trained on the records of the job's one run, or found in its store.

        Nothing is trained before a point of it is asked for.

        Args:
            job: its ``members`` are (1, N).
            mean, std: (C, 1, 1) normalisation that the networks are trained under.
        """
        if self.buffers is not None:
            return self._read(job, Path(self.buffers))
        train = job.train.subset(job.members[0])
        constants = (tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))
        arch = fit(self.resolve(), train.shape)
        seen = (
            train.fingerprint,
            str(arch),
            constants,
            self._protocol(job.data, len(train), self.epochs).key,
        )

        fresh = partial(
            self.make, shape=train.shape, num_classes=train.num_classes, device=job.device
        )

        def key(number: int) -> str:
            first = number - number % _BLOCK
            named = (*seen, min(_BLOCK, self.count - first), number)
            later = [repr(part) for part in (self.curriculum, self.lesson, self.head) if part]
            return content_key("path", *named, *later)

        def train_block(number: int, store: Store) -> None:
            first = number - number % _BLOCK
            block = range(first, min(first + _BLOCK, self.count))
            log.info("training experts %d to %d of %d", block[0] + 1, block[-1] + 1, self.count)
            networks = [fresh(seed=stable_seed("path", k)) for k in block]
            keeper = Keeper(store, [key(k) for k in block], self.epochs, self.straight)
            stages = self._stages(job, train, mean, std)
            for stage, (passes, shown, lesson) in enumerate(stages):
                if keeper.done == self.epochs:
                    for net in networks:
                        net.body.features.requires_grad_(False)
                seen, extra = teach(lesson, shown)
                train_many(
                    [(seen.images, seen.labels)] * len(block),
                    arch=arch,
                    num_classes=train.num_classes,
                    mean=constants[0],
                    std=constants[1],
                    protocol=self._protocol(job.data, len(seen), passes, keeper.done),
                    seeds=[stable_seed("path", k, *([stage] if stage else [])) for k in block],
                    device=job.device,
                    extras=[extra] * len(block),
                    start=networks,
                    after_pass=keeper,
                )
                keeper.done += passes

        store = job.store or Memory()
        paths = Paths(self, store, key, train_block, job.device)
        return replace(self, paths=paths)

    def _read(self, job: Job, where: Path) -> ExpertPaths:
        """This source with its networks read from replay buffers.

        Raises:
            BadInput: unreadable files, or a run on a part of the records: whoever trained these experts had all.
        """
        if not bool(job.members.all()):
            raise BadInput(
                "networks.buffers",
                "holds experts that have seen all records, and a run on a part of them would follow the same ones",
                "Leave it out where sets are distilled again, as for membership.",
            )
        net = self.make(
            shape=job.train.shape, num_classes=job.train.num_classes, seed=0, device=job.device
        )
        store = job.store or Memory()
        found = keep_buffers(
            where,
            dict(net.body.named_parameters()),
            count=self.count,
            straight=self.straight,
            store=store,
            keeper=lambda key, passes: Keeper(store, [key], passes, self.straight),
        )

        def missing(number: int, store: Store) -> None:
            raise DDAuditError(f"the store has lost expert {number} of {where}")

        lengths = {passes for _, passes in found}
        if len(lengths) > 1:
            what = f"holds paths of different lengths ({min(lengths)} to {max(lengths)} passes)"
            raise BadInput(where, what, "Give a folder of one training.")
        read = replace(self, count=len(found), epochs=lengths.pop())
        return replace(read, paths=Paths(read, store, lambda k: found[k][0], missing, job.device))

    def _stages(
        self, job: Job, train: ImageData, mean: Tensor, std: Tensor
    ) -> Iterator[tuple[int, ImageData, Lesson | None]]:
        """(passes, records, how they are taught), one after the other."""
        if self.curriculum is None:
            yield self.epochs, train, self.lesson
        else:
            scores = self._scores(job, train, mean, std, self.curriculum)
            for stage in self.curriculum.stages(self.epochs):
                part = part_of_classes(scores, train.labels, stage.low, stage.high)
                yield stage.passes, train.subset(part), self.lesson
        if self.head:
            by_group = isinstance(self.lesson, Even) and self.lesson.by_group
            yield self.head, train, Even(by_group)

    def _scores(
        self, job: Job, train: ImageData, mean: Tensor, std: Tensor, by: Curriculum
    ) -> Tensor:
        """(N,) difficulty of the records, by networks trained like experts without a curriculum."""
        judges = replace(
            self,
            count=by.judges,
            epochs=by.judged_after,
            curriculum=None,
            straight=True,
            head=0,
        )
        paths = judges.learn(job, mean, std).paths
        assert paths is not None, "learnt from the job"
        net = self.make(shape=train.shape, num_classes=train.num_classes, seed=0, device=job.device)
        logits = []
        for k in range(by.judges):
            net.body.load_state_dict(paths.at(k, by.judged_after), strict=False)
            with torch.no_grad():
                parts = [
                    net.body((train.pixels(i) - mean).div(std).to(job.device)).cpu()
                    for i in torch.arange(len(train)).split(512)
                ]
            logits.append(torch.cat(parts))
        return el2n(torch.stack(logits), train.labels)

    def _protocol(self, data: Dataset, size: int, passes: int, done: int = 0) -> EvaluationProtocol:
        """SGD at a constant rate for ``passes`` over ``size`` records, after those that are ``done``."""
        return EvaluationProtocol(
            name="path",
            epochs=passes,
            epochs_plain=passes,
            max_steps=passes * math.ceil(size / self.batch),
            batch_size=self.batch,
            lr=self.lr,
            momentum=0.0,
            weight_decay=self.weight_decay if done < self.epochs else 0.0,
            decay=1.0,
            augment=data.augment if self.augment == "data" else self.augment,
            sam=self.sam,
            sam_gap=self.sam_gap,
            robust=self.robust,
            ema=self.ema,
        )


class Walked(Protocol):
    """A network source whose networks have paths: ``count`` of them, each of ``epochs`` points after its start."""

    @property
    def count(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def straight(self) -> bool: ...


class Paths:
    """The points of a run's expert paths, read from a store as they are asked for, and trained where they are missing.

    Args:
        of: whose paths.
        store: where checkpoints are kept.
        key: number of an expert -> the name of its path in the store.
        teach: trains the expert of a number and puts its path into a store.
        device: where points are wanted.
    """

    def __init__(
        self,
        of: Walked,
        store: Store,
        key: Callable[[int], str],
        teach: Callable[[int, Store], None],
        device: torch.device,
    ) -> None:
        self.count, self.epochs, self.straight = of.count, of.epochs, of.straight
        self.last = of.epochs + getattr(of, "head", 0)
        """The end of a path, its classifier's own passes included."""
        self._store, self._key, self._teach, self._device = store, key, teach, device
        self._held: OrderedDict[tuple[int, str], dict[str, Tensor]] = OrderedDict()

    def at(self, expert: int, time: float) -> dict[str, Tensor]:
        """Parameters by name, in no particular order, of an expert after ``time`` passes; between passes on straight
        paths only.

        Args:
            expert: number of the expert, from 0.
            time: in [0, last].
        """
        if not self.straight:
            return self._kept(expert, str(int(time)))
        start, end = self._kept(expert, "0"), self._kept(expert, str(self.epochs))
        shares = self._kept(expert, _SHARES)
        low = min(int(time), self.epochs - 1)
        return {
            n: torch.lerp(p, end[n], torch.lerp(shares[n][low], shares[n][low + 1], time - low))
            for n, p in start.items()
        }

    @property
    def megabytes(self) -> float:
        """What the whole buffer takes to store."""
        one = sum(p.nelement() * p.element_size() for p in self._kept(0, "0").values())
        return self.count * one * (2 if self.straight else self.last + 1) / 1e6

    def _kept(self, expert: int, what: str) -> dict[str, Tensor]:
        if (expert, what) in self._held:
            self._held.move_to_end((expert, what))
            return self._held[expert, what]
        name = content_key(self._key(expert), what)
        tensors = self._store.get(name)
        if tensors is None:
            with torch.enable_grad():
                self._teach(expert, self._store)
            tensors = self._store.get(name)
        if tensors is None:
            raise DDAuditError(f"the store does not give back what was put into it ({name})")
        tensors = {n: t.to(self._device) for n, t in tensors.items()}
        self._held[expert, what] = tensors
        size = sum(t.nelement() * t.element_size() for t in tensors.values())
        while len(self._held) > max(3, _HELD // max(1, size)):
            self._held.popitem(last=False)
        return tensors


_SHARES = "shares"


class Keeper:
    """Puts the paths of networks that are being trained into a store, checkpoint by checkpoint.

    Straight paths are kept as their ends and, for every parameter tensor, (epochs + 1,) shares of the tensor's whole
    way that had been walked: the sum of the norms of its moves so far over that of all of them.
    """

    def __init__(self, store: Store, keys: Sequence[str], epochs: int, straight: bool) -> None:
        self._store, self._keys, self._epochs, self._straight = store, keys, epochs, straight
        self.done = 0
        """Passes before the present call of the engine."""
        self._last: dict[int, dict[str, Tensor]] = {}
        self._moves: dict[int, list[dict[str, Tensor]]] = {}

    def __call__(self, position: int, passes: int, parameters: Mapping[str, Tensor]) -> None:
        if passes == 0 and self.done:
            return  # kept at the end of the call before
        passes += self.done
        key = self._keys[position]
        if not self._straight or passes in (0, self._epochs):
            self._store.put(content_key(key, str(passes)), parameters)
        if not self._straight:
            return
        now = {n: p.detach().clone() for n, p in parameters.items()}
        last = self._last.get(position, now)
        moves = self._moves.setdefault(position, [])
        moves.append({n: (p - last[n]).norm() for n, p in now.items()})
        self._last[position] = now
        if passes == self._epochs:
            walked = {n: torch.stack([m[n] for m in moves]).cumsum(0) for n in now}
            shares = {n: w / torch.where(w[-1] > 0, w[-1], 1.0) for n, w in walked.items()}
            self._store.put(content_key(key, _SHARES), shares)
            del self._last[position], self._moves[position]


class Memory:
    """A store for one run that has none."""

    def __init__(self) -> None:
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str) -> dict[str, Tensor] | None:
        return self._tensors.get(key)

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        self._tensors[key] = {n: t.detach().cpu().clone() for n, t in tensors.items()}
