"""The attacks by name, AutoAttack's two compositions, and the evaluations of published benchmarks.

Everything takes inputs within ``bounds`` (pixels in [0, 1] unless said otherwise), of any shape (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from ddaudit.attacks.adversarial.apgd import APGD, APGDTargeted
from ddaudit.attacks.adversarial.ball import PIXELS, Bounds, Norm
from ddaudit.attacks.adversarial.execution import AttackResult, InputAttack, run
from ddaudit.attacks.adversarial.fab import FAB
from ddaudit.attacks.adversarial.gradient import FGSM, MIFGSM, PGD, VMIFGSM, Jitter
from ddaudit.attacks.adversarial.minimum_norm import CarliniWagner, DeepFool
from ddaudit.attacks.adversarial.spsa import SPSA
from ddaudit.attacks.adversarial.square import Square
from ddaudit.errors import BadInput, closest

Version = Literal["standard", "rand"]

ATTACKS: dict[str, Callable[[], Sequence[InputAttack]]] = {
    "fgsm": lambda: [FGSM()],
    "pgd": lambda: [PGD(steps=40)],
    "pgd-margin": lambda: [PGD(steps=40, loss="margin")],
    "pgd-dlr": lambda: [PGD(steps=40, loss="dlr")],
    "mi-fgsm": lambda: [MIFGSM()],
    "vmi-fgsm": lambda: [VMIFGSM()],
    "jitter": lambda: [Jitter()],
    "apgd-ce": lambda: [APGD("ce")],
    "apgd-dlr": lambda: [APGD("dlr")],
    "apgd-t": lambda: [APGDTargeted()],
    "fab-t": lambda: [FAB()],
    "square": lambda: [Square()],
    "spsa": lambda: [SPSA()],
    "cw": lambda: [CarliniWagner()],
    "deepfool": lambda: [DeepFool()],
    "autoattack": lambda: standard(),
    "autoattack-rand": lambda: rand(),
}
"""Name -> the attacks it stands for, run one after the other on survivors."""


def require_known(name: str) -> str:
    """The attack's name in small letters.

    Raises:
        BadInput: there is no such attack.
    """
    key = name.lower()
    if key not in ATTACKS:
        raise BadInput(name, "unknown attack", closest(key, ATTACKS))
    return key


def standard(
    *, steps: int = 100, queries: int = 5000, targets: int = 9, rescale: bool = False
) -> list[InputAttack]:
    """AutoAttack "standard": APGD-CE, APGD-T, FAB-T, Square; for networks whose answers do not vary.

    Args:
        steps, queries, targets: the published budgets; tests lower them, auditors do not.
        rescale: Square halves its windows by its budget, as in torchattacks' AutoAttack.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.
    """
    return [
        APGD("ce", steps=steps), APGDTargeted(steps=steps, targets=targets), FAB(steps=steps, targets=targets),
        Square(queries=queries, rescale=rescale),
    ]  # fmt: skip


def rand(*, steps: int = 100, repeats: int = 20) -> list[InputAttack]:
    """AutoAttack "rand": APGD on CE and on DLR, gradients averaged; for networks that are random."""
    return [APGD("ce", steps, repeats), APGD("dlr", steps, repeats)]


def pgd(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 10,
    alpha: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    only_correct: bool = True,
    bounds: Bounds = PIXELS,
    seed: int = 0,
    batch_size: int | None = None,
) -> AttackResult:
    """Projected gradient descent on the cross-entropy.

    Args:
        network, inputs, labels, eps, bounds, seed, batch_size: as :func:`ddaudit.attacks.adversarial.execution.run`.
        alpha: step size in input units; None: 2.5 * eps / steps, which can cross the ball within the budget.
        restarts: runs, each on the survivors of the one before; all but the first start at random in any case.
        only_correct: False crafts for all images and keeps each run's last x', for use on another network.
    """
    first = PGD(steps, alpha, random_start, leave=only_correct)
    runs = [first if i == 0 else replace(first, random_start=True) for i in range(restarts)]
    return run(
        network, inputs, labels, runs, eps=eps, norm=norm, bounds=bounds, seed=seed, batch_size=batch_size,
        only_correct=only_correct,
    )  # fmt: skip


def autoattack(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    version: Version = "standard",
    steps: int = 100,
    queries: int = 5000,
    bounds: Bounds = PIXELS,
    seed: int = 0,
    batch_size: int | None = None,
) -> AttackResult:
    """AutoAttack, each attack on the survivors of those before; see :func:`standard` and :func:`rand`.

    The targeted parts aim at the 9 strongest rivals, or at all K - 1 where there are fewer.
    """
    attacks = standard(steps=steps, queries=queries) if version == "standard" else rand(steps=steps)
    return run(
        network, inputs, labels, attacks, eps=eps, norm=norm, bounds=bounds, seed=seed, batch_size=batch_size
    )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One row of a benchmark's configuration: attacks at a radius (Linf, pixel units)."""

    name: str
    eps: float
    attacks: tuple[InputAttack, ...]


def dd_robustbench() -> list[Cell]:
    """The attacks, step counts and budgets of DD-RobustBench, in its order.

    Its PGD, VMI-FGSM, Jitter and CW step by 2/255; its CW is PGD on the hinge margin of 50 from a random start. Its
    AutoAttack and parts are torchattacks' with 10 steps (APGD-CE alone averages 20 passes, which changes nothing on a
    network that is not random and is left out here). Broken images leave, where the benchmark scores last iterates.

    Source: Wu et al., DD-RobustBench, IEEE TIP 2025, arXiv 2403.13322; released configs/params.yaml.
    """
    step, ten = 2 / 255, {"steps": 10}
    budgets = ((2, 10), (2, 5), (4, 5), (4, 10), (8, 10))
    iterative: dict[str, Callable[[int], InputAttack]] = {
        "vmi-fgsm": lambda n: VMIFGSM(n, step),
        "jitter": lambda n: Jitter(n, step),
        "pgd": lambda n: PGD(n, step),
        "cw-linf": lambda n: PGD(n, step, loss="margin", hinge=50.0),
    }
    cells = [
        Cell(f"{name}-{n}", grey / 255, (make(n),))
        for name, make in iterative.items()
        for grey, n in budgets
    ]
    cells += [Cell("fgsm", grey / 255, (FGSM(),)) for grey in (2, 4, 8)]
    parts: dict[str, tuple[InputAttack, ...]] = {
        "autoattack-10": tuple(standard(steps=10, rescale=True)),
        "apgd-ce-10": (APGD("ce", **ten),),
        "apgd-t-10": (APGDTargeted(**ten),),
        "fab-t-10": (FAB(**ten),),
        "square": (Square(),),
    }
    return cells + [
        Cell(name, grey / 255, attacks) for name, attacks in parts.items() for grey in (1, 2, 3, 4)
    ]
