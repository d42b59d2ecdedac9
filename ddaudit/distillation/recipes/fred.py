"""FreD: images as their most varied frequencies, under any objective."""

from dataclasses import replace

from ddaudit.distillation.frequency import Frequency
from ddaudit.distillation.recipe import register
from ddaudit.distillation.recipes.dc import DC
from ddaudit.distillation.recipes.dm import DM

FREQUENCIES = (
    "Shin, Shin & Moon, Frequency Domain-Based Dataset Distillation, NeurIPS 2023, arXiv 2311.08819"
)
# The source's steps, 1e6 and 1e3, are in a transform whose squares are (2 * 32)^2 times as large at 32 pixels.
STEP = 1 / 64**2
DEVIATIONS = (
    "frequencies are chosen by 256 random records (source: by the images that it starts from)",
    "orthonormal transform (source: not normalised, so that at 32 pixels the first row and column step half as far)",
    "the card counts one bit per class and frequency for the choice (source: free)",
)

FRED = register(
    replace(
        DM,
        name="fred",
        purpose="mean embeddings, images as their most varied frequencies",
        status="simplified",
        source=f"{FREQUENCIES}; on distribution matching",
        synthesis=Frequency(share=1 / 16),
        published_ipc=2,
        loop=replace(DM.loop, lr=1e6 * STEP),
        small={**DM.small, "synthesis.share": 0.5, "loop.lr": 10.0},
        deviations=DEVIATIONS,
    )
)

FRED_DC = register(
    replace(
        DC,
        name="fred-dc",
        purpose="gradient matching, images as their most varied frequencies",
        status="simplified",
        source=f"{FREQUENCIES}; on gradient matching",
        synthesis=Frequency(share=1 / 32),
        published_ipc=2,
        loop=replace(DC.loop, lr=1e3 * STEP),
        small={**DC.small, "synthesis.share": 0.5},
        deviations=(*DC.deviations, *DEVIATIONS),
    )
)
