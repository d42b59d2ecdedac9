"""RTP: a memory of few small images that labels address, learned through training with momentum."""

from ddaudit.distillation.factorised import Memory
from ddaudit.distillation.learned import FixedRate
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.targets import ByClass
from ddaudit.distillation.unrolled import Unrolled
from ddaudit.training import EvaluationProtocol

RTP = register(
    Recipe(
        name="rtp",
        purpose="a memory addressed by labels, learned through training with momentum",
        family="unrolled",
        status="simplified",
        source="Deng & Russakovsky, Remember the Past: Distilling Datasets into Addressable Memories for Neural "
        "Networks, NeurIPS 2022, arXiv 2206.02916; values of the authors' code",
        target=ByClass(),
        published_ipc=1,
        synthesis=Memory(bases=16, scale=2),
        networks=Fresh("ConvNet"),
        reader=Minibatch(per_class=64),
        loop=Unrolled(
            steps=500_000, lr=0.1, inner=150, rate=FixedRate(0.01), inner_momentum=0.9, batch=32, optimiser="sgd",
            max_norm=2.0,
        ),
        augment="",
        protocol=EvaluationProtocol(
            name="rtp", epochs=299, epochs_plain=299, batch_size=640, lr=0.01, weight_decay=0.0, decay=1.0, augment=""
        ),
        small={
            "synthesis.bases": 8, "synthesis.scale": 1, "loop.steps": 100, "loop.lr": 0.05, "loop.optimiser": "adam",
            "loop.inner": 10, "loop.rate.start_at": 0.05, "loop.batch": 10, "networks.width": 32,
            "reader.per_class": 32,
        },
        deviations=(
            "no augmentation (source: optionally one of flip and rotate, the same for both sides)",
            "the penalty on addresses that the source states is left out: its code's has no gradient",
        ),
    )
)  # fmt: skip
