"""MSDA-DD: a set for a domain without labels, made of domains that have them."""

from ddaudit.distillation.dictionary import Dictionary
from ddaudit.distillation.recipe import Recipe, register

MSDA_DD = register(
    Recipe(
        name="msda-dd",
        purpose="a set for the group without labels, a barycentre of learned atoms",
        family="distribution",
        source="Montesuma, Mboula & Souloumiac, Multi-Source Domain Adaptation meets Dataset Distillation through "
        "Dataset Dictionary Learning, ICASSP 2024, arXiv 2309.07666",
        status="simplified",
        loop=Dictionary(),
        augment="",
        small={"loop.iterations": 30},
        deviations=(
            "records' own values (source: features of a backbone trained on the sources): a set must hold images",
            "domains are the groups of the data; the target is the last one",
            "numbers of atoms and steps, and rates, are ours: the source's are not known to us",
        ),
    )
)
