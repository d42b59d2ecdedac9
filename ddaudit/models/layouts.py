"""Find a network's weights in what training scripts save around them: nesting, prefixes, a second copy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.errors import BadInput

# Where the released code of the DC family puts weights that we keep under another name.
_RENAMES: dict[str, dict[str, str]] = {
    "mlp": {"fc_1.": "features.1.", "fc_2.": "features.3.", "fc_3.": "classifier."},
    "lenet": {"fc_1.": "features.7.", "fc_2.": "features.9.", "fc_3.": "classifier."},
    "alexnet": {"fc.": "classifier."},
    "resnet18": {
        p: f"features.{p}" for p in ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    },
}
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What DataParallel, DDP, AveragedModel, torch.compile, FSDP and activation checkpointing put into names."""
_AVERAGED = re.compile(r"(^|[._])(ema|swa|shadow|averaged?)(?![a-z])", re.IGNORECASE)
_CONSTANTS = {"mean": "std", "mu": "sigma"}
"""What the two constants of a layer that normalises pixels are called."""
_DEEPEST = 8
TOP = "."
"""What the weights outside of any entry are called."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights that fit a network, and where in the file they were.

    Attributes:
        entry: dotted path to them, wrapped modules' prefixes left out; ``TOP`` where nothing is around them.
        tensors: name in the network -> tensor.
        others: entries of the file that hold about as many tensors and were not taken.
        normalisation: where in the file the constants were, if they stood apart from the weights.
    """

    entry: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()
    normalisation: str = ""


def find_weights(
    content: object,
    target: Mapping[str, Tensor],
    *,
    family: str,
    entry: str | None = None,
    where: object,
    fit: str = "",
) -> Weights:
    """The one set of weights in ``content`` that has every name and shape of ``target``.

    Nested dicts, and any prefix that all names share ("module.", "_orig_mod.", "model."), are looked through alike. The
    names may be our own or the plain ones of the DC / BEARD code family ("features.0.weight", "fc_3.bias",
    "conv1.weight" of its ResNet18). Constants of a layer that normalises pixels before the network ("0.mean", "0.std")
    are taken along.

    Args:
        content: what a file held: nested containers of tensors.
        target: the network's own state dict; Normalize constants and batch counters may be missing.
        family: of the architecture, for the field's names.
        entry: which one, where there are several: a dotted path or its beginning (``model_ema``); ``TOP``.
        where, fit: for messages: the file, and the question that helps where nothing fits.

    Raises:
        BadInput: no weights, none that fit (the first mismatch is named), or several and no ``entry`` that decides;
            more than one normalisation.
    """
    groups = list(_groups(content))
    if not any(group.named for group in groups):
        what = "holds tensors without names" if groups else "holds no state dict"
        raise BadInput(where, what, "Expected a dict of weight names and tensors.")
    found = [m for group in groups if group.named for m in _matches(group, target, family)]
    whole = [m for m in found if not m.wrong(target)]
    for match in whole:
        match.explained = [key for m in whole if m.group is match.group for key in m.keys.values()]
    fitting = _distinct([m for m in whole if not m.extra()])
    if not fitting:
        raise BadInput(where, _mismatch(groups, found, target), fit)
    match = _one(fitting, entry, where)
    many = len(match.keys) // 2  # a tensor or two are an accuracy, a counter, a decay
    others = tuple(g.path or TOP for g in groups if g is not match.group and len(g.tensors) >= many)
    read = {m.group.path or TOP for m in whole}  # the same weights once more
    averaged = [name for name in others if _AVERAGED.search(name) and name not in read]
    if averaged and entry is None and not _AVERAGED.search(match.path):
        what = f"holds averaged weights, too ({averaged[0]}), in no layout that is read"
        raise BadInput(where, what, f"To take the others nevertheless: {where}#{match.name}.")
    tensors = {name: match.group.tensors[key] for name, key in match.keys.items()}
    stated = {} if "normalize.mean" in tensors else _constants(groups, match, target)
    if len(stated) > 1:
        what = f"holds {len(stated)} normalisations of pixels: {'; '.join(stated)}"
        raise BadInput(where, what, "Save the network's alone beside its weights.")
    for name, (mean, std) in stated.items():
        constants = {"normalize.mean": mean, "normalize.std": std}
        return Weights(match.name, {**tensors, **constants}, others, name)
    return Weights(match.name, tensors, others)


def _constants(
    groups: Sequence[_Group], match: _Match, target: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Where a mean and a deviation per channel (or for all) are in the file -> these, in the network's shape."""
    if "normalize.mean" not in target:
        return {}
    shape, channels = target["normalize.mean"].shape, target["normalize.mean"].numel()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for group in groups:
        for key, other in group.constants().items():
            pair = group.tensors[key], group.tensors[other]
            per_channel = all(v.ndim and v.numel() in (1, channels) for v in pair)
            if per_channel and not (group is match.group and key in match.keys.values()):
                mean, std = (v.reshape(-1).expand(channels).reshape(shape) for v in pair)
                same = any(torch.equal(mean, m) and torch.equal(std, d) for m, d in found.values())
                if not same:
                    at = f"{group.path}." if group.path else ""
                    found[f"{at}{key}, {at}{other}"] = (mean, std)
    return found


def state_dicts(content: object) -> list[Mapping[str, Tensor]]:
    """Every dict of tensors in nested containers, but for those of optimizers; wrapped modules' prefixes left out."""
    named = (group.tensors for group in _groups(content) if group.named)
    return [{_bare(key): value for key, value in tensors.items()} for tensors in named]


def _one(fitting: Sequence[_Match], entry: str | None, where: object) -> _Match:
    """The match that is meant."""
    plain = len({m.name for m in fitting}) == len(fitting)
    called = {m.name if plain else m.path or TOP: m for m in fitting}
    names = ", ".join(called)
    if entry is not None:
        begun = {n: m for n, m in called.items() if f"{m.path}.".startswith(f"{entry}.")}
        called = {entry: called[entry]} if entry in called else begun
        if not called:
            raise BadInput(f"{where}#{entry}", "no such weights", f"Those that fit: {names}.")
    if len(called) > 1:
        what = f"holds {len(called)} sets of weights that fit: {', '.join(called)}"
        raise BadInput(where, what, f"Name the one that is meant: {where}#{next(iter(called))}.")
    return next(iter(called.values()))


@dataclass(frozen=True, eq=False)
class _Group:
    path: str
    tensors: dict[str, Tensor]
    named: bool
    """False for a list of tensors, whose names are positions."""

    def constants(self) -> dict[str, str]:
        """Name of a mean -> name of its deviation, beside it."""
        split = {key: key.rpartition(".") for key in self.tensors}
        pairs = {
            key: f"{start}{dot}{_CONSTANTS[last]}"
            for key, (start, dot, last) in split.items()
            if last in _CONSTANTS
        }
        return {key: other for key, other in pairs.items() if other in self.tensors}


@dataclass(eq=False)
class _Match:
    """The names under one prefix of one dict, as the network's own."""

    group: _Group
    prefix: str
    keys: dict[str, str]
    """Name in the network -> name in the file."""
    explained: Sequence[str] = ()
    """Names in the file that belong to weights which fit as well: a second copy under another prefix."""

    @property
    def path(self) -> str:
        return ".".join(filter(None, (self.group.path, self.prefix)))

    @property
    def name(self) -> str:
        return _bare(self.path) or TOP

    def missing(self, target: Mapping[str, Tensor]) -> list[str]:
        return [k for k in target if k not in self.keys and not _optional(k)]

    def wrong(self, target: Mapping[str, Tensor]) -> str:
        """What is not there, or of another shape; empty where all fits."""
        missing = self.missing(target)
        if missing:
            counts = f"{len(missing)} missing, {len(self.extra())} unexpected weights"
            return f"lacks {missing[0].removeprefix('body.')!r} ({counts})"
        for name, key in self.keys.items():
            value = self.group.tensors[key]
            if value.shape != target[name].shape:
                return f"{key!r} is {tuple(value.shape)}, expected {tuple(target[name].shape)}"
        return ""

    def extra(self) -> list[str]:
        constants = self.group.constants()
        known = {*self.keys.values(), *self.explained, *constants, *constants.values()}
        under = f"{self.prefix}." if self.prefix else ""
        return [k for k in self.group.tensors if k.startswith(under) and k not in known]


def _groups(content: object) -> Iterator[_Group]:
    """The dicts and lists that hold tensors, outermost first."""
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    seen: set[int] = set()  # pickles may hold themselves
    for path, value, depth in waiting:
        named = isinstance(value, Mapping)
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if not isinstance(value, Mapping) or "param_groups" in value or id(value) in seen:
            continue  # an optimizer's moments have the shapes of weights and are none
        seen.add(id(value))
        items = {str(k): v for k, v in value.items() if isinstance(k, str | int)}
        tensors = {k: v for k, v in items.items() if isinstance(v, Tensor)} | _numbers(items)
        if tensors:
            yield _Group(path, tensors, named)
        if depth < _DEEPEST:
            inner = ((k, v) for k, v in items.items() if isinstance(v, Mapping | list | tuple))
            waiting += [(f"{path}.{k}" if path else k, v, depth + 1) for k, v in inner]


def _numbers(items: Mapping[str, object]) -> dict[str, Tensor]:
    """Constants of a normalisation that are lists of numbers."""
    names = {*_CONSTANTS, *_CONSTANTS.values()}
    lists = {k: v for k, v in items.items() if k in names and isinstance(v, list | tuple) and v}
    return {
        k: torch.tensor([float(x) for x in v])
        for k, v in lists.items()
        if all(isinstance(x, float) or (type(x) is int and abs(x) < 256) for x in v)
    }


def _matches(group: _Group, target: Mapping[str, Tensor], family: str) -> list[_Match]:
    """One for every prefix under which at least one name is the network's."""
    found: dict[str, _Match] = {}
    for key in sorted(group.tensors, key=_wrappers):  # the least wrapped of two that are one name
        words = key.split(".")
        for cut in range(min(len(words), 2 * _DEEPEST)):
            name = _own_name(words[cut:], target, family)
            if name is not None:
                prefix = ".".join(words[:cut])
                match = found.setdefault(prefix, _Match(group, prefix, {}))
                match.keys.setdefault(name, key)
    return list(found.values())


def _own_name(words: Sequence[str], target: Mapping[str, Tensor], family: str) -> str | None:
    """Our name of a weight that may carry the field's, wrappers within it left out; None: it is none of ours."""
    stated, bare = ".".join(words), ".".join(w for w in words if w not in _WRAPPERS)
    for key in dict.fromkeys((stated, bare)):
        options = [key, f"body.module.{key}" if family == "own" else f"body.{key}"]
        options += [
            f"body.{ours}{key[len(theirs) :]}"
            for theirs, ours in _RENAMES.get(family, {}).items()
            if key.startswith(theirs)
        ]
        for name in options:
            if name in target:
                return name
    return None


def _distinct(matches: Sequence[_Match]) -> list[_Match]:
    """Matches that take other tensors than those before them."""
    kept: list[_Match] = []
    for match in sorted(matches, key=lambda m: len(m.prefix)):
        if not any(_same(match, other) for other in kept):
            kept.append(match)
    return [m for m in matches if m in kept]


def _same(a: _Match, b: _Match) -> bool:
    return all(
        name in b.keys and _equal(a.group.tensors[key], b.group.tensors[b.keys[name]])
        for name, key in a.keys.items()
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    plain = all(t.layout == torch.strided and not t.is_quantized and not t.is_meta for t in (a, b))
    return plain and a.dtype == b.dtype and torch.equal(a, b)


def _mismatch(
    groups: Sequence[_Group], found: Sequence[_Match], target: Mapping[str, Tensor]
) -> str:
    """What is wrong with the weights that come nearest."""
    largest = max((g for g in groups if g.named), key=lambda g: len(g.tensors))
    best = max(found, key=lambda m: len(m.keys), default=_Match(largest, "", {}))
    return best.wrong(target) or (
        f"has an unexpected {best.extra()[0]!r} (0 missing, {len(best.extra())} unexpected weights)"
    )


def _bare(path: str) -> str:
    return ".".join(word for word in path.split(".") if word not in _WRAPPERS)


def _wrappers(path: str) -> int:
    return sum(word in _WRAPPERS for word in path.split("."))


def _optional(name: str) -> bool:
    """True for what a network has by itself: its own normalisation, and counters that nothing reads."""
    return name.startswith("normalize.") or name.endswith("num_batches_tracked")
