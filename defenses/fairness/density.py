"""``+density``: records in dense regions of their class weigh less: against a bias that nobody labelled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.networks import fit
from ddaudit.distillation.parts import Layout
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.targets import Weighted
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network
from ddaudit.training import PROTOCOLS, train_many


@dataclass(frozen=True)
class Density:
    """Inverse density: a record weighs in proportion to 1 / p, p being a kernel estimate among its class.

    p(x) = mean over records r of the class of exp(-|h(x) - h(r)|^2 / (2 s^2)), h the embedding, at unit length, of a
    network trained on the records, s a share of the median distance. Outliers and mislabelled records gain weight as
    minorities do. Every weight depends on all records: a private reader refuses it.

    Attributes:
        bandwidth: s over the median distance of two records of the class. The default gives bias-conflicting records
            most weight, by the group labels of validation records of coloured digits and Fashion-MNIST (58 to 61 % of
            it, being 11 to 13 % of the records; 16 to 24 % with half of it).
        references: records of each class that the density is estimated from.
        arch, width, epochs: of the network.

    Source: Mitigating Bias in Dataset Distillation, ICML 2024, arXiv 2406.06609. There h is trained by a supervised
    contrastive loss, and p is estimated in each batch.
    """

    bandwidth: float = 0.4
    references: int = 500
    arch: str = "ConvNet"
    width: int | None = None
    epochs: int = 5
    known: _Known | None = field(default=None, repr=False, compare=False)
    """Network and references; filled by :meth:`bind`."""

    def __post_init__(self) -> None:
        if not self.bandwidth > 0 or self.references < 2 or self.epochs < 1:
            raise ValueError(
                "bandwidth must be positive, references at least 2 and epochs at least 1"
            )

    @property
    def even(self) -> bool:
        """No: that is what 'balanced' is for."""
        return False

    def bind(self, data: ImageData, layout: Layout, drawn: Tensor | None) -> Density:
        """Train the network on ``data`` and draw the references from it."""
        return self if self.known else replace(self, known=_Known(self, data))

    def weigh(self, data: ImageData, index: Tensor) -> Tensor:
        """(B,) weights in (0, 1]; 1 for the sparsest place where a reference of the class lies, or sparser."""
        assert self.known is not None
        return self.known.weights(data)[index]

    def couples_records(self) -> bool:
        """Always: a record's weight falls with every record near it."""
        return True

    def assumed(self, layout: Layout) -> tuple[str, ...]:
        """Nothing that could be declared public."""
        return ()


class _Known:
    """What the density of one data set is estimated with."""

    def __init__(self, config: Density, data: ImageData) -> None:
        arch = Arch.parse(config.arch)
        arch = fit(replace(arch, width=config.width) if config.width else arch, data.shape)
        half = (0.5,) * data.shape[0]
        protocol = replace(
            PROTOCOLS["quick"],
            name="density",
            epochs=config.epochs,
            epochs_plain=config.epochs,
            augment="",
        )
        (self._net,) = train_many(
            [(data.images, data.labels)],
            arch=arch,
            num_classes=data.num_classes,
            mean=half,
            std=half,
            protocol=protocol,
            seeds=[0],
            device=torch.device("cpu"),
        )
        generator = torch.Generator().manual_seed(0)
        self._references: list[Tensor] = []
        for c in range(data.num_classes):
            mine = (data.labels == c).nonzero().squeeze(1)
            mine = mine[torch.randperm(len(mine), generator=generator)[: config.references]]
            self._references.append(_embedded(self._net, data, mine))
        self._bandwidth = config.bandwidth
        self._last: tuple[ImageData, Tensor] | None = None

    def weights(self, data: ImageData) -> Tensor:
        """(N,) weights of all records; those of the last data are kept."""
        if self._last is None or self._last[0] is not data:
            out = torch.ones(len(data))
            for c, references in enumerate(self._references):
                mine = (data.labels == c).nonzero().squeeze(1)
                if len(mine) and len(references) > 1:
                    z = _embedded(self._net, data, mine)
                    out[mine] = inverse_density(z, references, bandwidth=self._bandwidth)
            self._last = (data, out)
        return self._last[1]


def inverse_density(z: Tensor, references: Tensor, *, bandwidth: float) -> Tensor:
    """(N,) weights min(1, p_min / p(z)), p_min being the lowest density at a reference.

    A point is always among those that its density is estimated from, reference or not: no weight is then more than M
    times another, and an outlier does not outweigh all.

    Args:
        z: (N, D) points.
        references: (M, D) points that the density is estimated from, at least two.
        bandwidth: of the Gaussian kernel, over the median distance between two references.
    """
    between = torch.cdist(references, references)
    apart = between[~torch.eye(len(references), dtype=torch.bool)]
    scale = bandwidth * float(apart.median().clamp_min(1e-6))

    def density(distance: Tensor) -> Tensor:
        near = (-0.5 * (distance / scale).square()).exp().sum(1)
        itself = (distance.min(1).values <= 1e-6).to(near)
        return near + 1 - itself

    lowest = density(between).min()
    found = torch.cat([density(torch.cdist(part, references)) for part in z.split(2000)])
    return (lowest / found.clamp_min(1e-30)).clamp(max=1.0)


def _embedded(net: Network, data: ImageData, index: Tensor) -> Tensor:
    """(B, D) embeddings of unit length."""
    with torch.no_grad():
        z = torch.cat([net.embed(data.pixels(part)) for part in index.split(512)])
    return torch.nn.functional.normalize(z.float(), dim=1)


def density(recipe: Recipe) -> Recipe:
    """Weigh the records of every target by inverse density.

    Raises:
        BadInput: a method without targets; a private one.
    """
    if isinstance(recipe.loop, Selection) or recipe.target is None:
        raise BadInput(
            f"{recipe.name}+density",
            "'density' weighs targets, and this method has none",
            "Use it on dm, dc or dsa.",
        )
    made = replace(
        recipe,
        target=Weighted(recipe.target, Density()),
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
        small={**recipe.small, "target.weights.width": 32},
        deviations=(
            *recipe.deviations,
            "density: the embedding is that of a classifier (source: supervised contrastive), and densities are "
            "estimated once, on a sample of each class (source: in each batch); bandwidth chosen on validation records",
        ),
    )
    made.check_private()
    return made


SOURCE = "Mitigating Bias in Dataset Distillation, ICML 2024, arXiv 2406.06609 (weights by inverse density)"

DEFENSES.add(
    "density",
    Defense(
        "density",
        "records in dense regions of their class weigh less (bias without labels)",
        SOURCE,
        density,
        order=14,
    ),
)
