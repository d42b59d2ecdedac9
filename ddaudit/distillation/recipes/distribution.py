"""Distribution matching beyond the mean: attention maps, kernels, quantiles and characteristic functions."""

from dataclasses import replace

from ddaudit.distillation.attention import AttentionMaps
from ddaudit.distillation.characteristic import CharacteristicFunction, LearnedFrequencies
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import BEST_ON_TEST, register
from ddaudit.distillation.recipes.dm import DM, ONE_STEP
from ddaudit.distillation.recipes.idc import AVERAGED, IDC
from ddaudit.distillation.recipes.idm import IDM
from ddaudit.distillation.samples import KernelDiscrepancy, Quantiles
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.training import EvaluationProtocol

TOGETHER = "all classes move at once (source: one after the other)"

DATADAM = register(
    replace(
        DM,
        name="datadam",
        purpose="match where random networks look, beside mean embeddings",
        source="Sajedi et al., DataDAM: Efficient Dataset Distillation with Attention Matching, ICCV 2023, "
        "arXiv 2310.00093; exponent, steps and normalisation of the authors' table, the rest as in their code",
        objective=AttentionMaps(),
        reader=Minibatch(per_class=64),
        loop=Matching(iterations=8000, lr=1.0, momentum=0.5),
        protocol=EvaluationProtocol(name="datadam", epochs=1800, epochs_plain=1800, batch_size=64),
        # At a step of 1, images of 8 x 8 pixels leave their range at once.
        small={"loop.iterations": 300, "loop.lr": 0.05, "networks.width": 32},
        deviations=(
            "networks with instance normalisation, exponent 4 (the authors' table; their code: batch, 1)",
            ONE_STEP,
            BEST_ON_TEST,
        ),
    )
)

M3D = register(
    replace(
        DM,
        name="m3d",
        status="simplified",
        purpose="match embeddings in a kernel space, by sub-images",
        source="Zhang et al., M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy, AAAI 2024, "
        "arXiv 2312.15927; step and iterations from another project's configurations (myoh97/DIDD-ASU, 28 pixels)",
        objective=KernelDiscrepancy(),
        synthesis=Pixels(init="real", factor=2, space="unit"),
        reader=Minibatch(per_class=128),
        loop=Matching(iterations=2000, repeats=5, lr=1.0, lr_ipc=1, momentum=0.5),
        augment="color+crop+cutout",
        protocol=IDC.protocol,
        small={
            "loop.iterations": 60,
            "loop.lr": 0.1,
            "synthesis.factor": 1,
            "networks.width": 32,
            "reader.per_class": 64,
        },
        deviations=(
            TOGETHER,
            AVERAGED,
            "pixels are cut to [0, 1] once per network (public copy: at each of its 5 steps), and evaluation has 1000 "
            "epochs (public copy: 1500)",
            "step and iterations are not the authors' (their repository held no code when it was read)",
            "networks are untrained, as in the public copy; accounts of the paper train them for a few epochs",
        ),
    )
)

LQM = register(
    replace(
        IDM,
        name="lqm",
        purpose="match quantiles of every coordinate of embeddings",
        status="reconstruction",
        source="Wei, De Schepper & Mets, Dataset Condensation with Latent Quantile Matching, CVPR 2024 workshops, "
        f"arXiv 2406.09860, in the place of the mean in IDM ({IDM.source})",
        objective=Quantiles(),
        # Networks know 8 x 8 digits soon: their cross-entropy at full weight makes all images of a class typical.
        small={**IDM.small, "terms.0.weight": 0.02},
        deviations=(
            *IDM.deviations,
            "as many levels as images of the class, and a mean over them (source: a sum)",
        ),
    )
)

NCFM = register(
    replace(
        DM,
        name="ncfm",
        purpose="match characteristic functions of embeddings at random frequencies",
        status="simplified",
        source="Wang et al., Dataset Distillation with Neural Characteristic Function, CVPR 2025, "
        "arXiv 2502.20653; as configured in the authors' code, which draws frequencies at random",
        objective=CharacteristicFunction(),
        synthesis=Pixels(init="real", factor=2, space="unit"),
        networks=Experts(
            interpolate=True, count=20, epochs=60, augment="color+crop", lr=0.01, batch_size=128
        ),
        reader=Minibatch(per_class=1024),
        terms=(CrossEntropy(weight=1.0, on="teacher", per_class=True),),
        loop=Matching(iterations=20_000, lr=0.001, optimiser="adam"),
        augment="color+crop+cutout",
        protocol=EvaluationProtocol(
            name="ncfm",
            epochs=2000,
            epochs_plain=2000,
            batch_size=128,
            lr=1e-3,
            optimiser="adamw",
            weight_decay=0.01,
            augment="flip+color+crop_scale_rotate",
            cutmix=0.5,
            deviations=(
                "one cut of the learning rate (source: halved four times)",
                "CutMix before the other augmentation (source: after it)",
            ),
        ),
        small={
            "loop.iterations": 300,
            "loop.lr": 0.005,
            "synthesis.factor": 1,
            "networks.width": 32,
            "networks.count": 3,
            "networks.epochs": 20,
            "reader.per_class": 64,
            "objective.frequencies": 256,
        },
        deviations=(
            f"{TOGETHER}, by one step of match and calibration together (source: one each), so that an iteration of "
            "ten classes moves images 5 to 6 times less at the same rate (a simulation)",
            BEST_ON_TEST,
            AVERAGED,
            "calibration sees images augmented as for the match (source: drawn anew)",
            "Adam at a constant step (source: AdamW with a decay of pixels, halved when the loss stands still)",
            "experts are trained by one cut, without CutMix (source: two cuts, CutMix)",
        ),
    )
)

NCFM_MINMAX = register(
    replace(
        NCFM,
        name="ncfm-minmax",
        purpose="match characteristic functions at frequencies that learn to tell apart",
        objective=LearnedFrequencies(),
        small={k: v for k, v in NCFM.small.items() if not k.startswith("objective.")},
        deviations=(
            *NCFM.deviations,
            "64 frequencies a step (source: 4, repeated 16 times)",
        ),
    )
)
