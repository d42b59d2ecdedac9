"""Screening: which records a method sees, and under which labels, where some labels are wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.loops import Job
from ddaudit.distillation.record_scores import Study
from ddaudit.seeds import stable_seed
from ddaudit.training import PROTOCOLS, predict


@dataclass(frozen=True)
class Cleaned:
    """Records whose labels networks take for right; of the others those that they are sure of, under a new label.

    Networks are trained on all records, labels as they are, for a few passes: what most records of a class agree on is
    learned before single wrong labels are. The cross-entropies of the records, averaged over networks, are split by a
    mixture of two normal distributions of their logarithms. A record of the lower one is clean. A class that keeps none
    keeps all. Private recipes refuse it.

    The mixture always finds two kinds. Where no label is wrong, or wrong ones gather in a few classes, it parts easy
    records from hard ones and throws right labels away; ``agree`` keeps those.

    Attributes:
        epochs, networks: of the training.
        arch: of the networks.
        agree: also keep a record whose label is the class that the mean of the networks holds most likely.
        relabel: confidence, of the mean of the networks, from which a record that is not clean is kept under the label
            that they give it; None: none is.

    Source: RDC (Robust Dataset Condensation using Supervised Contrastive Learning), ICCV 2025, and
    DISL-Lab/RDC-ICCV2025, commit 5bc01d2, IDM/IDM_cifar+RDC.py; the mixture as in DivideMix, ICLR 2020.
    """

    epochs: int = 10
    networks: int = 2
    arch: str = "ConvNet"
    relabel: float | None = None
    agree: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs, self.networks) < 1:
            raise ValueError("records.epochs and records.networks must be at least 1")
        if self.relabel is not None and not 0 < self.relabel <= 1:
            raise ValueError(f"records.relabel must lie in (0, 1], got {self.relabel:g}")

    def screen(self, job: Job) -> Job:
        """The one run of a job on what is left, records keeping their positions."""
        (allowed,) = job.members
        train = job.train.subset(allowed)
        study = Study(train, job.data, self.arch, 0, job.device, job.store)
        protocol = replace(
            PROTOCOLS["quick"],
            name="screen",
            epochs=self.epochs,
            epochs_plain=self.epochs,
            augment="",
            decay=1.0,
            max_steps=None,
        )

        def make() -> dict[str, Tensor]:
            seeds = [stable_seed("screen", number) for number in range(self.networks)]
            nets = study.trained(protocol, seeds)
            return {"logits": torch.stack([predict(net, train.images) for net in nets])}

        logits = study.known(make, "screen", protocol.key, self.networks)["logits"]
        truth = train.labels.repeat(len(logits), 1)
        losses = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
        kept = clean(losses.view(len(logits), -1).mean(0))
        labels = train.labels.clone()
        sure = logits.softmax(2).mean(0).max(1)
        if self.agree:
            kept = kept | (sure.indices == labels)
        if self.relabel is not None:
            again = ~kept & (sure.values >= self.relabel)
            labels[again] = sure.indices[again]
            kept = kept | again
        for c in range(train.num_classes):
            if not bool((kept & (labels == c)).any()):
                mine = train.labels == c
                kept, labels = kept | mine, torch.where(mine, c, labels)
        all_labels, members = job.train.labels.clone(), job.members.clone()
        all_labels[allowed], members[0, allowed] = labels, kept
        return replace(job, train=replace(job.train, labels=all_labels), members=members)


def clean(losses: Tensor) -> Tensor:
    """(N,) bool: of two normal distributions fitted to the logarithms of (N,) losses, whether the one of the lower
    mean explains a loss better."""
    from sklearn.mixture import GaussianMixture

    if len(losses) < 2:
        return torch.ones(len(losses), dtype=torch.bool)
    logs = (losses.double() + 1e-8).log().numpy()[:, None]
    fitted = GaussianMixture(2, random_state=0).fit(logs)
    lower = int(np.argmin(fitted.means_[:, 0]))
    return torch.from_numpy(fitted.predict_proba(logs)[:, lower] > 0.5)
