"""Trajectory matching: MTT, and what is built on it; values of the authors' code for CIFAR-10 at IPC 10."""

from dataclasses import replace

from ddaudit.distillation.curriculum import Curriculum
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.learned import LearnedLabels, LearnedRate
from ddaudit.distillation.recipe import BEST_ON_TEST, Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.trajectory import Starts, Trajectory
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
        published_ipc=10,
        small={
            "loop.iterations": 60,
            "loop.lr": 20.0,
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
        deviations=("no ZCA whitening (source: at IPC 1 and 10)", BEST_ON_TEST),
    )
)

TESLA = register(
    replace(
        MTT,
        name="tesla",
        published_ipc=1,
        purpose="as mtt, in memory that does not grow with the student's steps",
        source="Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory, ICML 2023, "
        "arXiv 2211.10586; values of the authors' README, CIFAR-10 at IPC 1",
        loop=Trajectory(
            iterations=10_000,
            lr=1000.0,
            steps=50,
            starts=Starts(last=5),
            rate=LearnedRate(0.01, 1e-7, "plain"),
            gradient="stepwise",
        ),
        deviations=(BEST_ON_TEST,),
    )
)

FTD = register(
    replace(
        MTT,
        name="ftd",
        purpose="as mtt, on experts that are trained towards flat minima",
        source="Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023, "
        "arXiv 2211.11004; values of the authors' code, CIFAR-10 at IPC 10",
        networks=ExpertPaths(sam=0.01, sam_gap=0.4),
        loop=replace(MTT.loop, ema=0.9995),
        small={**MTT.small, "loop.ema": 0.9},
        deviations=(
            *MTT.deviations,
            "averaged images train fresh networks (source's code: those that it has trained on the others)",
        ),
    )
)

FLAT = ExpertPaths(epochs=100, sam=0.01, sam_gap=0.3)
DATM = register(
    replace(
        FTD,
        name="datm",
        purpose="as ftd, parts of paths as hard as the budget, learned labels",
        source="Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, "
        "ICLR 2024, arXiv 2310.05773; values of the authors' code, CIFAR-10 at IPC 10",
        networks=FLAT,
        labels=LearnedLabels("logits", lr=2.0, confidence=0.9, momentum=0.9),
        loop=Trajectory(
            iterations=10_000,
            steps=80,
            batch=100,
            starts=Starts(last=20, opening=10, grown=1000),
            rate=LearnedRate(0.01, 1e-5, "plain"),
            informed=True,
            threshold=1.0,
        ),
        protocol=EvaluationProtocol(name="datm", loss="soft-ce", batch_size=128),
        small={
            **MTT.small,
            "loop.starts.opening": 2,
            "loop.starts.grown": 50,
            "loop.threshold": 2.0,
        },
        deviations=MTT.deviations,
    )
)

PAD = register(
    replace(
        DATM,
        name="pad",
        status="simplified",
        purpose="as datm, on experts taught from easy to hard, in deep layers",
        source="Li et al., Prioritize Alignment in Dataset Distillation, arXiv 2408.03360; values of the authors' "
        "code, CIFAR-10 at IPC 10",
        networks=replace(FLAT, curriculum=Curriculum()),
        loop=replace(DATM.loop, batch=None, shallow=0.5),
        small={
            **DATM.small,
            "networks.curriculum.all_at": 2,
            "networks.curriculum.thin_after": 3,
            "networks.curriculum.thinner_after": 4,
            "networks.curriculum.judges": 3,
            "networks.curriculum.judged_after": 1,
        },
        deviations=(
            *DATM.deviations,
            "parameters nearest to the input are left out, as in the paper (the released code leaves out those that "
            "are matched best)",
            "records are scored by EL2N of experts that have just begun (released: lists by GraNd, and by uncertainty)",
        ),
    )
)

MCT = register(
    replace(
        MTT,
        name="mct",
        purpose="as tesla, along straight lines between the ends of experts' paths",
        source="Zhong et al., Towards Stable and Storage-efficient Dataset Distillation: Matching Convexified "
        "Trajectory, CVPR 2025, arXiv 2406.19827; values of the authors' code, CIFAR-10 at IPC 10",
        networks=ExpertPaths(straight=True),
        loop=Trajectory(
            lr=1000.0,
            span=15,
            starts=Starts(last=8),
            rate=LearnedRate(0.01, 1e-5, "plain"),
            gradient="stepwise",
        ),
        deviations=(
            "two ends of a path (the released code also keeps two points between, smoothed)",
            BEST_ON_TEST,
        ),
    )
)
