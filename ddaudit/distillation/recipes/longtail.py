"""Methods for long-tailed records: DAMED on experts' paths, and unbiased recovery and relabelling; TGDD, which is
none of them in spite of its name."""

from dataclasses import replace

from ddaudit.distillation.crops import RealCrops
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.layer_statistics import LayerStatistics
from ddaudit.distillation.learned import LearnedRate
from ddaudit.distillation.lessons import Deferred
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import BEST_ON_TEST, register
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.recipes.rded import RDED
from ddaudit.distillation.recipes.sre2l import FLOATS, SMALL_TEACHER, TEACHER_HERE, by_views
from ddaudit.distillation.recipes.trajectory import DATM
from ddaudit.distillation.recover import Recover
from ddaudit.distillation.relabel import ViewLabels
from ddaudit.distillation.snapshots import Snapshots
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.distillation.trajectory import Starts, Trajectory

DAMED = register(
    replace(
        DATM,
        name="damed",
        purpose="as datm, experts' bias in students and not in images (long tail)",
        source="Zhao et al., Distilling Long-tailed Datasets, CVPR 2025, arXiv 2408.14506; values of the authors' "
        "code, CIFAR-10-LT with imbalance factor 100 at IPC 10",
        networks=ExpertPaths(epochs=100, sam=0.01, sam_gap=0.3, weight_decay=5e-3, head=10),
        loop=Trajectory(
            iterations=10_000,
            steps=80,
            batch=500,
            starts=Starts(last=20),
            rate=LearnedRate(0.01, 1e-5, "plain"),
            gradient="stepwise",
            informed=True,
            agnostic="weights",
            decoupled=(0.5, 1.0),
        ),
        small={
            **{
                k: v for k, v in DATM.small.items() if k != "loop.threshold" and "starts.o" not in k
            },
            "networks.head": 2,
            "loop.rate.lr": 1e-4,  # at datm's 1e-3 one image per class diverges
        },
        deviations=(
            BEST_ON_TEST,
            "no ZCA whitening",
            "no norm is put on classifiers (the released script of experts asks for one and applies none)",
        ),
    )
)

UNI_LEVEL = register(
    replace(
        RDED,
        name="uni-level",
        purpose="real crops moved towards class-balanced statistics of a debiased teacher (long tail)",
        status="reconstruction",
        source="Cui et al., Rethinking Long-tailed Dataset Distillation: A Uni-Level Framework with Unbiased Recovery "
        "and Relabeling, AAAI 2026, arXiv 2511.18858",
        synthesis=RealCrops(),
        networks=Experts(
            "ConvNetBN",
            count=1,
            epochs=200,
            lr=0.1,
            batch_size=128,
            lr_schedule="cosine",
            lesson=Deferred(),
            recalibrated=True,
        ),
        terms=(LayerStatistics(weight=1.0, classes="half"),),
        labels=ViewLabels(epochs=300, smallest=None),
        loop=Recover(iterations=75, lr=0.05, whole=True),
        protocol=by_views("uni-level", epochs=1000, batch_size=50, loss="mse", hard_weight=0.025),
        published_ipc=None,
        small={
            **SMALL_TEACHER,
            "synthesis.candidates": 60,
            "synthesis.smallest": 0.6,
            "loop.jitter.smallest": 1.0,  # crops of 8 % show nothing of small images
            "protocol.lr": 5e-3,
            "protocol.epochs": 300,
        },
        deviations=(
            TEACHER_HERE,
            FLOATS,
            "one network is observer and teacher, trained without the consistency of two mixed views",
            "statistics compare variances (paper: standard deviations), layer by layer recalibrated",
            "weights of classes in the teacher's loss have a mean of 1 (paper: a sum of 1)",
            "steps, rates, loss weights and exponents that the paper's text does not state: those of edc, and 1",
        ),
    )
)

TGDD = register(
    replace(
        DM,
        name="tgdd",
        purpose="mean embeddings along experts' paths, classified by later snapshots",
        status="simplified",
        source="Ran et al., TGDD: Trajectory Guided Dataset Distillation with Balanced Distribution, AAAI 2026, "
        "arXiv 2512.02469; values of the authors' code, CIFAR-10 at IPC 10",
        synthesis=Pixels(init="real", factor=2, space="unit"),
        networks=Snapshots(count=5, epochs=60, window=7),
        terms=(CrossEntropy(weight=2.5, on="teacher", per_class=True),),
        reader=Minibatch(per_class=128),
        loop=replace(DM.loop, iterations=10_000, lr=0.1, lr_ipc=10),
        published_ipc=10,
        small={
            **DM.small,
            "synthesis.factor": 1,
            "loop.lr": 0.3,
            "terms.0.weight": 0.01,
            "networks.count": 3,
            "networks.epochs": 5,
            "networks.window": 2,
            "networks.lr": 0.1,
            "networks.batch": 64,
        },
        deviations=(
            BEST_ON_TEST,
            "'balanced distribution' means classes apart on balanced data: nothing here treats a long tail",
            "all classes move at once (source: one after the other, at the same step)",
            "experts by plain SGD at a constant step in batches of 256, without mixup (source: of 64, momentum 0.9, "
            "weight decay 5e-4)",
            "augmentation is the data set's, and evaluation the default (source: colour, crop and cutout; 1500 epochs "
            "with CutMix)",
        ),
    )
)
