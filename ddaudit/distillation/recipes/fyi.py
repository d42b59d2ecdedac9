"""FYI: images are matched together with their mirror images, under any objective."""

from dataclasses import replace

from ddaudit.distillation.mirrored import Mirrored
from ddaudit.distillation.recipe import register
from ddaudit.distillation.recipes.dc import DSA
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.synthesis import Pixels
from ddaudit.training import PROTOCOLS

SOURCE = "Son, Oh, Baek & Ham, FYI: Flip Your Images for Dataset Distillation, ECCV 2024, arXiv 2407.08113"

AUGMENT = "flip+color_crop_cutout_scale_rotate"
"""Mirror images are drawn beside one of the other operations, as in the authors' code; DSA draws one of all."""
PROTOCOL = replace(PROTOCOLS["dc"], name="fyi", augment=AUGMENT)

CORNERS = (
    "scaling and rotation as DSA has them, pixels as areas (source: corner pixels stay corners)"
)

FYI = register(
    replace(
        DM,
        name="fyi",
        purpose="mean embeddings of the images and their mirror images",
        source=f"{SOURCE}; on distribution matching",
        synthesis=Mirrored(Pixels(init="real")),
        augment=AUGMENT,
        protocol=PROTOCOL,
        deviations=(*DM.deviations, CORNERS),
    )
)

FYI_DSA = register(
    replace(
        DSA,
        name="fyi-dsa",
        purpose="augmented gradients of the images and their mirror images",
        source=f"{SOURCE}; on gradient matching with siamese augmentation",
        synthesis=Mirrored(Pixels(init="real")),
        augment=AUGMENT,
        protocol=PROTOCOL,
        deviations=(
            *DSA.deviations,
            CORNERS,
            "networks learn images and mirror images in batches of 256 (source: of 256 and their mirror images)",
        ),
    )
)
