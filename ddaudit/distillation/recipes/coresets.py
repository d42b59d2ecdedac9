"""Coresets of real records: the reference rows of every report."""

from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.selection import Selection

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
        source="class-balanced random subset",
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
    )
)
