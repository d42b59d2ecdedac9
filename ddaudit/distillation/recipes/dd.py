"""DD: images and a learning rate such that a few gradient steps on them train a network; with learned labels,
SLDD; with the labels alone, LD."""

from dataclasses import replace

from ddaudit.distillation.learned import FixedRate, LearnedLabels
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.pool import Pool
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.recipes.kip import OWN_STD
from ddaudit.distillation.synthesis import Pixels, Records
from ddaudit.distillation.targets import ByClass
from ddaudit.distillation.unrolled import Unrolled
from ddaudit.training import EvaluationProtocol

# The training that the loop unrolls: full batches, a constant rate, and nothing else. The rate is the card's.
STEPS = 30
DD = register(
    Recipe(
        name="dd",
        purpose="images and a learning rate that train a network in few steps",
        family="unrolled",
        status="simplified",
        source="Wang, Zhu, Torralba & Efros, Dataset Distillation, arXiv 1811.10959; random initialisations, values "
        "of the authors' code",
        target=ByClass(),
        synthesis=Pixels(init="noise"),
        networks=Fresh("ConvNet"),
        reader=Minibatch(per_class=102),
        loop=Unrolled(steps=23_600, lr=0.01, halve_every=2360, inner=STEPS),
        augment="",
        protocol=EvaluationProtocol(
            name="dd",
            epochs=10_000,
            epochs_plain=10_000,
            max_steps=STEPS,
            batch_size=1_000_000,
            lr=0.02,
            momentum=0.0,
            weight_decay=0.0,
            decay=1.0,
            augment="",
        ),
        small={
            "loop.steps": 100,
            "loop.lr": 0.1,
            "loop.halve_every": 25,
            "loop.inner": 10,
            "protocol.max_steps": 10,
            "networks.width": 32,
            "reader.per_class": 32,
        },
        deviations=(
            "every step sees all images and has one rate (source's code: images and a rate for each step, in order)",
            "ConvNet in PyTorch's initialisation (source: LeNet and AlexNet, Xavier)",
            "class-balanced batches of 102 per class for batches of 1024, larger with more than 10 classes",
            OWN_STD,
        ),
    )
)

SLDD = register(
    replace(
        DD,
        name="sldd",
        purpose="images, labels and a learning rate, learned through training",
        source="Sucholutsky & Schonlau, Soft-Label Dataset Distillation, IJCNN 2021, arXiv 1910.02551; random "
        "initialisations",
        labels=LearnedLabels(),
        small={**DD.small, "labels.lr": 0.01},
        deviations=(
            *DD.deviations,
            "labels stay distributions (source: any numbers), so that any network can be trained on them",
        ),
    )
)

# The source waits until the error of the network that goes on learning stands still; here it learns for so many steps.
AGE = 300
LD = register(
    replace(
        DD,
        name="ld",
        purpose="labels of real images, learned one training step at a time",
        source="Bohdal, Yang & Hospedales, Flexible Dataset Distillation: Learn Labels Instead of Images, "
        "arXiv 2006.08572; second-order version, values of the authors' code",
        synthesis=Records(),
        networks=Pool(size=1, age=AGE, lr=1e-3, batch=50, augment=""),
        labels=LearnedLabels(form="clipped", lr=1e-3, confidence=None),
        loop=Unrolled(steps=19_600, lr=1e-3, inner=1, rate=FixedRate(0.01), batch=5),
        protocol=EvaluationProtocol(
            name="ld",
            epochs=10_000,
            epochs_plain=10_000,
            max_steps=AGE,
            batch_size=50,
            optimiser="adamw",
            lr=1e-3,
            weight_decay=0.0,
            decay=1.0,
            augment="",
        ),
        small={
            "loop.steps": 300,
            "loop.rate.start_at": 0.1,
            "labels.lr": 0.02,
            "networks.age": 100,
            "protocol.max_steps": 100,
            "networks.width": 32,
            "reader.per_class": 32,
        },
        deviations=(
            f"a network starts anew after {AGE} steps, as evaluation does (source: when its error stands still)",
            "Adam's first momentum is 0.5 (source: 0.9)",
            "batches of 5 images per class (source: 10 to 50 images of any class)",
            "the network learns another batch after the labels' step (source: the same one, by the labels before it)",
            "no labels are chosen by validation error",
            *DD.deviations[1:],
        ),
    )
)
