"""What training on the real records tells of each: embeddings, forgetting counts, early errors; kept in a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.curriculum import el2n
from ddaudit.distillation.networks import fit
from ddaudit.distillation.store import Store, content_key
from ddaudit.models import Arch, Network, build
from ddaudit.seeds import stable_seed
from ddaudit.training import PROTOCOLS, EvaluationProtocol, predict, train_many


@dataclass(frozen=True, eq=False)
class Study:
    """Real records, and how networks are trained on them to learn about them.

    Attributes:
        train: the records.
        data: names and constants of their data set.
        arch: of the networks.
        seed: of the networks; methods and sizes of one seed share what is in the store.
        device: where to train.
        store: keeps networks and scores; None keeps none.
    """

    train: ImageData
    data: Dataset
    arch: str
    seed: int
    device: torch.device
    store: Store | None

    def network(self) -> Network:
        """A new network, a function of the seed."""
        return build(
            fit(Arch.parse(self.arch), self.train.shape),
            shape=self.train.shape,
            num_classes=self.train.num_classes,
            seed=self.seed,
            mean=self.data.mean,
            std=self.data.std,
        ).to(self.device)

    def trained(self, protocol: EvaluationProtocol, seeds: list[int]) -> list[Network]:
        """Networks trained on the records, in evaluation mode."""
        return train_many(
            [(self.train.images, self.train.labels)] * len(seeds),
            arch=fit(Arch.parse(self.arch), self.train.shape),
            num_classes=self.train.num_classes,
            mean=self.data.mean,
            std=self.data.std,
            protocol=protocol,
            seeds=seeds,
            device=self.device,
        )

    def known(
        self, make: Callable[[], dict[str, Tensor]], kind: str, *parts: object
    ) -> dict[str, Tensor]:
        """Tensors of a kind from the store, or made and put there; ``parts`` name what else they depend on."""
        constants = (self.data.mean, self.data.std)
        arch = str(fit(Arch.parse(self.arch), self.train.shape))
        key = content_key(kind, self.train.fingerprint, arch, constants, self.seed, *parts)
        held = None if self.store is None else self.store.get(key)
        if held is None:
            held = make()
            if self.store is not None:
                self.store.put(key, held)
        return held


def embeddings(
    study: Study, images: ImageData, *, epochs: int, max_steps: int | None = None
) -> Tensor:
    """(N, D) embeddings of ``images`` by a network trained on the study's records for some epochs, or steps if they are
    fewer."""
    protocol = replace(
        PROTOCOLS["quick"],
        name="features",
        epochs=epochs,
        epochs_plain=epochs,
        augment="",
        max_steps=max_steps,
    )

    def make() -> dict[str, Tensor]:
        (net,) = study.trained(protocol, [study.seed])
        return net.body.state_dict()

    net = study.network().eval()
    net.body.load_state_dict(study.known(make, "features", protocol.key))
    with torch.inference_mode():
        z = [
            net.embed(images.pixels(i).to(study.device)).cpu()
            for i in torch.arange(len(images)).split(512)
        ]
    return torch.cat(z).clone()


def forgetting_counts(study: Study, *, epochs: int) -> Tensor:
    """(N,) how often each record of the study was forgotten: classified right when a pass showed it, and wrong when
    the next one did; ``epochs`` where it was never classified right.

    Source: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019,
    arXiv 1812.05159, algorithm 1; records that are never learned count as forgotten at every pass, as in the authors'
    code. The training is SGD at a constant step, without augmentation.
    """

    def make() -> dict[str, Tensor]:
        return {"scores": forgotten(_watch(study, epochs))}

    return study.known(make, "forgetting", epochs)["scores"]


def forgotten(right: Tensor) -> Tensor:
    """(N,) falls from right to wrong in (passes, N) bool; the number of passes where there is no right at all."""
    falls = (right[:-1] & ~right[1:]).sum(0)
    return torch.where(right.any(0), falls, len(right)).float()


def _watch(study: Study, epochs: int, *, lr: float = 0.05, batch: int = 128) -> Tensor:
    """(epochs, N) bool, whether each record was classified right when its pass showed it."""
    train, net = study.train, study.network().train()
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(stable_seed(study.seed, "order"))
    right = torch.zeros(epochs, len(train), dtype=torch.bool)
    for epoch in range(epochs):
        for index in torch.randperm(len(train), generator=generator).split(batch):
            y = train.labels[index].to(study.device)
            logits = net(train.pixels(index).to(study.device))
            right[epoch, index] = (logits.argmax(1) == y).cpu()
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(logits, y).backward()
            optimiser.step()
    return right


def early_errors(study: Study, *, epochs: int, networks: int) -> Tensor:
    """(N,) EL2N: the L2 norm of (probabilities - one-hot label), averaged over networks early in training; in
    [0, sqrt(2)].

    Source: Paul, Ganguli & Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv 2107.07075, definition 2.
    """
    protocol = replace(
        PROTOCOLS["quick"],
        name="early",
        epochs=epochs,
        epochs_plain=epochs,
        augment="",
        decay=1.0,
        max_steps=None,
    )

    def make() -> dict[str, Tensor]:
        total = torch.zeros(len(study.train))
        for number in range(networks):
            (net,) = study.trained(protocol, [stable_seed(study.seed, number)])
            total += el2n(predict(net, study.train.images)[None], study.train.labels)
        return {"scores": total / networks}

    return study.known(make, "el2n", protocol.key, networks)["scores"]
