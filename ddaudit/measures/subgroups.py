"""What a group is: its accuracy, the group that training favours in each class, and what confidence it gets."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.findings import Metric
from ddaudit.measures import deo
from ddaudit.measures.gaps import PAIRED, STANDARD, Answers, versions_of
from ddaudit.stats import Resamples, crossed, crossed_difference, crossed_rate, max_min_gap


def group_metrics(answers: Answers) -> list[Metric]:
    """Accuracy of each group that has test images."""
    out = []
    for group, name in enumerate(answers.group_names):
        inside = answers.groups == group
        if bool(inside.any()):
            rate = crossed_rate(answers.correct[:, inside])
            params = {"group": name}
            out.append(Metric.of("bias.group_accuracy", rate, direction="higher", params=params))
    return out


def majority_groups(train: ImageData) -> Tensor | None:
    """(K,) the group that most training images of each class have; None without a clear majority.

    Clear: in every class it has half of the images, or twice those of the next group; and it is not one group for
    all classes.
    """
    if train.groups is None:
        return None
    groups = int(train.groups.max()) + 1
    counts = deo.cell_counts(
        train.labels, train.groups, num_classes=train.num_classes, num_groups=groups
    )
    if groups < 2:
        return None
    first, second = counts.sort(0, descending=True).values[:2]
    clear = (2 * first >= counts.sum(0)) | (first >= 2 * second)
    top = counts.argmax(0)
    return top if bool((clear & (first > 0)).all()) and len(torch.unique(top)) > 1 else None


def alignment_metrics(
    answers: Answers, majority: Tensor | None, *, test: str = STANDARD
) -> list[Metric]:
    """Accuracy where the group is the class's majority group in training, and elsewhere.

    On a paired test set also how much the majority's version of an image gains over its other versions.

    Raises:
        Unsupported: the records of a paired test set are not in order.
    """
    if majority is None:
        return []
    aligned = answers.groups == majority[answers.labels]
    if not bool(aligned.any()) or bool(aligned.all()):
        return []
    if test == PAIRED:
        _, right = versions_of(answers, answers.correct)
        _, own = versions_of(answers, aligned.expand_as(answers.correct))
        mean = {
            "aligned": (right * own).sum(2),
            "conflicting": (right * ~own).sum(2) / (right.shape[2] - 1),
        }
        gap = crossed_difference(mean["aligned"] - mean["conflicting"])
        return [
            *(
                Metric.of(
                    f"bias.{name}_accuracy", crossed_rate(table), direction="higher",
                    params={"test": test},
                )
                for name, table in mean.items()
            ),
            Metric.of("bias.conflict_gap", gap, direction="lower", floor=0.0, params={"test": test}),
        ]  # fmt: skip
    return [
        Metric.of(
            f"bias.{name}_accuracy", crossed_rate(answers.correct[:, part]), direction="higher"
        )
        for name, part in (("aligned", aligned), ("conflicting", ~aligned))
    ]


def calibration_gap(
    answers: Answers,
    over: Tensor,
    *,
    test: str,
    n_sim: int,
    generator: torch.Generator,
    resamples: Resamples,
) -> Metric:
    """Largest difference between groups in mean confidence less accuracy.

    Not of ECE: the ECE of a small group is mostly bias. The floor permutes which group an error belongs to, among
    the versions of an image (``test`` is paired) or the images of a class.

    Args:
        over: (V, N) confidence less correctness.
        resamples: of the test records; of the images, where they are paired.
    """
    if test == PAIRED:
        _, errors = versions_of(answers, over)  # (V, M, G)
        counts = torch.ones_like(errors[0])
    else:
        counts = torch.nn.functional.one_hot(answers.groups, len(answers.group_names)).double()
        errors = over[:, :, None] * counts

    def gap(weights: Tensor, table: Tensor) -> Tensor:
        """(B,) of a (rows, G) table."""
        return max_min_gap(((weights @ table) / (weights @ counts))[:, :, None])[:, 0]

    def shuffled(table: Tensor) -> Tensor:
        if test == PAIRED:
            order = torch.rand(table.shape, generator=generator).argsort(1)
            return table.gather(1, order)
        key = answers.labels + torch.rand(len(table), generator=generator).double()
        row = torch.empty(len(table), dtype=torch.int64)
        row[torch.argsort(answers.labels, stable=True)] = torch.argsort(key)
        return table.sum(1)[row][:, None] * counts

    whole = torch.ones(1, len(counts), dtype=torch.float64)
    values = torch.stack([gap(whole, e)[0] for e in errors])
    drawn = torch.cat(
        [torch.stack([gap(w, e) for e in errors]).nanmean(0) for w in resamples.weights()]
    )
    chance = torch.stack(
        [gap(whole, shuffled(e))[0] for e in errors for _ in range(max(10, n_sim // 20))]
    )
    return Metric.of(
        "bias.calibration_gap",
        crossed(values, drawn, n=len(counts)).clamp(0.0, 2.0),
        direction="lower",
        floor=float(chance.mean()),
        params={"test": test},
    )
