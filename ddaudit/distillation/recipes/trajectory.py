"""Trajectory matching: MTT, and what is built on it."""

from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.trajectory import Trajectory
from ddaudit.training import EvaluationProtocol

# The published evaluation is the DC family's with DSA, at the learned rate that the card carries.
MTT = register(
    Recipe(
        name="mtt",
        purpose="training on the set moves networks as training on the records does",
        family="trajectory",
        source="Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022, "
        "arXiv 2203.11932; values of the authors' code, CIFAR-10 at IPC 10",
        synthesis=Pixels(init="real"),
        networks=ExpertPaths(),
        loop=Trajectory(),
        protocol=EvaluationProtocol(name="mtt"),
        small={
            "loop.iterations": 100,
            "loop.steps": 10,
            "loop.span": 1,
            "loop.starts.last": 4,
            "loop.rate.start_at": 0.1,
            "loop.rate.lr": 1e-3,
            "networks.width": 32,
            "networks.count": 3,
            "networks.epochs": 5,
            "networks.lr": 0.1,
            "networks.batch": 64,
        },
        deviations=("no ZCA whitening (source: at IPC 1 and 10)",),
    )
)
