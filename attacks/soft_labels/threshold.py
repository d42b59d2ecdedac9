"""The smallest world in which soft labels leak: a linear teacher that memorised noise, and its linear student.

The teacher learns n pairs of Gaussian inputs and coin-toss labels by heart; there is nothing to generalise from.
The student sees a share ``rho`` of the inputs with the teacher's answers and is asked for the labels of the rest,
which it has never seen. With n = alpha d inputs of d numbers, the student solves rho alpha d equations in d
unknowns: from alpha = 1 / rho on it finds the teacher itself and answers without a mistake. With hard labels it
never learns anything. That sharp, known answer is what the auditor's instrument is checked against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_RIDGE = 3e-3
"""Weight decay of the teacher: finite weights where the pairs can be separated, and next to no other effect."""


@dataclass(frozen=True)
class Recall:
    """What teacher and student know.

    Attributes:
        correct: held-out pairs of which the student knows the teacher's label.
        held_out: how many there are.
        memorised: share of its own pairs that the teacher knows, in [0, 1].
    """

    correct: int
    held_out: int
    memorised: float

    @property
    def accuracy(self) -> float:
        """The student's accuracy on held-out pairs, in [0, 1]; 0.5 is chance."""
        return self.correct / self.held_out


def held_out_accuracy(
    d: int, alpha: float, rho: float, *, seed: int, temperature: float = math.inf
) -> Recall:
    """One teacher, one student, and what the student knows of the pairs it has not seen.

    The teacher is a logistic regression without intercept. The student is the pseudo-inverse of its inputs
    applied to the teacher's answers ``tanh(z / (2 temperature))``, which are its probabilities p written as
    2 p - 1: the logits z (up to scale) at infinite temperature, as in the paper, and hard labels at temperature 0.

    Args:
        d: numbers per input.
        alpha: pairs per number, n = alpha d; a teacher can memorise up to about 2.
        rho: share of each class's pairs that the student is trained on, in (0, 1).
        seed: of inputs and labels.
        temperature: of the teacher's answers, 0 to infinity.

    Raises:
        ValueError: too few pairs for two parts of both classes, or a negative temperature.

    Source: Behrens & Zdeborova, Dataset Distillation for Memorized Data: Soft Labels can Leak Held-Out Teacher
        Knowledge, ICLR 2026, arXiv 2506.14457, figure 3. They train the teacher by Adam without weight decay.
    """
    each = round(alpha * d / 2)
    used = math.floor(rho * each + 1e-9)
    if not 0 < used < each:
        raise ValueError(f"alpha {alpha:g}, d {d} and rho {rho:g} leave no pairs on one side")
    if temperature < 0:
        raise ValueError(f"the temperature is not negative: {temperature:g}")
    generator = torch.Generator().manual_seed(seed)
    # Independent inputs: sorting them by class is as random as permuting the labels.
    x = torch.randn(2, each, d, generator=generator, dtype=torch.float64)
    y = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None].expand(2, each)
    weights = _teacher(x.flatten(0, 1), y.flatten())
    logits = x @ weights
    seen = x[:, :used].flatten(0, 1)
    student = torch.linalg.pinv(seen) @ _answers(logits[:, :used].flatten(), temperature)
    right = torch.sign(x[:, used:] @ student) == y[:, used:]
    memorised = (torch.sign(logits) == y).double().mean()
    return Recall(int(right.sum()), right.numel(), float(memorised))


def _teacher(x: Tensor, y: Tensor) -> Tensor:
    """(d,) weights of a logistic regression on (n, d) inputs and labels of -1 or 1."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / _RIDGE, fit_intercept=False, solver="newton-cholesky", max_iter=200
    )
    model.fit(x.numpy(), y.numpy())
    return torch.from_numpy(model.coef_[0]).to(x)


def _answers(logits: Tensor, temperature: float) -> Tensor:
    if math.isinf(temperature):
        return logits
    if temperature == 0:
        return torch.sign(logits)
    return torch.tanh(logits / (2 * temperature))
