"""IDC: sub-images, matched by gradients of networks trained on real records; DREAM: on representative records."""

from dataclasses import replace

from ddaudit.distillation.clusters import Representative
from ddaudit.distillation.learners import Learning, RecordSGD
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.training import EvaluationProtocol

AVERAGED = "real images are shrunk by averaging (source: by taking every other pixel)"

IDC = register(
    Recipe(
        name="idc",
        purpose="sub-images, matched by gradients of networks trained on real records",
        family="gradient",
        source="Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, "
        "arXiv 2205.14959; values of the authors' code for CIFAR-10",
        objective=GradientMatch(measure="mse", classifier=False),
        target=ByClass(),
        synthesis=Pixels(init="real", factor=2, space="unit"),
        networks=Learning(records=2000, training=RecordSGD(augment="color+crop", cutmix=0.5)),
        reader=Minibatch(per_class=64),
        loop=Matching(iterations=2000, lr=5e-3, lr_ipc=10, momentum=0.5, outer=100, inner=0),
        augment="color+crop+cutout",
        protocol=EvaluationProtocol(
            name="idc",
            epochs=1000,
            epochs_plain=1000,
            batch_size=64,
            lr_schedule="thirds",
            decay=0.2,
            augment="flip+color+crop_scale_rotate",
            cutmix=0.5,
            deviations=("CutMix before the other augmentation (source: after it)",),
        ),
        small={
            # Sub-images of 8 x 8 pixels would be 4 x 4: IDC-I.
            "synthesis.factor": 1,
            "loop.iterations": 10,
            "loop.outer": 20,
            "networks.width": 32,
            "networks.records": 256,
            "reader.per_class": 32,
        },
        deviations=(
            "CIFAR-10's values on all data (source on MNIST and Fashion-MNIST: l1 distance, rate 1e-4, 500 records, "
            "other augmentation)",
            "all classes move at once (source: one after the other, at the same step)",
            "all sub-images of a class at every step (source: at most 128, at random)",
            AVERAGED,
        ),
    )
)

DREAM = register(
    replace(
        IDC,
        name="dream",
        purpose="IDC on the records nearest to cluster centres of each class",
        source="Liu et al., DREAM: Efficient Dataset Distillation by Representative Matching, ICCV 2023, "
        "arXiv 2302.14416; values of the authors' code for CIFAR-10",
        synthesis=Pixels(init="centres", factor=2, space="unit"),
        reader=Representative(per_class=128, interval=10),
        deviations=(
            *IDC.deviations,
            "clusters are those of normalised images (source's code: embeds pixels as they are)",
        ),
    )
)
