"""The accuracy of kernel ridge regression from a distilled set: the number kernel papers report."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.distillation.kernels.base import Kernel
from ddaudit.distillation.kernels.ridge import centred_targets, predict, solve
from ddaudit.sets import DistilledSet
from ddaudit.training import require_finite

_BLOCK = 1024


def krr_accuracy(
    made: DistilledSet, images: Tensor, labels: Tensor, *, kernel: Kernel, reg: float
) -> float:
    """Share of images that kernel ridge regression from the distilled set classifies correctly.

    Args:
        made: the set; its card says how pixels are normalised. Soft labels are used as they are.
        images: (N, C, H, W) test images, pixels in [0, 1].
        labels: (N,) int64.
        kernel: the kernel; a set distilled for one need not be good for another.
        reg: ridge relative to the mean diagonal of the support kernel.

    Returns:
        A fraction in [0, 1].

    Raises:
        Unsupported: an answer is NaN or infinite, and its largest is none.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in (made.card.mean, made.card.std))
    with torch.no_grad():
        support = kernel.embed((made.images - mean) / std).double()
        y = centred_targets(made.labels, made.num_classes).double()
        coefficients = solve(kernel.gram(support, support), y, reg)
        correct = 0
        for block, answers in zip(images.split(_BLOCK), labels.split(_BLOCK), strict=True):
            z = kernel.embed((block - mean) / std).double()
            answer = predict(kernel.gram(z, support), coefficients)
            require_finite(answer, "an answer of kernel regression")
            correct += int((answer.argmax(1) == answers).sum())
    return correct / len(images)
