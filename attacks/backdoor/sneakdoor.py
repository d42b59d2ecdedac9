"""SNEAKDOOR: each image's own trigger between two classes that networks confuse; only the target's images change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.attacks._common.trigger import Generated, add_copies
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register
from ddaudit.distillation.networks import fit
from ddaudit.distillation.terms import total_variation
from ddaudit.errors import Unsupported
from ddaudit.models import Network
from ddaudit.sets import DistilledSet
from ddaudit.training import EvaluationProtocol, predict, train_many


@dataclass(frozen=True)
class Sneakdoor(Injection):
    """Find the class that is most often taken for the target, learn a generator that moves its images to where the
    target's are, and distil the target's images again with some of them among its records.

    Attributes:
        ratio: share of the target class's records that carry the trigger.
        eps: largest change of a pixel, in standard deviations.
        closest: share of the source class, nearest to the target by its logit, that the trigger is made on.
        golden: images of the target that it is aimed at, the surest ones.
        images: source images that the generator sees, over all its steps.
        batch, lr: of its Adam.
        width: channels of its two hidden layers.
        emd, contrast, l2, tv: weights of the losses; ``temperature`` is that of the contrast.
        epochs, surrogate_lr: of the network it is made on, trained on the records.
    """

    name = "sneakdoor"
    purpose = "each image's own faint trigger, from a generator, between confusable classes"
    threat: ClassVar[Threat] = "distiller"
    status = "simplified"
    source = "SNEAKDOOR, NeurIPS 2025, arXiv 2603.28824, and its released code"
    deviations = (
        "no LPIPS: L2 and total variation keep the trigger faint",
        "a generator of three convolutions (source: U-Net or autoencoder)",
        "eps 0.5 and 5 % of the target class on every data set and network (source: eps 3 on MNIST, 70 % on networks "
        "other than ConvNet)",
        "the network that triggers are made on falls to a tenth of its step half-way (source: one step, 10 epochs)",
        "the target is given and its source class found (source: finds both where none is given)",
        "success is measured on test images of the source class, and of all classes (source: held-out training images "
        "among the fifth most like the target), clamped to valid pixels (source: not)",
    )
    small: ClassVar = {"images": 20_000, "epochs": 20, "surrogate_lr": 0.01}
    ratio: float = 0.05
    eps: float = 0.5
    closest: float = 0.2
    golden: int = 256
    images: int = 100_000
    batch: int = 256
    lr: float = 1e-3
    width: int = 16
    emd: float = 2.25
    contrast: float = 0.65
    temperature: float = 0.2
    l2: float = 1.25
    tv: float = 1.25
    epochs: int = 10
    surrogate_lr: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or not 0 < self.closest <= 1 or not self.eps > 0:
            raise ValueError("ratio must lie in (0, 1), closest in (0, 1], and eps be positive")

    def plant(self, scene: Scene) -> Injected:
        clean = scene.clean()
        if clean.store is not None or clean.outliers is not None:
            raise Unsupported(
                "replaces one class's images, and this set's labels or outliers are kept beside them"
            )
        train, target = scene.data.train, scene.target
        net = self._surrogate(scene)
        logits = predict(net, train.images)
        source = most_confused(logits, train.labels, target)
        pool = (train.labels == source).nonzero()[:, 0]
        pool = pool[logits[pool, target].argsort(descending=True)][
            : max(2, int(self.closest * len(pool)))
        ]
        sure = ((train.labels == target) & (logits.argmax(1) == target)).nonzero()[:, 0]
        if len(sure) == 0:
            raise Unsupported(
                f"aims at images of class {target}, and its network recognises none of them"
            )
        golden = sure[logits[sure, target].argsort(descending=True)][: self.golden]
        trigger = self.generator(scene, net, train.pixels(pool), train.pixels(golden))
        others = int((train.labels == target).sum())
        count = max(1, round(self.ratio / (1 - self.ratio) * others))
        drawn = pool[torch.randint(len(pool), (count,), generator=scene.generator("drawn"))]
        poisoned = add_copies(train, trigger, drawn, target)
        made = with_class_of(clean, scene.distil(poisoned.train), target)
        return Injected(
            made, trigger, poisoned, self.ratio, "of the target class's records, as copies", source
        )

    def _surrogate(self, scene: Scene) -> Network:
        data = scene.data
        protocol = EvaluationProtocol(
            name="surrogate",
            epochs=self.epochs,
            epochs_plain=self.epochs,
            lr=self.surrogate_lr,
            augment="",
        )
        seed = int(torch.randint(2**31 - 1, (), generator=scene.generator("surrogate")))
        (net,) = train_many(
            [(data.train.images, data.train.labels)], arch=fit(scene.arch, scene.shape),
            num_classes=data.num_classes, mean=data.mean, std=data.std, protocol=protocol, seeds=[seed],
            device=scene.device,
        )  # fmt: skip
        return net.requires_grad_(False)

    def generator(self, scene: Scene, net: Network, source: Tensor, golden: Tensor) -> Generated:
        """The trigger, trained to move ``source`` images to where the network sees ``golden`` ones, both pixels."""
        mean, std = scene.constants()
        draws = scene.generator("generator")
        c = scene.shape[0]
        widths = (c, self.width, self.width, c)
        weights: dict[str, Tensor] = {}
        for i, (a, b) in enumerate(pairwise(widths)):
            # PyTorch's own initialisation of a convolution.
            limit = (1 / (9 * a)) ** 0.5
            for part, shape in (("weight", (b, a, 3, 3)), ("bias", (b,))):
                drawn = (2 * torch.rand(shape, generator=draws) - 1) * limit
                weights[f"{i}.{part}"] = drawn.requires_grad_(True)
        trigger = Generated(weights, mean, std, torch.tensor([self.eps]))
        optimiser = torch.optim.Adam(weights.values(), lr=self.lr)
        seen = 0
        while seen < self.images:
            for index in torch.randperm(len(source), generator=draws).split(self.batch):
                partner = golden[torch.randint(len(golden), (len(index),), generator=draws)]
                loss = self._loss(
                    net, trigger, source[index].to(scene.device), partner.to(scene.device)
                )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                seen += len(index)
        done = {name: w.detach() for name, w in weights.items()}
        return replace(trigger, weights=done)

    def _loss(self, net: Network, trigger: Generated, x: Tensor, partner: Tensor) -> Tensor:
        change = trigger.change(x)
        moved = x + change * trigger.std.to(x)
        h, aim, own = (F.normalize(net.embed(v), dim=1) for v in (moved, partner, x))
        apart = earth_mover(net(moved).softmax(1), net(partner).softmax(1)).mean()
        close = (
            (h * aim).sum(1) / self.temperature - (h @ own.T / self.temperature).logsumexp(1)
        ).mean()
        faint = self.l2 * change.square().mean() + self.tv * total_variation(change[None]).mean()
        loss: Tensor = self.emd * apart - self.contrast * close + faint
        return loss


def most_confused(logits: Tensor, labels: Tensor, target: int) -> int:
    """The class, other than the target, whose records (N,) are taken for the target most often; where none are, the
    one of highest mean probability of the target."""
    doubt = logits.softmax(1)[:, target] + len(labels) * (logits.argmax(1) == target)
    totals = torch.zeros(logits.shape[1], dtype=torch.float64).index_add(0, labels, doubt.double())
    totals[target] = -1
    return int(totals.argmax())


def earth_mover(p: Tensor, q: Tensor) -> Tensor:
    """(N,) distances between distributions (N, K) over classes on a line, one step apart."""
    distance: Tensor = (p.cumsum(1) - q.cumsum(1)).abs().sum(1)
    return distance


def with_class_of(kept: DistilledSet, other: DistilledSet, target: int) -> DistilledSet:
    """A set whose images of one class are those of another set."""
    mine, theirs = kept.hard_labels != target, other.hard_labels == target
    card = kept.card
    if card.member_indices is not None and other.card.member_indices is not None:
        # Copies stand behind the clean records, so that both count alike.
        members = [
            torch.tensor(s.card.member_indices)[m] for s, m in ((kept, mine), (other, theirs))
        ]
        card = card.model_copy(update={"member_indices": torch.cat(members).tolist()})
    return replace(
        kept,
        card=card,
        images=torch.cat([kept.images[mine], other.images[theirs]]),
        labels=torch.cat([kept.labels[mine], other.labels[theirs]]),
    )


register(Sneakdoor())
