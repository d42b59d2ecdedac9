"""Architectures that are not ours: what a package registers, ``file.py:ClassName``, ``timm:NAME``, a module in hand.

A class is called with those of these arguments that it takes: ``num_classes`` (or ``classes``, ``n_classes``),
``in_channels`` (``channel``, ``channels``, ``in_chans``), ``image_size`` (``im_size``, (H, W)), ``shape`` (C, H, W).
Its modules take normalised images (N, C, H, W) and give logits (N, K).
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddaudit.errors import BadInput, Unsupported, closest
from ddaudit.files import kind_of, read_bytes
from ddaudit.models.arch import Arch
from ddaudit.models.network import Body, Network
from ddaudit.registry import Registry

Make = Callable[..., nn.Module]
_TIMM = "timm:"

ARCHS: Registry[Make] = Registry(
    "arch",
    of=None,
    row=lambda make: {
        "name": make.__name__,
        "description": (inspect.getdoc(make) or "no description").splitlines()[0],
    },
)
"""Architectures of other packages (entry-point group ``ddaudit.archs``: a class or function)."""


def own_arch(name: str) -> Arch:
    """The architecture that ``file.py:ClassName``, ``timm:NAME`` or a registered name stands for.

    Raises:
        BadInput: no such file, class or name, or the file cannot be imported.
    """
    make = find(name)
    return Arch("own", own=name, digest=_digest(name, make), norm="unknown")


def is_timm(name: str) -> bool:
    """True for an architecture of PyTorch Image Models: ``timm:resnet10t``."""
    return name.startswith(_TIMM)


def find(name: str) -> Make:
    """The class itself. Importing ``file.py`` runs it: the user named it.

    Raises:
        BadInput: see :func:`own_arch`.
    """
    if is_timm(name):
        return _of_timm(name)
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return ARCHS.get(name)
    path = Path(file).expanduser()
    if kind_of(path) != "file":
        raise BadInput(f"--arch {name}", f"there is no file {file}", "Write FILE.py:ClassName.")
    module = f"ddaudit_arch_{hashlib.sha256(read_bytes(path)).hexdigest()[:16]}"
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except (Exception, SystemExit) as error:  # the user's own code
            del sys.modules[module]
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadInput(f"--arch {name}", f"{file} cannot be imported ({why})") from None
    found = getattr(sys.modules[module], attribute, None)
    if not callable(found):
        raise BadInput(f"--arch {name}", f"{file} has no class or function '{attribute}'")
    make: Make = found
    return make


def own_body(arch: Arch, shape: tuple[int, int, int], num_classes: int) -> Body:
    """A freshly made body of an architecture of the user's own.

    Raises:
        BadInput: it wants arguments that we do not know, or fails on images of this shape.
    """
    where, make = f"--arch {arch.own}", find(arch.own)
    size = shape[1:]
    offers: dict[str, Any] = dict.fromkeys(("num_classes", "classes", "n_classes"), num_classes)
    offers |= dict.fromkeys(("in_channels", "channel", "channels", "in_chans"), shape[0])
    offers |= dict.fromkeys(("image_size", "im_size"), size) | {"shape": shape}
    taken = inspect.signature(make).parameters
    unknown = [
        p.name
        for p in taken.values()
        if p.name not in offers
        and p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if unknown:
        raise BadInput(
            where, f"wants the argument '{unknown[0]}'", f"It may take: {', '.join(offers)}."
        )
    try:
        body = OwnBody(make(**{k: v for k, v in offers.items() if k in taken}), num_classes)
        with torch.no_grad():
            drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
            logits = body.eval()(drawn)
    except Exception as error:  # the user's own code
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInput(where, f"fails on {shape} images ({why})") from None
    if tuple(logits.shape) != (2, num_classes):
        raise BadInput(where, f"gives {tuple(logits.shape)}, not (2, {num_classes}) logits")
    if gives_probabilities(logits):
        raise BadInput(where, *NOT_LOGITS)
    return body.train()


NOT_LOGITS = (
    "gives probabilities (rows of 0 to 1 that sum to 1), not logits",
    "Leave the softmax out, or take the logarithm: 'x.log()'.",
)


def gives_probabilities(answers: Tensor) -> bool:
    """Whether (N, K) outputs look like a softmax's; of a single class every answer does."""
    sums = answers.sum(1)
    return (
        answers.shape[1] > 1 and float(answers.min()) >= 0 and float((sums - 1).abs().max()) < 1e-3
    )


def wrap(
    module: nn.Module,
    shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """A module in hand as a Network; without constants it takes pixels as they are."""
    channels = shape[0]
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return Network(
        OwnBody(module, num_classes),
        arch=Arch("own", own=name, norm="unknown"),
        shape=shape,
        num_classes=num_classes,
        mean=mean or (0.0,) * channels,
        std=std or (1.0,) * channels,
    )


class OwnBody(Body):
    """A body around any module: embeddings are what its last linear layer of K outputs takes in."""

    def __init__(self, module: nn.Module, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.module = module
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        return logits

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Refused: which of a module's parts are its blocks, nobody said.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("needs the maps of a network's blocks; take ConvNet, ResNet18 or MLP")

    @property
    def classifier(self) -> nn.Linear:  # type: ignore[override]
        """The last linear layer with K outputs.

        Raises:
            Unsupported: there is none.
        """
        layers = [
            m
            for m in self.module.modules()
            if isinstance(m, nn.Linear) and m.out_features == self.num_classes
        ]
        if not layers:
            raise Unsupported("needs embeddings, and this network ends in no linear layer")
        return layers[-1]

    @property
    def features(self) -> nn.Module:  # type: ignore[override]
        """(N, C, H, W) normalised images -> (N, D), the classifier's input."""
        return _Embedding(self)


class _Embedding(nn.Module):
    def __init__(self, body: OwnBody) -> None:
        super().__init__()
        self._body = (body,)  # a tuple: not a submodule, whose weights would count twice

    def forward(self, x: Tensor) -> Tensor:
        taken: list[Tensor] = []
        (body,) = self._body
        hook = body.classifier.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            body(x)
        finally:
            hook.remove()
        return taken[-1].flatten(1)


def _of_timm(name: str) -> Make:
    """A maker of untrained networks: victims learn from the set that is audited and from nothing else.

    Raises:
        BadInput: timm is not installed, has no such model, or its weights are named.
    """
    timm, model = _timm(name), name.removeprefix(_TIMM)
    if not timm.is_model(model):
        hint = closest(model, timm.list_models())
        raise BadInput(f"--arch {name}", "timm has no such model", hint)
    if "." in model:
        plain = _TIMM + model.partition(".")[0]
        raise BadInput(
            f"--arch {name}",
            "names pretrained weights, and victims start untrained",
            f"Write {plain}.",
        )

    def make(num_classes: int, in_chans: int, image_size: tuple[int, int]) -> nn.Module:
        # Position embeddings and the like are made for one size; other models take any, and no such argument.
        sized = timm.get_pretrained_cfg(model).fixed_input_size
        more = {"img_size": image_size} if sized else {}
        made: nn.Module = timm.create_model(
            model, pretrained=False, num_classes=num_classes, in_chans=in_chans, **more
        )
        return made

    return make


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise BadInput(
            f"--arch {name}", "needs timm, which is not installed", "pip install 'ddaudit[timm]'"
        ) from None
    return timm


def _digest(name: str, make: Make) -> str:
    """A hash of the file that defines an architecture, or of timm's version: other code is another architecture."""
    try:
        content = (
            f"timm {_timm(name).__version__}".encode()
            if is_timm(name)
            else Path(inspect.getfile(make)).read_bytes()
        )
    except (OSError, TypeError):
        content = repr(make).encode()
    return hashlib.sha256(content).hexdigest()[:8]
