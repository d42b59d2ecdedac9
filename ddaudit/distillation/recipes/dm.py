"""DM: distribution matching, alone, with a contrast between classes, and on trained networks."""

from dataclasses import replace

from ddaudit.distillation.experts import Experts
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.pool import Pool
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.distillation.terms import Contrast, CrossEntropy, TotalVariation
from ddaudit.training import PROTOCOLS

ONE_STEP = "an image step of 1 at every size (source: 10 from 100 images per class on)"
"""A deviation of those whose authors' code takes DM's step and enlarges it."""

DM = register(
    Recipe(
        name="dm",
        purpose="match mean embeddings of random networks",
        family="distribution",
        source="Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181",
        objective=MeanEmbedding(),
        target=ByClass(),
        synthesis=Pixels(init="real"),
        networks=Fresh("ConvNet"),
        reader=Minibatch(per_class=256),
        loop=Matching(iterations=20_000, lr=1.0, momentum=0.5),
        protocol=PROTOCOLS["dc"],
        small={
            "loop.iterations": 300,
            "loop.lr": 5.0,
            "networks.width": 32,
            "reader.per_class": 64,
        },
        deviations=(ONE_STEP,),
    )
)

DM_CONTRAST = register(
    replace(
        DM,
        name="dm-contrast",
        purpose="mean embeddings, with classes that stand apart and smooth images",
        status="ours",
        source=f"{DM.source}; with terms for classes that stand apart (after CAFE, CVPR 2022) and smooth images",
        terms=(Contrast(), TotalVariation()),
    )
)

DM_POOL = register(
    replace(
        DM,
        name="dm-pool",
        purpose="mean embeddings of networks that learn the synthetic set",
        status="ours",
        source=f"{DM.source}; on a pool of networks trained on the synthetic set (after FRePo, NeurIPS 2022), with "
        "cross-entropy on the synthetic set (after IDM, CVPR 2023)",
        networks=Pool(),
        terms=(CrossEntropy(),),
        small={**DM.small, "networks.size": 5, "networks.age": 50},
    )
)

DM_EXPERTS = register(
    replace(
        DM,
        name="dm-experts",
        purpose="mean embeddings of networks trained on the real records",
        status="ours",
        source=f"{DM.source}; on networks trained on the real records beforehand (after IDC, ICML 2022, and NCFM, "
        "CVPR 2025)",
        networks=Experts(),
        small={**DM.small, "networks.count": 3, "networks.epochs": 10},
    )
)
