"""The one place that touches torchattacks: PGD and AutoAttack on pixels in [0, 1], with the library's defects kept out.

Every attack here works on a network that takes pixels (normalisation inside), attacks only images the network
classifies correctly, runs in fixed batches from fixed seeds without touching the global random state, and has
its output verified: an x' outside [0, 1], outside the eps ball, or not finite earns no credit and is counted.
Robustness is recomputed from x' by ourselves, never taken from the library.

What torchattacks 3.5.1 does and what happens to it here:

* its AutoAttack runs APGD, APGD-T and FAB for 10 steps, not 100, from clock-time seeds: refused by name, composed anew;
* inputs outside [0, 1] (normalised ones, say) are clamped in silence: refused;
* PGDL2 uses ``view`` and crashes on non-contiguous tensors: inputs are made contiguous;
* PGDL2 divides 0 by 0 at eps 0: the radius is kept above zero;
* CW reads the wrong logits when they are negative, DeepFool and CW have no eps bound: refused by name;
* APGD-T needs four classes for its loss (IndexError below): with two or three, the plain logit margin is used;
* FAB accumulates gradients in the network's parameters: they are frozen during an attack;
* APGD, FAB and Square reset the global random state: it is forked around every call;
* Square can only tile square images, in L2 those of some sizes (not 4, 12 or 14 pixels): it gets others in a square
  frame, which is cut away before the network sees them (what it changes there is lost, so its queries reach less);
* APGD-T in L2 steps every image by the first image's step size: not correctable from outside, stated in the report.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddaudit.errors import BadInput, Unsupported
from ddaudit.training import require_finite

Norm = Literal["Linf", "L2"]

VERSION = "3.5.1"
"""The only torchattacks release whose source was read and tested for this adapter."""

SLACK = 1e-6
"""Allowed overshoot of the eps ball, in pixel units (float32 rounding)."""

REFUSED: dict[str, str] = {
    "cw": "torchattacks' CW takes max(one_hot * logits) for the true logit, which is wrong when it is negative, "
    "and minimises a norm without an eps bound, so its accuracy cannot stand beside bounded attacks",
    "deepfool": "DeepFool minimises a norm without an eps bound, so its accuracy cannot stand beside bounded attacks",
    "torchattacks.autoattack": "torchattacks' AutoAttack runs its parts for 10 steps instead of 100; "
    "'autoattack' here is composed with the published budgets",
    "onepixel": "torchattacks' OnePixel is reported ineffective by its users",
    "spsa": "torchattacks' SPSA runs one iteration by default and stands in no standard evaluation",
}


@dataclass(frozen=True)
class Stage:
    """One step of a composition: how many images still stood after it, and how often it asked the network."""

    name: str
    survivors: int
    model_calls: int


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack left.

    Attributes:
        adversarial: (N, C, H, W) float32 CPU, the verified x'; equal to x where the attack failed or did not run.
        clean_correct: (N,) bool, classified correctly without any attack.
        survived: (N,) bool, classified correctly on x and on x'.
        invalid: number of x' the library returned outside [0, 1], outside the ball, or not finite.
        stages: one entry per attack of a composition.
    """

    adversarial: Tensor
    clean_correct: Tensor
    survived: Tensor
    invalid: int
    stages: tuple[Stage, ...] = field(default=())

    @property
    def clean_accuracy(self) -> float:
        """Fraction correct without attack."""
        return float(self.clean_correct.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """Fraction correct under attack; an image that was wrong to begin with counts as wrong."""
        return float(self.survived.double().mean())


def require_allowed(name: str) -> str:
    """``name`` if it is an attack this auditor runs ("pgd", "autoattack").

    Raises:
        Unsupported: the attack is known and refused; the message says why.
        BadInput: unknown attack.
    """
    key = name.lower()
    if key in ("pgd", "autoattack"):
        return key
    if key in REFUSED:
        raise Unsupported(f"attack '{name}' is refused: {REFUSED[key]}")
    raise BadInput(name, "unknown attack", "Known: pgd, autoattack.")


def pgd(
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
    """Projected gradient descent on the cross-entropy (torchattacks PGD / PGDL2).

    Args:
        network: pixels in [0, 1] -> (N, K) logits; the attack runs on the network's device.
        pixels: (N, C, H, W) uint8, or float in [0, 1].
        labels: (N,) int64.
        eps: radius in pixel units ([0, 1] scale, so 2/255 for two grey levels).
        alpha: step size in pixel units; None: 2.5 * eps / steps, which can cross the ball within the budget.
        restarts: runs, each on the survivors of the one before; all but the first start at random in any case.
        only_correct: attack only images the network gets right; False crafts for all (a transfer attack's source).

    Raises:
        BadInput: pixels outside [0, 1], wrong label range, negative eps.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
    """
    x, y = _inputs(pixels, labels, eps=eps, norm=norm)
    step = 2.5 * eps / steps if alpha is None else alpha

    def build(model: nn.Module, run: int) -> Any:
        lib = _library()
        start = random_start or run > 0
        if norm == "Linf":
            return lib.PGD(model, eps=eps, alpha=step, steps=steps, random_start=start)
        # 0 / 0 at eps = 0 would turn every x' into NaN; a radius below float32 resolution is the same ball.
        return lib.PGDL2(model, eps=max(eps, 1e-12), alpha=step, steps=steps, random_start=start)

    builders = [(f"pgd-{steps}", _with(build, run)) for run in range(restarts)]
    return _compose(
        network, x, y, builders, eps=eps, norm=norm, seed=seed, batch_size=batch_size, only_correct=only_correct
    )  # fmt: skip


def autoattack(
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
    """AutoAttack "standard": APGD-CE, APGD-T, FAB-T, Square, each on the survivors of those before.

    The targeted parts aim at the 9 strongest rival classes, or at all K - 1 where there are fewer. ``steps`` and
    ``queries`` are the published budgets; tests lower them, auditors do not.

    Args: as :func:`pgd`.

    Raises:
        BadInput: as :func:`pgd`.
        Unsupported: the network's logits are not finite.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020 (standard version).
    """
    x, y = _inputs(pixels, labels, eps=eps, norm=norm)
    classes = _num_classes(network, x)
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

    stages: list[tuple[str, Callable[[nn.Module], Any]]]
    stages = [("apgd-ce", apgd_ce), ("apgd-t", apgd_t), ("fab-t", fab_t), ("square", square)]
    return _compose(
        network, x, y, stages, eps=eps, norm=norm, seed=seed, batch_size=batch_size, only_correct=True
    )  # fmt: skip


def verify(original: Tensor, adversarial: Tensor, *, eps: float, norm: Norm) -> Tensor:
    """(N,) bool: x' is finite, within [0, 1], and within ``eps`` (+1e-6) of x.

    Args:
        original, adversarial: (N, C, H, W) pixels.
    """
    delta = (adversarial.double() - original.double()).flatten(1)
    size = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    flat = adversarial.flatten(1)
    inside = (flat >= 0).all(1) & (flat <= 1).all(1) & torch.isfinite(flat).all(1)
    return inside & (size <= eps + SLACK)


def classify(network: nn.Module, pixels: Tensor, *, batch_size: int = 512) -> Tensor:
    """(N,) int64 CPU predictions in eval mode, straight from pixels: no clamp, no attack.

    Raises:
        Unsupported: a logit is NaN or infinite.
    """
    with _frozen(network) as model, torch.no_grad():
        device = model.anchor.device
        starts = range(0, len(pixels), batch_size)
        parts = [model(pixels[i : i + batch_size].to(device)).cpu() for i in starts]
    return require_finite(torch.cat(parts)).argmax(1)


# ---- composition ----------------------------------------------------------------------------------


class _Counted(nn.Module):
    """The network as the library sees it: eval mode, no parameter gradients, every call counted."""

    anchor: Tensor

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        # torchattacks asks the first parameter for the device, and prints when there is none.
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)
        self.network = network
        self.calls = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.network(pixels)
        return logits


def _compose(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    builders: Sequence[tuple[str, Callable[[nn.Module], Any]]],
    *,
    eps: float,
    norm: Norm,
    seed: int,
    batch_size: int,
    only_correct: bool,
) -> AttackResult:
    clean = classify(network, x) == y
    adversarial, standing = x.clone(), clean.clone()
    fooled = torch.zeros_like(clean)
    invalid, stages = 0, []
    for number, (name, build) in enumerate(builders):
        todo = (standing if only_correct else ~fooled).nonzero().flatten()
        calls = 0
        for part, start in enumerate(range(0, len(todo), batch_size)):
            index = todo[start : start + batch_size]
            with (
                _frozen(network) as model,
                _forked_rng(model.anchor.device, seed + 1009 * number + part) as drawn,
            ):
                attack = build(model)
                if hasattr(attack, "seed"):
                    attack.seed = drawn
                device = model.anchor.device
                found = (
                    attack(x[index].contiguous().to(device), y[index].to(device))
                    .detach()
                    .float()
                    .cpu()
                )
                calls += model.calls
            valid = verify(x[index], found, eps=eps, norm=norm)
            invalid += int((~valid).sum())
            found[~valid] = x[index][~valid]
            broken = classify(network, found) != y[index]
            # A failed attempt is kept only as a transfer source; evaluation keeps x there.
            keep = broken if only_correct else torch.ones_like(broken)
            adversarial[index[keep]] = found[keep]
            fooled[index[broken]] = True
            standing[index[broken]] = False
        stages.append(Stage(name, int(standing.sum()), calls))
    return AttackResult(adversarial, clean, standing, invalid, tuple(stages))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[_Counted]:
    """Eval mode and no parameter gradients inside; modes and flags as before outside."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(p, p.requires_grad) for p in network.parameters()]
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    network.eval()
    for p, _ in flags:
        p.requires_grad_(False)
    try:
        yield _Counted(network, device).eval()
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@contextmanager
def _forked_rng(device: torch.device, seed: int) -> Iterator[int]:
    """Seed torch for the library, and give the caller its random state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    seed %= 2**31
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield seed


def _inputs(pixels: Tensor, labels: Tensor, *, eps: float, norm: str) -> tuple[Tensor, Tensor]:
    if norm not in ("Linf", "L2"):
        raise BadInput(f"norm {norm}", "unknown norm", "Known: Linf, L2.")
    if not eps >= 0:
        raise BadInput(f"eps {eps}", "a radius must be zero or more")
    if pixels.ndim != 4 or labels.shape != (len(pixels),) or len(pixels) == 0:
        raise BadInput(
            "images",
            f"shapes {tuple(pixels.shape)} and {tuple(labels.shape)} are not (N, C, H, W) and (N,)",
        )
    x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.detach().float()
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise BadInput(
            "images", f"values run from {low:.3g} to {high:.3g}, outside [0, 1]",
            "Attacks work on pixels; put the normalisation inside the network "
            "(torchattacks would clamp these in silence and blank half of each image).",
        )  # fmt: skip
    return x.cpu().contiguous(), labels.detach().long().cpu()


def _num_classes(network: nn.Module, x: Tensor) -> int:
    with _frozen(network) as model, torch.no_grad():
        logits = model(x[:1].to(model.anchor.device))
    return int(require_finite(logits).shape[1])


def _library() -> Any:
    import torchattacks

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
