"""One engine that trains many small networks: victims, shadows and evaluation pools.

A network's result depends on its own set and seed, never on its neighbours or on the strategy
picked (within floating-point tolerance). Arithmetic is float32 throughout; TF32 is switched off
while training on CUDA.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.errors import BadInput, NotFinite
from ddaudit.models import Arch, Network, build
from ddaudit.training._data import Pool, check_set, pixels
from ddaudit.training._memory import reuse_memory
from ddaudit.training._plan import Plan, plan
from ddaudit.training._precision import exact_float32
from ddaudit.training._steps import AfterChunk, Beside, Compiled, train_loop, train_stacked
from ddaudit.training.losses import check_labels, log_shares, targets
from ddaudit.training.protocols import EvaluationProtocol
from ddaudit.training.views import Replay

log = logging.getLogger(__name__)

Strategy = Literal["auto", "loop", "compiled", "stacked"]
AfterPass = Callable[[int, int, Mapping[str, Tensor]], None]


@dataclass(frozen=True, eq=False)
class Extras:
    """What a set brings beside images and labels; read only by protocols that ask for it.

    Attributes:
        store: views and labels per epoch, over as many images as the set has.
        outliers: (M2, C, H, W) float pixels that a network should be unsure of.
        shift: (num_classes,) constants added to the logits while the network is trained, and not afterwards; read by
            every protocol. tau * log(class shares) is logit adjustment (Menon et al., ICLR 2021); a protocol that
            adjusts puts the shares of the set itself here.
        tilt: (num_classes,) weights of the classes in the cross-entropy at the end of training, towards which they
            move from 1 as the square of the share of steps done.
    """

    store: Replay | None = None
    outliers: Tensor | None = None
    shift: Tensor | None = None
    tilt: Tensor | None = None


def train_many(
    sets: Sequence[tuple[Tensor, Tensor]],
    *,
    arch: Arch,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    protocol: EvaluationProtocol,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    strategy: Strategy = "auto",
    extras: Sequence[Extras] | None = None,
    start: Sequence[Network] | None = None,
    after_pass: AfterPass | None = None,
) -> list[Network]:
    """Train one network per (set, seed) pair.

    Args:
        sets: (images, labels) each: images (M, C, H, W) float pixels in [0, 1] or uint8, labels
            (M,) int64 or (M, num_classes) float distributions. Sets may differ in size; the same
            tensors may appear many times.
        arch: architecture of all networks.
        mean: per-channel normalisation mean; ``std`` likewise.
        protocol: how to train, with its augmentation resolved (``protocol.for_data(...)``).
        seeds: one per set: initialisation, data order and augmentation of that network.
        device: where to train and where the networks are left.
        strategy: "loop" one at a time, "compiled" one at a time through torch.compile, "stacked"
            all at once through torch.func; "auto" picks by device and size. Each network's
            ``trained_with`` says which ran.
        extras: one per set: label stores and outliers, for protocols that use them.
        start: networks to train on, in place, one per set; None: fresh ones of their seeds.
        after_pass: called with a network's position, the passes over its set that are done (0 before the first),
            and its named parameters, which change when training goes on.

    Returns:
        One network per pair, in order, in eval mode on ``device``.

    Raises:
        BadInput: images, labels, architecture or protocol do not fit each other.
    """
    if len(sets) != len(seeds):
        raise ValueError(f"{len(sets)} sets but {len(seeds)} seeds")
    device = torch.device(device)
    besides = list(extras) if extras is not None else [Extras()] * len(sets)
    for (images, labels), extra in zip(sets, besides, strict=True):
        check_set(images, labels, num_classes)
        check_labels(labels, protocol)
        _check_extras(extra, len(images), protocol)
    networks = (
        [net.to(device) for net in start]
        if start is not None
        else [
            build(arch, shape=_shape(x), num_classes=num_classes, seed=s, mean=mean, std=std).to(
                device
            )
            for (x, _), s in zip(sets, seeds, strict=True)
        ]
    )
    if protocol.adjust:
        besides = [
            replace(
                e,
                shift=protocol.adjust * log_shares(targets(y, protocol, num_classes), num_classes),
            )
            for e, (_, y) in zip(besides, sets, strict=True)
        ]
    if any(e.shift is not None or e.tilt is not None for e in besides):
        strategy = "loop"  # they belong to one network
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for k, (x, y) in enumerate(sets):
        groups[(tuple(x.shape), x.dtype == torch.uint8, y.ndim)].append(k)
    with exact_float32(), reuse_memory():
        for members in groups.values():
            chosen = plan(
                strategy, networks[members[0]], count=len(members), size=len(sets[members[0]][0]),
                protocol=protocol, device=device,
            )  # fmt: skip
            log.info(
                "training %d x %s as %s: %s", len(members), arch, chosen.strategy, chosen.reason
            )
            _run(
                chosen,
                [networks[k] for k in members],
                [sets[k] for k in members],
                [seeds[k] for k in members],
                [besides[k] for k in members],
                protocol=protocol,
                mean=mean,
                std=std,
                device=device,
                after=after_pass,
                positions=members,
            )
    return networks


def at_once(images: Tensor, most: int = 512) -> int:
    """How many (N, ...) images a network sees at a time: ``most`` of 3 x 32 x 32, fewer of larger ones, so that memory
    grows neither with N nor with their size."""
    return max(1, min(most, most * 3072 // max(1, images[:1].numel())))


def predict(
    network: Network,
    images: Tensor,
    *,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Logits in eval mode, without gradients.

    Args:
        network: any Network; its training flag is put back afterwards.
        images: (N, C, H, W) float pixels in [0, 1] or uint8.
        device: None for where the network is; else the network is moved there.
        batch_size: images at a time; None: :func:`at_once`.

    Returns:
        (N, K) float32 on the CPU, all finite.

    Raises:
        NotFinite: a logit is NaN or infinite.
    """
    if device is not None:
        network.to(device)
    batch_size = batch_size or at_once(images)
    logits = torch.empty(len(images), network.num_classes)
    training = network.training
    network.eval()
    with torch.inference_mode(), exact_float32(), reuse_memory():
        for i in range(0, len(images), batch_size):
            batch = pixels(images[i : i + batch_size].to(network.device))
            logits[i : i + batch_size] = network(batch).cpu()
    network.train(training)
    return require_finite(logits)


def features(network: Network, images: Tensor) -> Tensor:
    """(N, D) float32 CPU features of a network's ``embed``, without gradients; :func:`predict` says of which images.

    Raises:
        NotFinite: a feature is NaN or infinite.
    """
    with torch.inference_mode(), exact_float32():
        parts = [
            network.embed(pixels(part.to(network.device))).float().cpu()
            for part in images.split(at_once(images))
        ]
    return require_finite(torch.cat(parts), "features of images")


def require_finite(
    values: Tensor, what: str = "the logits of a network (diverged in training, or damaged)"
) -> Tensor:
    """The (N, ...) values, if they are numbers: scores of NaN would be numbers all the same.

    Args:
        values: one row a record.
        what: names them in the message.

    Raises:
        NotFinite: a value is NaN or infinite.
    """
    broken = int((~torch.isfinite(values)).flatten(1).any(1).sum())
    if broken:
        raise NotFinite(
            f"{what} are not finite for {broken} of {len(values)} records, so that no number can be read from them"
        )
    return values


def _run(
    chosen: Plan,
    networks: list[Network],
    sets: list[tuple[Tensor, Tensor]],
    seeds: list[int],
    extras: list[Extras],
    *,
    protocol: EvaluationProtocol,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    after: AfterPass | None,
    positions: Sequence[int],
) -> None:
    """Carry out a plan on networks whose sets are alike in shape, size and kind of labels.

    ``positions`` are those of the networks in the call of the engine, which ``after`` is told."""
    used = chosen.strategy
    compiled = None
    if used == "compiled":
        try:
            compiled = Compiled(networks[0], batch=min(protocol.batch_size, len(sets[0][0])))
        except Exception as error:  # compilers fail in as many ways as there are compilers
            log.warning(
                "torch.compile failed (%s), training in a loop", str(error).splitlines()[:1]
            )
            used = "loop"
    for at in range(0, len(networks), chosen.chunk):
        part = slice(at, at + chosen.chunk)
        pool = Pool.of(sets[part], mean=mean, std=std, device=device)
        pool.labels = targets(pool.labels, protocol, networks[at].num_classes)
        tell = _telling(after, positions[part])
        if used == "stacked":
            train_stacked(networks[part], pool, seeds=seeds[part], protocol=protocol, after=tell)
            continue
        beside = _on_device(extras[at], protocol, mean=mean, std=std, device=device)
        if compiled is not None:
            compiled.train(
                networks[at], pool, seed=seeds[at], protocol=protocol, beside=beside, after=tell
            )
        else:
            train_loop(
                networks[at], pool, seed=seeds[at], protocol=protocol, beside=beside, after=tell
            )
    for network in networks:
        network.trained_with = used


def _telling(after: AfterPass | None, positions: Sequence[int]) -> AfterChunk | None:
    """``after`` for networks that are trained together, which stand at ``positions``."""
    if after is None:
        return None

    def tell(passes: int, parameters: Sequence[Mapping[str, Tensor]]) -> None:
        for position, named in zip(positions, parameters, strict=True):
            after(position, passes, named)

    return tell


@dataclass(frozen=True, eq=False)
class _Stored:
    """A label store on the device of training."""

    boxes: Tensor
    flips: Tensor
    logits: Tensor
    partners: Tensor | None
    patches: Tensor | None


def _on_device(
    extra: Extras,
    protocol: EvaluationProtocol,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> Beside:
    store, outliers = extra.store, extra.outliers
    kept, pool = None, None
    if store is not None and protocol.labels == "store":
        partners, patches = store.partners, store.patches
        kept = _Stored(
            store.boxes.to(device),
            store.flips.to(device),
            store.logits.to(device),
            None if partners is None else partners.to(device),
            None if patches is None else patches.to(device),
        )
    if outliers is not None and protocol.outlier_weight > 0:
        unread = torch.zeros(len(outliers), dtype=torch.int64)
        pool = Pool.of([(outliers, unread)], mean=mean, std=std, device=device)
    shift, tilt = (None if t is None else t.to(device) for t in (extra.shift, extra.tilt))
    return Beside(kept, pool, shift, tilt)


def _check_extras(extra: Extras, size: int, protocol: EvaluationProtocol) -> None:
    where = f"protocol '{protocol.name}'"
    if extra.tilt is not None and protocol.loss in ("kl", "mse"):
        raise BadInput(
            where, f"weighs classes in a cross-entropy, and its loss is '{protocol.loss}'"
        )
    if protocol.labels == "store":
        if extra.store is None:
            raise BadInput(where, "replays a label store, and the set has none")
        if extra.store.boxes.shape[1] != size:
            what = f"replays a label store of {extra.store.boxes.shape[1]} images on {size} images"
            raise BadInput(where, what)
    if protocol.outlier_weight > 0 and extra.outliers is None:
        raise BadInput(where, "trains on outliers, and the set has none")


def _shape(images: Tensor) -> tuple[int, int, int]:
    c, h, w = images.shape[1:]
    return int(c), int(h), int(w)
