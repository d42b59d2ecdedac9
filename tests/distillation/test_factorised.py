"""Frequencies, mirror images, hallucinators and memories: against SciPy, the authors' code and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import torch

from ddaudit.data import load_data
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.contrast import supervised_contrast
from ddaudit.distillation.factorised import (
    Hallucinated,
    Hallucinator,
    Memory,
    recall,
)
from ddaudit.distillation.frequency import Frequency, dct, idct, lowest, most_varied
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.mirrored import Mirrored
from ddaudit.distillation.synthesis import Pixels, Records
from ddaudit.errors import BadInput, DDAuditError

from .starts import given

FEW = {"loop.iterations": 3, "networks.arch": "ConvNetD2W8", "networks.width": None}


def start(synthesis, data, *, ipc=1, runs=1):
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    return synthesis.start(given(data.train, runs=runs, ipc=ipc, mean=mean, std=std))


def made(name, data, *, ipc=1, **options):
    recipe = resolve(name, profile="small", options={**FEW, **options})
    return distill(recipe, data.train, data=data, ipc=ipc, seed=0)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7)])
def test_the_cosine_transform_is_scipys_and_goes_back(shape):
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).double()
    want = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(dct(x).numpy(), want, atol=1e-12)
    np.testing.assert_allclose(idct(dct(x)).numpy(), x.numpy(), atol=1e-12)


def test_every_class_keeps_the_frequencies_that_vary_most():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, 3, 3)) * rng.uniform(size=(1, 1, 3, 3))
    chosen = most_varied(torch.from_numpy(x), 2, 4).numpy()
    for c in range(2):
        spread = np.var(x[3 * c : 3 * c + 3].mean(1).reshape(3, -1), axis=0)
        assert set(chosen[c]) == set(np.argsort(spread)[-4:])
    assert lowest(4, 4, 3).tolist() == [0, 1, 4]


def test_all_frequencies_are_dm_itself(tiny):
    """The transform is a rotation: the same steps, seen in another basis."""
    plain, turned = made("dm", tiny), made("fred", tiny, **{"synthesis.share": 1.0, "loop.lr": 5})
    torch.testing.assert_close(plain.images, turned.images, atol=1e-4, rtol=0)


def test_frequencies_take_the_storage_of_whole_images(tiny):
    for ipc in (1, 2):
        x = made("fred", tiny, ipc=ipc, **{"synthesis.share": 0.25})
        budget = 4 * ipc * 4 * 3 * 8 * 8
        assert len(x) == 4 * 4 * ipc
        assert (x.card.ipc, x.card.bytes.images, x.card.bytes.decoder) == (ipc, budget, 4 * 8)
    noise = start(Frequency(init="noise", share=0.25), tiny)
    assert noise.decoder_bytes == 0


def test_runs_of_frequencies_at_once_are_the_runs_alone(tiny):
    recipe = resolve("fred", profile="small", options=FEW)
    everyone = torch.ones(2, len(tiny.train), dtype=torch.bool)
    assert recipe.loop.shareable(recipe, 1)
    both = distill_many(recipe, tiny.train, everyone, data=tiny, ipc=1, seed=0)
    alone = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    torch.testing.assert_close(both[0].images, alone.images, atol=1e-5, rtol=0)


def test_mirror_images_are_matched_and_not_released(tiny):
    canvas = start(Mirrored(Frequency(share=0.25)), tiny)
    x = canvas.decode()
    half = x.shape[1] // 2
    assert torch.equal(x[:, half:], x[:, :half].flip(-1))
    assert (canvas.copies, canvas.size, len(canvas.labels)) == (2, half, 2 * half)
    images, labels = canvas.taught(0)
    assert torch.equal(images, x[0, :half])
    assert torch.equal(labels, canvas.labels[:half])
    released = made("fyi", tiny)
    assert len(released) == 4
    assert released.card.bytes is None


def test_a_symmetric_image_is_its_own_mirror_image(tiny):
    """From symmetric records mirrored images change nothing: fyi is dm."""
    x = tiny.train.images
    even = replace(tiny.train, images=torch.cat([x[..., :4], x[..., :4].flip(-1)], -1))
    data = replace(tiny, train=even)
    a, b = made("dm", data), made("fyi", data)
    assert not torch.allclose(a.images, even.pixels()[:4], atol=1e-3)
    pulled = (b.images + b.images.flip(-1)) / 2
    torch.testing.assert_close(b.images, pulled, atol=1e-5, rtol=0)


def test_learned_labels_serve_both_mirror_images(tiny):
    canvas = LearnedLabels().start(start(Mirrored(), tiny), 1, 4)
    assert canvas.soft.values.shape == (1, 4, 4)
    soft = canvas.label_distributions()
    assert torch.equal(soft[:, :4], soft[:, 4:])


def test_grey_images_may_be_left_as_they_are(tiny):
    digits = load_data("digits")
    assert start(Mirrored(on="colour"), digits).copies == 1
    assert start(Mirrored(on="colour"), tiny).copies == 2


def test_a_hallucinator_of_single_pixels_is_an_affine_map():
    """c (s (a x + b) + t) + d."""
    net = Hallucinator(1, (1, 2, 2), 1)
    a, b, s, t, c, d = 2.0, 0.5, 3.0, -1.0, 0.25, 4.0
    with torch.no_grad():
        for name, value in (("enc.weight", a), ("enc.bias", b), ("scale", s), ("shift", t)):
            net.get_parameter(name).fill_(value)
        net.dec.weight.fill_(c)
        net.dec.bias.fill_(d)
        x = torch.tensor([[[[0.0, 1.0], [2.0, -1.0]]]])
        torch.testing.assert_close(net(x), c * (s * (a * x + b) + t) + d)


def test_a_hallucinator_computes_what_the_authors_compute():
    """Huage001/DatasetFactorization at 60c9128, utils.py, StyleTranslator(1, 2, 2, image_size=4, kernel_size=3)."""
    net = Hallucinator(1, (2, 4, 4), 3)
    want = [-0.2507804, 0.6891475, 0.9048113, 0.6989628, 1.7785304, 6.5205617, 7.4850950, 5.0619688]
    by_theirs = ("scale", "shift", "enc.weight", "enc.bias", "dec.weight", "dec.bias")
    with torch.no_grad():
        for i, name in enumerate(by_theirs):
            p = net.get_parameter(name)
            p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape) + 0.1 * i)
        out = net(torch.linspace(0, 1, 16).view(1, 1, 4, 4))
    assert out.shape == (1, 2, 4, 4)
    np.testing.assert_allclose(out.flatten()[:8].numpy(), want, rtol=1e-5)


def test_the_contrast_of_styles_is_the_authors():
    """The same repository, contrastive_loss.py, SupConLoss on two views of four vectors in three classes."""
    a = [[1, 0.2, -0.3], [0.5, 0.9, 0.1], [-0.4, 0.3, 0.8], [0.2, -0.7, 0.6]]
    b = [[0.9, 0.1, -0.5], [0.4, 1.1, 0.0], [-0.2, 0.5, 0.7], [0.3, -0.6, 0.9]]
    z, y = torch.tensor([*a, *b], dtype=torch.float64), torch.tensor([0, 1, 0, 2] * 2)
    assert float(supervised_contrast(z, y)) == pytest.approx(7.174005646374802, rel=1e-9)


def test_bases_are_seen_in_every_style(tiny):
    canvas = start(Hallucinated(styles=3, extractor="ConvNetD2W8"), tiny, ipc=2)
    assert canvas.decode().shape == (1, 4 * 2 * 3, 3, 8, 8)
    assert canvas.labels.tolist() == [c for c in range(4) for _ in range(6)]
    hallucinator = 3 * (3 * 3 * 9 + 3) // 3 * 2 + 2 * 3 * 6 * 6
    assert canvas.image_bytes == 4 * 8 * 3 * 8 * 8
    assert canvas.decoder_bytes == 4 * 3 * hallucinator


def test_the_contrast_drives_styles_apart(tiny):
    canvas = start(Hallucinated(styles=2, extractor="ConvNetD2W8", contrast=1.0), tiny)
    first = canvas.penalty().item()
    optimiser = torch.optim.SGD(canvas.parameters, lr=0.5)
    for _ in range(20):
        canvas.pull(canvas.parameters[0].sum() * 0)
        optimiser.step()
    assert canvas.penalty().item() < first - 0.05
    assert start(Hallucinated(contrast=0), tiny).penalty is None


def test_a_memory_recalls_combinations_of_its_bases():
    bases = torch.tensor([[[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 2.0], [0.0, 0.0]]]]])
    addresses = torch.tensor([[[3.0, 0.5]]])
    assert recall(bases, addresses, (2, 2)).tolist() == [[[[[3.0, 1.0], [0.0, 0.0]]]]]
    assert recall(bases, addresses, (4, 4)).shape == (1, 1, 1, 4, 4)


def test_a_memory_holds_as_many_images_as_the_authors_count():
    """utils/Img_per_Cls_budget.py of the authors' code at f49e631, CIFAR-10, budget 1, 16 bases at half the side: 115.2
    images per class."""
    blank = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
    data = load_data("digits").train
    data = replace(data, images=blank, labels=torch.arange(10), groups=None)
    canvas = Memory().start(given(data))
    assert len(canvas.labels) == 1150
    assert canvas.image_bytes + canvas.decoder_bytes <= 4 * 10 * 3 * 32 * 32


def test_bases_that_take_up_the_budget_are_refused(tiny):
    with pytest.raises(BadInput, match="take up the budget of 1 images per class"):
        start(Memory(bases=30, scale=1), tiny)


def test_records_are_released_as_they_are_and_said(tiny):
    recipe = resolve("ld", profile="small", options={"loop.steps": 2, "networks.width": 8})
    x = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)
    assert torch.allclose(x.images, tiny.train.pixels(torch.tensor(x.card.member_indices)))
    assert x.card.contains_real_pixels
    assert x.soft
    assert tiny.train.labels[x.card.member_indices].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_looks_at_records_does_not_go_private(tiny):
    for synthesis in (Pixels(), Frequency(), Mirrored(), Hallucinated(), Memory()):
        assert synthesis.from_noise().init == "noise"
    with pytest.raises(BadInput, match="releases real records as they are"):
        Records().from_noise()
    with pytest.raises(BadInput, match="releases real records as they are"):
        resolve("ld+dp")
    for name in ("rtp+dp", "rfad+dp", "frepo+dp"):
        with pytest.raises(BadInput, match="no clip is known"):
            resolve(name)


@pytest.mark.parametrize("name", ["fred", "fred-dc", "fyi", "fyi-dsa", "haba-dm"])
@pytest.mark.parametrize("with_", ["+fair", "+dp", "+fair+dp"])
def test_factorised_images_go_with_every_target_and_reader(name, with_, tiny):
    options = {"loop.iterations": 1}
    if "dc" in name or "dsa" in name:
        options |= {"loop.outer": 1}
    x = made(name + with_, tiny, **options)
    assert bool(x.card.privacy) == ("dp" in with_)
    assert torch.isfinite(x.images).all()


STEPS = {"loop.steps": 2, "networks.arch": "ConvNetD2W8", "networks.width": None}
WHOLE = {
    "haba": {
        **FEW,
        "loop.iterations": 1,
        "loop.steps": 2,
        "networks.count": 1,
        "networks.epochs": 1,
        "loop.starts.last": 1,
        "synthesis.extractor": "ConvNetD2W8",
    },
    "rtp": {**STEPS, "loop.inner": 3, "synthesis.bases": 4, "synthesis.scale": 2},
    "rfad": {**STEPS, "networks.arch": "ConvNetD2W8NN"},
    "ld": STEPS,
    "frepo": {**STEPS, "networks.size": 2},
}


@pytest.mark.parametrize("name", ["fred", "fyi", "haba-dm", *WHOLE])
def test_the_same_seed_gives_the_same_set(name, tiny):
    options = WHOLE.get(name, FEW)
    recipe = resolve(name, profile="small", options=options)
    a, b = (distill(recipe, tiny.train, data=tiny, ipc=1, seed=3) for _ in range(2))
    c = distill(recipe, tiny.train, data=tiny, ipc=1, seed=4)
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.labels, b.labels)
    assert not torch.equal(a.images, c.images)
    assert a.card.ipc == 1
    assert a.card.method == name


def test_frequencies_of_a_run_do_not_see_records_outside_its_subset(tiny):
    """Records start the images and choose their frequencies: change one, and exactly its runs change."""
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    options = {**FEW, "reader.per_class": 1000}
    recipe = resolve("fred", profile="small", options=options)
    before, after = (
        distill_many(recipe, d, members, data=tiny, ipc=1, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
    assert same == [not bool(m) for m in members[:, record]]


def test_a_method_lends_its_synthesis_to_any_objective(tiny):
    """By name, on the command line as here."""
    x = made("dc", tiny, **{"loop.iterations": 1, "synthesis": "fred", "synthesis.share": 0.5})
    assert x.card.recipe["synthesis"] == {"part": "Frequency", "init": "real", "share": 0.5}
    assert len(x) == 8
    assert any(note.startswith("synthesis = Frequency(") for note in x.card.deviations)
    with pytest.raises(BadInput, match="--set synthesis=random: 'random' has no synthesis"):
        resolve("dm", options={"synthesis": "random"})
    with pytest.raises(BadInput, match="fredd"):
        resolve("dm", options={"synthesis": "fredd"})


def test_several_runs_of_hallucinators_come_one_after_the_other(tiny):
    with pytest.raises(DDAuditError, match="one run at a time"):
        start(Hallucinated(), tiny, runs=2)
