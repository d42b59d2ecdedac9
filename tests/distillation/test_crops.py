"""RDED: crops are pieces of records, chosen by the teacher, tiled in order, labelled per view; never private."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import resized_crop

from ddaudit.data import Dataset
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.crops import RealCrops, resize, tile
from ddaudit.distillation.labels import TeacherLabels
from ddaudit.distillation.loops import Job
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.relabel import label_views
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build
from ddaudit.sets import DistilledSet, from_bytes, inspect, save, to_bytes
from ddaudit.training import EvaluationProtocol, predict
from ddaudit.training.views import crop_and_flip

from .starts import given


def small(**options: object) -> Recipe:
    given = {
        "networks.arch": "ConvNetD2W8BN",
        "networks.epochs": 4,
        "synthesis.candidates": 12,
        "labels.epochs": 3,
    }
    return resolve("rded", profile="small", options={**given, **options})


@pytest.fixture(scope="module")
def made(tiny: Dataset) -> DistilledSet:
    return distill(small(), tiny.train, data=tiny, ipc=2, seed=0)


class Brightness(nn.Module):
    """A body that is the surer of class 1 the brighter an image is."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))
        return torch.stack([-level, level, level - 9, level - 9], 1)


def bright_teacher() -> Network:
    net = build(
        Arch.parse("ConvNetD2W8"), shape=(3, 8, 8), num_classes=4, seed=0, mean=[0.0] * 3, std=[1.0] * 3
    )  # fmt: skip
    net.body = Brightness()  # type: ignore[assignment]
    return net.eval()


def test_a_crop_is_torchvisions() -> None:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    for box, size in (((2, 4, 8, 8), (8, 8)), ((0, 0, 16, 16), (8, 8)), ((5, 1, 4, 4), (8, 8))):
        wanted = resized_crop(image, *box, list(size), antialias=True)
        assert torch.allclose(resize(image, torch.tensor(box) / 16, size)[0], wanted, atol=1e-6)


def test_the_surest_crops_of_the_surest_images_stay(tiny: Dataset) -> None:
    """A teacher that likes brightness keeps crops brighter than nearly all others, in order."""
    crops = RealCrops(candidates=40, crops=6, smallest=0.25).judged(bright_teacher())
    kept = crops._class(tiny.train, 1, 1, given(tiny.train, ipc=5))  # type: ignore[attr-defined]
    of_class = tiny.train.pixels((tiny.train.labels == 1).nonzero().squeeze(1))
    level = kept.mean((1, 2, 3))
    assert torch.equal(level, level.sort(descending=True).values)
    assert float(level.min()) > float(of_class.mean((1, 2, 3)).max())


def test_tiles_go_from_sure_to_less_sure() -> None:
    pieces = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 4, 4)
    out = tile(pieces, 2, 9, 8)  # 9 rows: the upper tiles are 5 high
    assert out.shape == (2, 1, 9, 8)
    for i in range(2):
        corners = [out[i, 0, r, c].item() for r in (0, 8) for c in (0, 7)]
        assert corners == [i, i + 2, i + 4, i + 6]
        assert (out[i, 0, :5, :4] == i).all()


@pytest.mark.parametrize(
    ("shape", "factor"), [((1, 8, 8), 1), ((3, 64, 64), 1), ((3, 128, 128), 2)]
)
def test_small_images_are_single_crops(shape: tuple[int, int, int], factor: int) -> None:
    assert RealCrops().tiles(shape) == factor


def test_tiles_that_show_nothing_are_refused(tiny: Dataset) -> None:
    assert RealCrops(per_side=2).tiles((1, 8, 8)) == 2
    with pytest.raises(BadInput, match="tiles of 2 x 2 pixels"):
        distill(small(**{"synthesis.per_side": 3}), tiny.train, data=tiny, ipc=1, seed=0)


def test_the_set_says_what_it_is(made: DistilledSet) -> None:
    assert made.images.shape == (8, 3, 8, 8)
    assert made.hard_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert made.card.contains_real_pixels
    assert made.card.shows_records
    stated = EvaluationProtocol.from_card(made.card.protocol or {})
    assert (stated.optimiser, stated.lr_schedule, stated.loss, stated.temperature, stated.labels) == (
        "adamw", "half-cosine", "kl", 20.0, "store",
    )  # fmt: skip
    assert made.store is not None
    budget = made.card.bytes
    assert budget is not None
    assert budget.images == 8 * 3 * 64 * 4
    assert budget.labels == 8 * 4 * 4 + 3 * 8 * (16 + 1 + 4 * 2 + 4 + 4 * 2)
    back = from_bytes(to_bytes(made))
    assert back.store is not None
    assert torch.equal(back.store.logits, made.store.logits)


def test_one_seed_one_set(made: DistilledSet, tiny: Dataset) -> None:
    again = distill(small(), tiny.train, data=tiny, ipc=2, seed=0)
    assert to_bytes(replace(again, card=made.card)) == to_bytes(made)


def test_the_store_holds_what_the_teacher_says_of_each_view() -> None:
    """With a teacher that reads brightness the label of a mixed view follows from its pixels."""
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    store = label_views(x, [bright_teacher()], 4, 3, g, crop=0.3, flip=True, cutmix=1.0)
    store.check(size=6, num_classes=4, shape=(3, 8, 8), where="test")
    assert store.partners is not None
    assert store.patches is not None
    for e in range(4):
        seen = crop_and_flip(x, store.boxes[e], store.flips[e])
        for i in range(6):
            top, left, tall, wide = store.patches[e, i].tolist()
            view = seen[i].clone()
            rows, cols = slice(top, top + tall), slice(left, left + wide)
            view[:, rows, cols] = seen[int(store.partners[e, i]), :, rows, cols]
            assert float(store.logits[e, i, 1]) == pytest.approx(float(view.mean()), abs=2e-3)
    assert len({tuple(b) for b in store.boxes.flatten(0, 1).tolist()}) == 24


def test_only_allowed_records_are_cut(tiny: Dataset) -> None:
    """A class whose only allowed record is white gives white crops."""
    from ddaudit.distillation import distill_many

    images = tiny.train.images.clone()
    first = int((tiny.train.labels == 2).nonzero()[0])
    images[first] = 255
    train = replace(tiny.train, images=images)
    members = tiny.train.labels != 2
    members[first] = True
    (one,) = distill_many(small(), train, members[None], data=tiny, ipc=2, seed=0)
    assert torch.allclose(one.images[4:6], torch.ones(()), atol=1e-6)


def test_real_pixels_are_refused_under_privacy() -> None:
    with pytest.raises(BadInput, match="releases real records, and noise on sums cannot hide them"):
        resolve("random+dp")


@pytest.mark.parametrize("name", ["random", "full", "k-center"])
def test_coresets_say_that_their_pixels_are_real(tiny: Dataset, name: str, tmp_path) -> None:
    recipe = resolve(name, profile="small", options={"loop.feature_epochs": 1})
    x = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    assert x.card.contains_real_pixels
    assert inspect(save(x, tmp_path / "a.safetensors")).card.contains_real_pixels
    dm = resolve("dm", profile="small", options={"loop.iterations": 1})
    assert distill(dm, tiny.train, data=tiny, ipc=1, seed=0).card.contains_real_pixels is None


def test_new_labels_drop_the_store_and_its_protocol(tiny: Dataset) -> None:
    soft = replace(small(), labels=TeacherLabels(arch="ConvNetD2W8", epochs=1))
    x = distill(soft, tiny.train, data=tiny, ipc=1, seed=0)
    assert x.store is None
    assert x.card.protocol is None


def test_the_teacher_labels_the_released_image(made: DistilledSet, tiny: Dataset) -> None:
    recipe = small()
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    (out,) = recipe.loop.run(recipe, Job(tiny.train, everyone, tiny, 2, 0, torch.device("cpu")))
    assert torch.equal(out.images, made.images)
    x = (made.images - 0.4) / 0.25
    assert torch.allclose(made.labels, predict(out.teachers[0], x).softmax(1), atol=1e-5)
