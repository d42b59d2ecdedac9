"""``+cvar``: networks learn clusters of records around synthetic images, of which the worst count (RDD)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.canvas import Canvas
from ddaudit.distillation.learners import Learning, RecordSGD
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.reductions import cvar as worst_share
from ddaudit.distillation.selection import k_center
from ddaudit.errors import BadInput
from ddaudit.models import Network


@dataclass(frozen=True)
class ClusterRisk:
    """Beside the mean loss of a batch: the mean and the largest of its clusters' conditional values at risk.

    A cluster is the records whose embedding is nearest to that of one synthetic image.

    Attributes:
        level: alpha; a cluster's risk is the mean of the worst 1 - alpha of its losses.
        every: steps from one such batch to the next; those between have the mean loss alone.
        centres: synthetic images of a class that are centres, at most; far apart from each other where there are more.
        released: as the authors' code has it: the mean of the smallest ``level`` of a cluster's losses, and as a
            constant, so that every step is that of the mean loss alone.

    Source: Vahidian et al., Group Distributionally Robust Dataset Distillation with Risk Minimization, ICLR 2025,
    arXiv 2402.04676; Mming11/RobustDatasetDistillation at 2709295, utils.py (cvar_loss, epoch_mix).
    """

    level: float = 0.8
    every: int = 3
    centres: int = 10
    released: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.level < 1 or self.every < 1 or self.centres < 1:
            raise ValueError(
                "risk.level must lie in [0, 1), risk.every and risk.centres at least 1"
            )

    def added(
        self, net: Network, x: Tensor, losses: Tensor, canvas: Canvas | None, step: int
    ) -> Tensor:
        """Mean plus maximum of the risks of clusters that have records here; 0 on batches between."""
        if canvas is None or step % self.every:
            return losses.new_zeros(())
        return self.risk(losses, self._clusters(net, x, canvas))

    def risk(self, losses: Tensor, member: Tensor) -> Tensor:
        """A scalar from losses (B,) and clusters (G, B) bool."""
        of_cluster, there = losses.expand(len(member), -1), member.any(1)
        if self.released:
            risks = -worst_share(-of_cluster.detach(), member, share=self.level)
        else:
            risks = worst_share(of_cluster, member, share=1 - self.level)
        return risks[there].mean() + risks[there].max()

    def _clusters(self, net: Network, x: Tensor, canvas: Canvas) -> Tensor:
        images, _ = canvas.taught(0)
        labels, generator = canvas.labels[: canvas.size], torch.Generator()
        chosen = []
        for c in labels.unique():
            mine = (labels == c).nonzero().squeeze(1)
            if len(mine) > self.centres:
                mine = mine[k_center(images[mine].flatten(1), self.centres, generator)]
            chosen.append(images[mine])
        with torch.no_grad():
            centres = net.body.features(torch.cat(chosen))
            nearest = torch.cdist(net.body.features(x), centres).argmin(1)
        return F.one_hot(nearest, len(centres)).T.bool()


SOURCE = (
    "RDD: Vahidian et al., Group Distributionally Robust Dataset Distillation with Risk Minimization, ICLR 2025, "
    "arXiv 2402.04676"
)
NOTES = (
    "networks learn records drawn anew between rounds (source: those just matched and as many more, twice)",
    "the risk is that of one batch and has a gradient (source's code: of three batches, of the smallest losses, and "
    "without a gradient: networks.training.risk.released=true)",
)


def cvar(recipe: Recipe) -> Recipe:
    """Between rounds, train the networks of gradient matching on records, with the risk of clusters in the loss.

    Raises:
        BadInput: a method that does not match gradients, or whose networks are of another kind.
    """
    networks, loop = recipe.networks, recipe.loop
    small = {**recipe.small, "networks.records": 256, "networks.training.batch": 64}
    if isinstance(networks, Learning) and not networks.training.risk:
        training = replace(networks.training, risk=ClusterRisk())
        changed = replace(networks, training=training)
    elif (
        type(networks) is Fresh
        and isinstance(recipe.objective, GradientMatch)
        and isinstance(loop, Matching)
    ):
        # Two passes over 512 records of each of 10 classes.
        changed = Learning(
            networks.arch,
            networks.width,
            records=10_240,
            training=RecordSGD(
                momentum=0.0,
                weight_decay=0.0,
                batch=256,
                augment=recipe.augment,
                risk=ClusterRisk(),
            ),
        )
        loop = replace(loop, inner=0)
        small.pop("loop.inner", None)
    else:
        raise BadInput(
            f"{recipe.name}+cvar",
            "changes what networks of gradient matching learn between rounds, and there are none here",
            "Use it on dc, dsa, dcc, idc or idm.",
        )
    return replace(
        recipe,
        networks=changed,
        loop=loop,
        small=small,
        status="simplified",
        source=f"{SOURCE}, on: {recipe.source}",
        deviations=(*recipe.deviations, *NOTES),
    )


DEFENSES.add(
    "cvar",
    Defense(
        "cvar",
        "networks learn clusters of records, the worst of which count (shifts of sub-populations)",
        SOURCE,
        cvar,
        # Before what changes how networks learn: these have to be there.
        order=12,
    ),
)
