"""Labels of views as SRe2L writes them: made here by the steps of its code, read back image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddaudit.distillation.recipes.sre2l import by_views
from ddaudit.errors import BadInput
from ddaudit.sets import import_set
from ddaudit.sets.formats import _fkd
from ddaudit.training import PROTOCOLS, EvaluationProtocol, Extras, train_many

CLASSES, IPC, SIDE, EPOCHS, BATCH = 3, 4, 8, 3, 5


def written(
    folder: Path, *, seed: int = 42, mix: str = "cutmix", says: bool = False, right: int = 99
) -> tuple[Path, Path, dict]:
    """A set and its labels by the steps of generate_soft_label.py (VILA-Lab/SRe2L at 8d00cba); what each image got."""
    images, labels = folder / "images", folder / "labels"
    rng = np.random.default_rng(0)
    # torchvision's ImageFolder: classes by name, then files by name.
    samples = [
        (f"new{c:03d}", f"class{c:03d}_id{i:03d}.png") for c in range(CLASSES) for i in range(IPC)
    ]
    for name, file in samples:
        (images / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / name / file)
    generator = torch.Generator()
    generator.manual_seed(seed)
    dataset = torch.utils.data.TensorDataset(torch.arange(len(samples)))
    sampler = torch.utils.data.RandomSampler(dataset, generator=generator)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, sampler=sampler)
    known = {}
    for epoch in range(EPOCHS):
        (labels / f"epoch_{epoch}").mkdir(parents=True)
        for number, (index,) in enumerate(loader):
            n = len(index)
            coords = torch.from_numpy(rng.uniform(0, 0.39, (n, 4)).astype(np.float32)) + 0.1
            flips = torch.from_numpy(rng.random(n) < 0.5)
            partner = torch.randperm(n)
            box = [np.int64(1), np.int64(2), np.int64(6), np.int64(5)]  # as numpy.clip returns them
            said = torch.full((n, CLASSES), -1.0)
            true = index // IPC if epoch < right else torch.randint(CLASSES, (n,))
            said[torch.arange(n), true] = 1.0 + index / 64 + epoch
            known |= {
                (epoch, int(i)): (coords[k], flips[k], index[partner[k]], said[k].half())
                for k, i in enumerate(index)
            }
            mixed = {"cutmix": [partner, 0.4, box], "mixup": [partner, 0.4, None], "": [None] * 3}
            parts = [coords, flips, *mixed[mix], said.half(), *([index] if says else [])]
            torch.save(parts, labels / f"epoch_{epoch}" / f"batch_{number}.tar")
    return images, labels, known


def test_every_view_goes_to_its_image(tmp_path: Path) -> None:
    images, labels, known = written(tmp_path)
    made = import_set(images, options={"fkd": str(labels)})
    store = made.store
    assert store is not None
    assert len(store) == EPOCHS
    for (epoch, image), (box, flip, partner, said) in known.items():
        assert torch.equal(store.boxes[epoch, image], box)
        assert store.flips[epoch, image] == flip
        assert store.partners[epoch, image] == partner
        assert torch.equal(store.logits[epoch, image], said)
    # The code slices [bbx1:bbx2, bby1:bby2] of (H, W).
    assert store.patches[0, 0].tolist() == [1, 2, 5, 3]
    stated = EvaluationProtocol.from_card(made.card.protocol)
    assert stated == by_views(
        "sre2l", epochs=EPOCHS, batch_size=1024
    )  # as our own method states it
    assert (stated.labels, stated.temperature, stated.epochs) == ("store", 20.0, EPOCHS)
    assert (stated.optimiser, stated.lr_schedule, stated.batch_size) == ("adamw", "cosine", 1024)


def test_networks_are_trained_on_it_as_its_card_says(tmp_path: Path) -> None:
    from ddaudit.models import Arch

    images, labels, _ = written(tmp_path)
    made = import_set(images, options={"fkd": str(labels)})
    stated = EvaluationProtocol.from_card(made.card.protocol).for_data(
        PROTOCOLS["dc"].augment or ""
    )
    (net,) = train_many(
        [(made.images, made.labels)], arch=Arch.parse("MLPW8"), num_classes=CLASSES, mean=(0.5,) * 3,
        std=(0.5,) * 3, protocol=stated, seeds=[0], extras=[Extras(store=made.store)],
    )  # fmt: skip
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_views_may_be_unmixed(tmp_path: Path) -> None:
    images, labels, _ = written(tmp_path, mix="")
    store = import_set(images, options={"fkd": str(labels)}).store
    assert store is not None
    assert store.partners is None
    assert store.patches is None


def test_batches_may_say_which_images_they_are_of(tmp_path: Path) -> None:
    """As G-VBSM writes them: no seed is asked, then."""
    images, labels, known = written(tmp_path, seed=7, says=True)
    store = import_set(images, options={"fkd": str(labels)}).store
    for (epoch, image), (_, _, partner, said) in known.items():
        assert torch.equal(store.logits[epoch, image], said)
        assert store.partners[epoch, image] == partner
    first = torch.load(labels / "epoch_0" / "batch_0.tar", weights_only=False)
    first[6][0] = first[6][1]
    torch.save(first, labels / "epoch_0" / "batch_0.tar")
    with pytest.raises(BadInput, match="does not name each of the 12 images once"):
        import_set(images, options={"fkd": str(labels)})


def test_epochs_that_fit_do_not_hide_those_that_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fkd, "_ENOUGH", 24)
    monkeypatch.setitem(globals(), "EPOCHS", 8)
    torch.manual_seed(0)
    images, labels, _ = written(tmp_path, right=4)
    with pytest.raises(BadInput, match="from epoch_4 on"):
        import_set(images, options={"fkd": str(labels)})


def test_another_seed_is_noticed_and_can_be_named(tmp_path: Path) -> None:
    images, labels, known = written(tmp_path, seed=7)
    with pytest.raises(BadInput, match=r"fkd_seed=N"):
        import_set(images, options={"fkd": str(labels)})
    store = import_set(images, options={"fkd": str(labels), "fkd_seed": "7"}).store
    assert torch.equal(store.logits[1, 5], known[1, 5][3])


def _drop_a_batch(labels: Path) -> None:
    (labels / "epoch_1" / "batch_1.tar").unlink()


def _drop_the_last(labels: Path) -> None:
    (labels / "epoch_1" / "batch_2.tar").unlink()


def _drop_an_epoch(labels: Path) -> None:
    for file in (labels / "epoch_1").iterdir():
        file.unlink()


def _empty(labels: Path) -> None:
    for file in labels.rglob("*.tar"):
        file.unlink()


def _other(labels: Path) -> None:
    torch.save({"a": torch.zeros(3)}, labels / "epoch_0" / "batch_0.tar")


def _code(labels: Path) -> None:
    torch.save([print] * 6, labels / "epoch_0" / "batch_0.tar")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_drop_a_batch, "epoch_1 lacks batch_1.tar"),
        (_drop_the_last, "labels of 10 views, the set 12 images"),
        (_drop_an_epoch, "lacks epoch_1"),
        (_empty, "holds no labels of views"),
        (_other, "is no batch of labels of views"),
        (_code, "holds pickled code"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, spoil, says: str) -> None:
    images, labels, _ = written(tmp_path)
    spoil(labels)
    with pytest.raises(BadInput, match=says):
        import_set(images, options={"fkd": str(labels)})


def test_mixup_and_missing_folders_are_refused(tmp_path: Path) -> None:
    images, labels, _ = written(tmp_path, mix="mixup")
    with pytest.raises(BadInput, match="mixup, which a label store does not keep"):
        import_set(images, options={"fkd": str(labels)})
    with pytest.raises(BadInput, match="no such folder"):
        import_set(images, options={"fkd": str(tmp_path / "nowhere")})
    with pytest.raises(BadInput, match="fkd_seed"):
        import_set(images, options={"fkd_seed": "3"})
