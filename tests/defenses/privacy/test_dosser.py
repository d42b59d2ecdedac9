"""Dosser, its subspace, and several sizes from one budget."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from ddaudit.data import load_data
from ddaudit.defenses.privacy.accounting import compose, epsilon
from ddaudit.distillation import distill, distill_sizes, resolve
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.subspace import Subspace, fit_images, principal_directions, random_basis
from ddaudit.errors import BadInput
from ddaudit.sets import LedgerEntry

FAST = {
    "loop.iterations": 12,
    "loop.pool": 4,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.dims": 8,
    "networks.images": 40,
    "reader.batch": 20,
    "reader.delta": 1e-3,
}
PLAIN = ("loop.iterations", "networks.arch", "networks.width", "reader.batch", "reader.delta")


def dosser(**more):
    return resolve("dosser", profile="small", options={**FAST, **more})


def test_the_ledger_counts_questions_not_steps(tiny):
    made = distill(dosser(), tiny.train, data=tiny, ipc=1, seed=0)
    claim = made.card.privacy
    assert [e.count for e in claim.ledger] == [4]  # 12 steps on 4 stored answers
    assert claim.epsilon <= 10
    assert any("drawn once" in d for d in made.card.deviations)


def test_the_published_noise_level_is_what_the_accountant_says():
    """Sheet A.4: sigma 4.2969 for CIFAR-10, I1 = 10 000, q = 50 / 5000; drawn 20 times it proves 6.69 (PLD)."""

    def cost(sigma):
        return epsilon([LedgerEntry(query="q", sigma=sigma, q=0.01, count=10_000)], 1e-5)

    assert cost(4.2969) < 1.0
    assert cost(4.2969 / 20**0.5) == pytest.approx(6.69, abs=0.02)


def test_principal_directions_are_those_of_scikit_learn():
    for n, d in ((200, 12), (10, 30)):
        z = torch.randn(n, d, generator=torch.Generator().manual_seed(1)) @ torch.diag(
            torch.linspace(3, 0.1, d)
        )
        count = min(5, n - 1)
        ours = principal_directions(z, count)
        theirs = torch.tensor(PCA(count).fit(z.numpy()).components_.T).to(ours)
        cosines = (ours * theirs).sum(0).abs()
        assert torch.allclose(cosines, torch.ones(count), atol=1e-3)


def test_a_random_basis_is_orthonormal_and_repeats_by_seed():
    a, b = (random_basis(20, 6, seed=3) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.allclose(a.T @ a, torch.eye(6), atol=1e-5)
    assert not torch.allclose(a, random_basis(20, 6, seed=4))


def test_the_projection_is_behind_the_embedding(tiny):
    bound = Subspace("ConvNetD2W8", None, dims=8, images=40).bind(tiny)
    args = {"shape": tiny.shape, "num_classes": 4, "seed": 5, "device": torch.device("cpu")}
    net, plain = bound.make(**args), Fresh("ConvNetD2W8").make(**args)
    x = torch.randn(6, *tiny.shape, generator=torch.Generator().manual_seed(0))
    centre = plain.body.features(bound.material).mean(0)
    expected = (plain.body.features(x) - centre) @ random_basis(len(centre), 8, seed=5)
    assert torch.allclose(net.body.features(x), expected, atol=1e-4)


def test_private_data_are_not_public(tiny):
    digits = load_data("digits")
    with pytest.raises(BadInput, match="not public"):
        Subspace(public="digits").bind(digits)
    # Made from the same records: in colour, with wrong labels, long-tailed; and the other way round.
    for version in ("digits-colored", "noisy:base=digits-colored", "digits-lt"):
        with pytest.raises(BadInput, match="not public"):
            Subspace(public=version).bind(digits)
        with pytest.raises(BadInput, match="not public"):
            Subspace(public="digits").bind(load_data(version))
    bound = Subspace(public="digits", images=40).bind(tiny)
    assert bound.material.shape == (40, *tiny.shape)


def test_one_folder_is_one_origin_under_every_spelling_and_reader(tmp_path, monkeypatch):
    """A link, a relative path, a detour: the same records, whatever the path was called."""
    images = torch.zeros(2, 8, 8, dtype=torch.uint8).numpy()
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "real" / name).mkdir(parents=True)
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / "real" / name / f"{i}.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    private = load_data(f"image-folder:path={tmp_path / 'real'}")
    for path in ("link", "real", "./link/../real", str(tmp_path / "link")):
        with pytest.raises(BadInput, match="not public"):
            Subspace(public=f"image-folder:path={path}").bind(private)


def test_the_refusal_looks_at_no_private_record(tiny):
    """It would tell whoever chooses the public images which of them are private records."""

    class Sealed:
        """Private records that must not be read."""

        def __getattr__(self, name):
            raise AssertionError(f"train.{name} was read")

    with pytest.raises(BadInput, match="not public"):
        Subspace(public="digits").bind(replace(load_data("digits"), train=Sealed()))
    digits = load_data("digits")
    found = []
    for image in (digits.train.images[0], 255 - digits.train.images[0]):
        images = digits.test.images.clone()
        images[5] = image  # one of the public images, or none of them
        train = replace(digits.test, images=images)
        mine = replace(digits, name="mine", origin="mine", train=train)
        found.append(Subspace(public="digits", images=2000).bind(mine).material)
    assert torch.equal(*found)


def test_the_claim_lists_the_public_images(tiny):
    options = {"networks.public": "digits", "networks.images": 40, "networks.dims": 8}
    made = distill(dosser(**options), tiny.train, data=tiny, ipc=1, seed=0)
    assert any("40 images of 'digits'" in line for line in made.card.privacy.public)
    plain = distill(dosser(), tiny.train, data=tiny, ipc=1, seed=0)
    assert not any("images of" in line for line in plain.card.privacy.public)


def test_questions_that_come_again_keep_their_answers(tiny, monkeypatch):
    """More answers than the memory of a plan that asks once: the pool, and the second of two sizes."""
    monkeypatch.setattr("ddaudit.defenses.privacy.source.KEEP_FLOATS", 1)
    distill(dosser(), tiny.train, data=tiny, ipc=1, seed=0)
    ndpdc = resolve("ndpdc", options={k: FAST[k] for k in PLAIN})
    assert len(distill_sizes(ndpdc, tiny.train, [1, 2], data=tiny, seed=0)) == 2


def test_public_images_fit_any_shape():
    x = torch.rand(2, 3, 32, 32)
    assert fit_images(x, (1, 28, 28)).shape == (2, 1, 28, 28)
    assert torch.allclose(fit_images(x, (1, 32, 32)), x.mean(1, keepdim=True))
    assert torch.equal(fit_images(x[:, :1], (3, 32, 32)), x[:, :1].expand(-1, 3, -1, -1))


def test_several_sizes_cost_one_budget(tiny):
    small, large = distill_sizes(dosser(), tiny.train, [1, 3], data=tiny, seed=0)
    assert (len(small), len(large)) == (4, 12)
    claims = [s.card.privacy for s in (small, large)]
    assert claims[0] == claims[1]
    assert compose(claims) == pytest.approx(claims[0].epsilon)
    again = distill(dosser(), tiny.train, data=tiny, ipc=1, seed=0).card.privacy
    joint = compose([*claims, again])
    # Two independent runs of T queries are 2T queries of the same mechanism: an outside answer.
    doubled = [e.model_copy(update={"count": 2 * e.count}) for e in again.ledger]
    assert joint == pytest.approx(epsilon(doubled, again.delta))
    assert joint > 1.2 * again.epsilon


def test_sizes_get_the_answers_a_single_run_would_get(tiny):
    """With the noise seed fixed, the second size is the set that it would be alone: same questions, same answers."""
    recipe = dosser(**{"reader.noise_seed": 3})
    together = distill_sizes(recipe, tiny.train, [2], data=tiny, seed=0)[0]
    alone = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)
    assert torch.equal(together.images, alone.images)
    ndpdc = resolve(
        "ndpdc",
        profile="small",
        options={k: FAST[k] for k in PLAIN} | {"reader.noise_seed": 3},
    )
    second = distill_sizes(ndpdc, tiny.train, [1, 2], data=tiny, seed=0)[1]
    single = distill(ndpdc, tiny.train, data=tiny, ipc=2, seed=0)
    assert torch.equal(second.images, single.images)


def test_sizes_are_refused_where_questions_depend_on_the_set(tiny):
    options = {"networks.width": 8, "loop.outer": 2, "loop.inner": 1, "reader.delta": 1e-3}
    psg = resolve("psg", profile="small", options=options)
    with pytest.raises(BadInput, match="several sizes"):
        distill_sizes(psg, tiny.train, [1, 2], data=tiny, seed=0)


def test_formations_release_what_victims_see(tiny):
    made = distill(
        resolve("dosser-pea", profile="small", options=FAST), tiny.train, data=tiny, ipc=2, seed=0
    )
    assert made.images.shape == (4 * 2 * 4, *tiny.shape)
    assert made.labels.bincount().tolist() == [8] * 4
    assert made.card.ipc == 2


def test_noisy_counts_are_in_the_ledger_and_on_the_card(tiny):
    made = distill(dosser(**{"reader.counts": "noisy"}), tiny.train, data=tiny, ipc=1, seed=0)
    claim = made.card.privacy
    assert claim.ledger[0].query == "class counts"
    assert claim.ledger[0].q == 1
    assert 9.5 < claim.epsilon <= 10
    assert claim.cross_checks["prv"] <= 10 * 1.01
    assert not any("counts" in p or "number of records" in p for p in claim.public)
    options = {k: FAST[k] for k in PLAIN} | {"reader.counts": "noisy"}
    fair = resolve("dm+fair+dp", profile="small", options=options)
    with pytest.raises(BadInput, match="by exact"):
        distill(fair, tiny.train, data=tiny, ipc=1, seed=0)
