"""torchattacks behind the same interface as our attacks, for comparing the two: the extra ``ddaudit[torchattacks]``.

No auditor needs it. Its attacks run through :func:`ddaudit.attacks.adversarial.execution.run`, so that images, batches
and the verification of x' are the same for both. What torchattacks 3.5.1 does and what happens to it here:

* its AutoAttack runs APGD, APGD-T and FAB for 10 steps, not 100, from clock-time seeds: composed anew;
* inputs outside [0, 1] (normalised ones, say) are clamped in silence: refused;
* PGDL2 uses ``view`` and crashes on non-contiguous tensors: inputs are made contiguous;
* PGDL2 divides 0 by 0 at eps 0: the radius is kept above zero;
* APGD-T needs four classes for its loss (IndexError below): with two or three, the plain logit margin is used;
* FAB accumulates gradients in the network's parameters: they are frozen during an attack;
* APGD, FAB and Square reset the global random state: it is forked around every call;
* Square can only tile square images, in L2 those of some sizes (not 4, 12 or 14 pixels): it gets others in a square
  frame, which is cut away before the network sees them (what it changes there is lost, so its queries reach less);
* APGD-T in L2 steps every image by the first image's step size: not correctable from outside.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.ball import Ball, Noise, Norm
from ddaudit.attacks.adversarial.execution import AttackResult, Model, frozen, run
from ddaudit.errors import BadInput, Unsupported
from ddaudit.training import require_finite

VERSION = "3.5.1"
"""The only torchattacks release whose source was read and tested for this adapter."""


def library_pgd(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 10,
    alpha: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    only_correct: bool = True,
    seed: int = 0,
    batch_size: int = 256,
) -> AttackResult:
    """torchattacks' PGD / PGDL2; arguments as :func:`ddaudit.attacks.adversarial.suite.pgd`."""
    step = 2.5 * eps / steps if alpha is None else alpha

    def build(model: nn.Module, run: int) -> Any:
        start = random_start or run > 0
        if norm == "Linf":
            return _library().PGD(model, eps=eps, alpha=step, steps=steps, random_start=start)
        # 0 / 0 at eps = 0 would turn every x' into NaN; a radius below float32 resolution is the same ball.
        return _library().PGDL2(
            model, eps=max(eps, 1e-12), alpha=step, steps=steps, random_start=start
        )

    attacks = [LibraryAttack(f"pgd-{steps}", _with(build, i)) for i in range(restarts)]
    return run(
        network, pixels, labels, attacks, eps=eps, norm=norm, seed=seed, batch_size=batch_size,
        only_correct=only_correct,
    )  # fmt: skip


def library_autoattack(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 100,
    queries: int = 5000,
    seed: int = 0,
    batch_size: int = 256,
) -> AttackResult:
    """torchattacks' APGD, APGDT, FAB and Square, composed as AutoAttack "standard" with the published budgets.

    Arguments as :func:`ddaudit.attacks.adversarial.suite.autoattack`.
    """
    x = pixels[:1].float() / 255 if pixels.dtype == torch.uint8 else pixels[:1]
    with frozen(network) as model:
        classes = require_finite(model.logits(x.to(model.device))).shape[1]
    aimed = min(classes, 10)

    def apgd_ce(model: nn.Module) -> Any:
        return _library().APGD(model, norm=norm, eps=eps, steps=steps, loss="ce", seed=0)

    def apgd_t(model: nn.Module) -> Any:
        kind = _library().APGDT if classes >= 4 else _margin_apgdt()
        return kind(model, norm=norm, eps=eps, steps=steps, n_classes=aimed, seed=0)

    def fab_t(model: nn.Module) -> Any:
        return _library().FAB(
            model, norm=norm, eps=eps, steps=steps, multi_targeted=True, n_classes=aimed, seed=0
        )

    def square(model: nn.Module) -> Any:
        return _FramedSquare(model, norm=norm, eps=eps, n_queries=queries)

    parts = {"apgd-ce": apgd_ce, "apgd-t": apgd_t, "fab-t": fab_t, "square": square}
    attacks = [LibraryAttack(name, build) for name, build in parts.items()]
    return run(
        network, pixels, labels, attacks, eps=eps, norm=norm, seed=seed, batch_size=batch_size
    )


@dataclass(frozen=True, eq=False)
class LibraryAttack:
    """An attack object of torchattacks as an :class:`~ddaudit.attacks.adversarial.execution.InputAttack`."""

    name: str
    build: Callable[[nn.Module], Any]

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        with _forked_rng(model.device, noise.seed + int(noise.images[0])) as drawn:
            attack = self.build(_Module(model))
            if hasattr(attack, "seed"):
                attack.seed = drawn
            made: Tensor = attack(x.contiguous(), y)
        return made


class _Module(nn.Module):
    """The counted model as the module that the library wants."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        # torchattacks asks the first parameter for the device, and prints when there is none.
        self.anchor = nn.Parameter(torch.zeros((), device=model.device), requires_grad=False)
        self.call = model.counted
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.call(pixels)


@contextmanager
def _forked_rng(device: torch.device, seed: int) -> Iterator[int]:
    """Seed torch for the library, and give the caller its random state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    seed %= 2**31
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield seed


def _library() -> Any:
    try:
        import torchattacks
    except ImportError:
        raise BadInput(
            "torchattacks", "is not installed", "pip install 'ddaudit[torchattacks]'"
        ) from None
    if torchattacks.__version__ != VERSION:
        raise Unsupported(
            f"torchattacks {torchattacks.__version__} is installed, and its defects are known only for {VERSION}"
        )
    return torchattacks


def _margin_apgdt() -> Any:
    """APGD-T on the plain logit margin, for fewer than four classes (the DLR ratio needs the fourth logit)."""

    class MarginAPGDT(_library().APGDT):  # type: ignore[misc]
        def dlr_loss_targeted(self, x: Tensor, y: Tensor, y_target: Tensor) -> Tensor:
            rows = torch.arange(len(x), device=x.device)
            return x[rows, y_target] - x[rows, y]

    return MarginAPGDT


class _FramedSquare:
    """The Square attack on images of any shape: in the corner of a square, of which the network sees the corner."""

    def __init__(self, model: nn.Module, *, norm: Norm, **options: Any) -> None:
        self.model, self.norm, self.options, self.seed = model, norm, options, 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        height, width = x.shape[2:]
        side = next(s for s in count(max(height, width)) if self.norm == "Linf" or _tiles(s))
        framed = nn.functional.pad(x, (0, side - width, 0, side - height), value=0.5)
        seen = _Corner(self.model, height, width)
        attack = _library().Square(seen, norm=self.norm, seed=self.seed, **self.options)
        found: Tensor = attack(framed, y)
        return found[..., :height, :width]


def _tiles(side: int) -> bool:
    """Whether the start of Square in L2 fits: tiles of a fifth of the side, beginning after half of what is left."""
    tile = side // 5
    return tile == 1 or (tile > 1 and (side - 5 * tile) // 2 + side // tile * tile <= side)


class _Corner(nn.Module):
    """A network on the upper left corner of larger images."""

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.network, self.height, self.width = network, height, width

    def forward(self, framed: Tensor) -> Tensor:
        logits: Tensor = self.network(framed[..., : self.height, : self.width])
        return logits


def _with(build: Callable[[nn.Module, int], Any], run: int) -> Callable[[nn.Module], Any]:
    return lambda model: build(model, run)
