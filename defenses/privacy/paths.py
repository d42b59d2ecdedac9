"""Expert paths by DP-SGD: what trajectory matching follows under a privacy claim."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from ddaudit.defenses.privacy.dpsgd import train_private
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import Recipe
from ddaudit.distillation.expert_paths import ExpertPaths, Keeper, Memory, Paths
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Source
from ddaudit.distillation.store import Store
from ddaudit.distillation.targets import Joint
from ddaudit.distillation.trajectory import Trajectory
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.seeds import stable_seed

SOURCE = "Abadi et al., Deep Learning with Differential Privacy, CCS 2016 (experts)"


@dataclass(frozen=True)
class PrivatePaths(Fresh):
    """Networks trained by DP-SGD, with their parameters at even distances; all of them share one budget.

    The experts are the only thing that asks the source. Their checkpoints, and whatever is matched to them, are
    post-processing. They are kept for the run alone: a store would hand one run's noise to another.

    Attributes:
        arch, width: as in :class:`Fresh`.
        count: how many experts.
        epochs: points of a path after its start, as a pass is to ``ExpertPaths``.
        steps: DP-SGD steps from a point to the next, each one question to the private data.
        lr, momentum: of DP-SGD, see :func:`train_private`.
        straight: as in ``ExpertPaths``.
    """

    count: int = 1
    epochs: int = 25
    steps: int = 40
    lr: float = 0.5
    momentum: float = 0.0
    straight: bool = False
    paths: Paths | None = field(default=None, repr=False, compare=False)
    """Filled by :meth:`ask`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.count, self.epochs, self.steps) < 1 or not self.lr > 0:
            raise ValueError(
                "networks.count, networks.epochs and networks.steps must be at least 1 and networks.lr positive"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"networks.momentum must lie in [0, 1), got {self.momentum}")

    def questions(self) -> int:
        """One per DP-SGD step of every expert."""
        return self.count * self.epochs * self.steps

    def ask(self, source: Source, job: Job) -> PrivatePaths:
        """This source with its experts trained, one after the other."""
        store = Memory()
        keeper = Keeper(store, [str(k) for k in range(self.count)], self.epochs, self.straight)
        for k in range(self.count):
            net = self.make(
                shape=job.train.shape,
                num_classes=job.train.num_classes,
                seed=stable_seed("path", k),
                device=job.device,
            )
            moving: dict[str, Tensor] = dict(net.body.named_parameters())
            keeper(k, 0, moving)

            def keep(done: int, _: int, k: int = k, moving: dict[str, Tensor] = moving) -> None:
                if done % self.steps == 0:
                    keeper(k, done // self.steps, moving)

            train_private(
                source,
                net,
                steps=self.epochs * self.steps,
                lr=self.lr,
                momentum=self.momentum,
                name=f"expert {k}, ",
                progress=keep,
            )
        return replace(self, paths=Paths(self, store, str, _never, job.device))


def on_private_paths(recipe: Recipe) -> Recipe:
    """A trajectory method on experts by DP-SGD; the experts' numbers are those of :class:`PrivatePaths`.

    Raises:
        BadInput: its experts are trained in a way that DP-SGD is not, or their records are looked at once more.
    """
    experts, loop = recipe.networks, recipe.loop
    assert isinstance(experts, ExpertPaths), "asked for trajectory methods"
    own = (
        experts.sam,
        experts.curriculum,
        experts.lesson,
        experts.head,
        experts.robust,
        experts.ema,
    )
    taught = any(own)
    if not isinstance(loop, Trajectory) or loop.informed or loop.agnostic != "no" or taught:
        raise BadInput(
            f"{recipe.name}+dp",
            "has experts that are flat, or taught from easy to hard, or with classes weighed, or robustly, or that "
            "pick records to start from, and DP-SGD makes only plain ones",
            "Use mtt+dp, tesla+dp or mct+dp.",
        )
    assert recipe.synthesis is not None, "trajectory methods have one"
    return replace(
        recipe,
        target=Joint(),
        reader=PoissonGaussian(clip=1.0, batch=256, sampling="uniform", scale="mean"),
        synthesis=recipe.synthesis.from_noise(),
        networks=PrivatePaths(
            experts.arch,
            experts.width,
            # What no student follows is not paid for; the ends of a straight path are all of it.
            epochs=experts.epochs if experts.straight else loop.reach(straight=False),
            straight=experts.straight,
        ),
        normalise="public",
        status="ours",
        source=f"{SOURCE}, applied to: {recipe.source}",
        deviations=(
            *recipe.deviations,
            "experts are trained by DP-SGD, without augmentation, and share one budget; a path's points are some "
            "steps apart (source: a pass over the records)",
        ),
        small={**recipe.small, "networks.steps": 20, "reader.batch": 200},
    )


def _never(number: int, store: Store) -> None:
    raise DDAuditError(f"the path of expert {number} was not kept")
