"""Coresets of real records: the reference rows of every report."""

from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.selection import Selection

EMBEDDED = "embedded by a network of 5 epochs, 500 steps at most (source: trained to the end; loop.feature_steps=none)"
register(
    Recipe(
        name="full",
        purpose="every training record: what no small set can beat",
        family="selection",
        source="the whole training set",
        loop=Selection("full"),
    )
)
register(
    Recipe(
        name="random",
        purpose="random records, equally many of each class",
        family="selection",
        source="random real records, class-balanced",
        loop=Selection("random"),
    )
)
register(
    Recipe(
        name="herding",
        purpose="records whose mean embedding is closest to that of their class",
        family="selection",
        source="Welling, ICML 2009; as used by Zhao et al., ICLR 2021",
        loop=Selection("herding"),
        small={"loop.arch": "ConvNetW32"},
        deviations=(EMBEDDED,),
    )
)
register(
    Recipe(
        name="k-center",
        purpose="records that cover a class, each far from the others",
        family="selection",
        source="Sener & Savarese, ICLR 2018; as used by Zhao et al., ICLR 2021",
        loop=Selection("k-center"),
        small={"loop.arch": "ConvNetW32"},
        deviations=(EMBEDDED,),
    )
)
register(
    Recipe(
        name="k-means",
        purpose="the records nearest to the cluster centres of their class",
        family="selection",
        source="MacQueen, 1967; on embeddings as in Cui et al., DC-BENCH, NeurIPS 2022, arXiv 2207.09639",
        loop=Selection("k-means"),
        small={"loop.arch": "ConvNetW32"},
        deviations=(EMBEDDED,),
    )
)
register(
    Recipe(
        name="forgetting",
        purpose="the records of a class that training forgets most often",
        family="selection",
        source="Toneva et al., ICLR 2019, arXiv 1812.05159; as used by Zhao et al., ICLR 2021",
        loop=Selection("forgetting", keep="hard", score_epochs=200),
        small={"loop.arch": "ConvNetW32", "loop.score_epochs": 20},
        deviations=(
            "equally many of each class (source: of the whole set)",
            "a ConvNet at a constant 0.05 (source: a ResNet-18, at 0.1 with Nesterov, divided by 5 after 60, 120 and "
            "160 epochs), so that records go on being forgotten",
        ),
    )
)
register(
    Recipe(
        name="el2n",
        purpose="the records of a class with the smallest error early in training",
        family="selection",
        source="Paul, Ganguli & Dziugaite, Deep Learning on a Data Diet, NeurIPS 2021, arXiv 2107.07075; the easy ones "
        "as in PAD, arXiv 2408.03360",
        loop=Selection("el2n", keep="easy", score_epochs=20, score_networks=10),
        small={"loop.arch": "ConvNetW32", "loop.score_epochs": 3, "loop.score_networks": 3},
        deviations=(
            "the easiest are kept, as distillation does at few images per class (source: the hardest; loop.keep=hard)",
            "equally many of each class (source: of the whole set)",
            "a ConvNet at 0.05 in batches of 256, not augmented (source: a ResNet-18 at 0.1 with Nesterov in batches "
            "of 128, flipped and cropped)",
        ),
    )
)
