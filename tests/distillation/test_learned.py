"""Learned labels: projection and gradients against closed forms, and what a recipe with them reaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ddaudit.data import load_data
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.kernels import DenseNTK, Scattering, krr_accuracy
from ddaudit.distillation.kernels.ridge import regularised
from ddaudit.distillation.kip import RidgeGradient
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.parts import Canvas
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.sets import from_bytes, to_bytes
from ddaudit.sets.simplex import to_simplex


def test_projection_is_the_nearest_distribution():
    """Against a general solver, and on points where the answer is known."""
    rows = np.random.default_rng(0).normal(scale=1.5, size=(5, 4))
    got = to_simplex(torch.from_numpy(rows)).numpy()
    for row, projected in zip(rows, got, strict=True):
        best = minimize(
            lambda p, row=row: ((p - row) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(projected, best.x, atol=1e-5)
    known = torch.tensor([[0.2, 0.3, 0.5], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(
        to_simplex(known), torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    )


@pytest.mark.parametrize(
    ("form", "confidence"), [("clamped", 1.0), ("clamped", 0.7), ("logits", 0.7)]
)
def test_labels_start_as_the_classes_of_the_images(form, confidence):
    canvas = Canvas([], torch.tensor([2, 0]), lambda: torch.zeros(1, 2, 1, 2, 2))
    canvas = LearnedLabels(form=form, confidence=confidence).start(canvas, 2, 3)
    rest = (1 - confidence) / 2
    want = torch.full((2, 3), rest)
    want[0, 2] = want[1, 0] = confidence
    got = canvas.label_distributions()
    assert torch.allclose(got, want.expand(2, -1, -1))
    assert canvas.parameters[-1].is_leaf


def regression(kernel, runs=1):
    g = torch.Generator().manual_seed(0)
    support, x = torch.randn(runs, 4, 1, 8, 8, generator=g), torch.randn(9, 1, 8, 8, generator=g)
    y = torch.randint(3, (9,), generator=g)
    soft = torch.rand(runs, 4, 3, generator=g).softmax(-1)
    return support, x, y, soft


@pytest.mark.parametrize("kernel", [DenseNTK(), Scattering()])
@pytest.mark.parametrize("space", ["pixels", "features"])
def test_label_gradients_are_those_of_least_squares(kernel, space):
    """With fixed images the predictions are B y: gradient B' W (B y - t) / c, each record weighted."""
    support, x, y, soft = regression(kernel, runs=2)
    rows = torch.rand(2, 2, 9, generator=torch.Generator().manual_seed(1))
    got = RidgeGradient(kernel, 1e-3, support, soft, 3, space=space).real(None, x, y, rows)
    for k in range(2):
        z, s = kernel.embed(x).double(), kernel.embed(support[k]).double()
        b = kernel.gram(z, s) @ torch.linalg.inv(regularised(kernel.gram(s, s), 1e-3))
        target = torch.nn.functional.one_hot(y, 3) - 1 / 3
        residual = b @ (soft[k].double() - 1 / 3) - target
        for r in range(2):
            want = b.T @ (rows[k, r, :, None] * residual) / 3
            assert torch.allclose(got[k, r, -12:].view(4, 3).double(), want, rtol=1e-3, atol=1e-5)


def test_labels_solved_by_least_squares_have_no_gradient():
    """KIP's label solve: torch.linalg.lstsq gives the labels at which the gradient vanishes."""
    kernel = DenseNTK()
    support, x, y, _ = regression(kernel)
    z, s = kernel.embed(x).double(), kernel.embed(support[0]).double()
    b = kernel.gram(z, s) @ torch.linalg.inv(regularised(kernel.gram(s, s), 1e-3))
    target = torch.nn.functional.one_hot(y, 3) - 1 / 3
    best = torch.linalg.lstsq(b, target.double()).solution + 1 / 3
    rows = torch.full((1, 1, 9), 1 / 9)
    at_best, elsewhere = (
        RidgeGradient(kernel, 1e-3, support, labels, 3, space="features")
        .real(None, x, y, rows)[0, 0, -12:]
        .abs()
        .max()
        for labels in (best[None], torch.full((1, 4, 3), 1 / 3))
    )
    assert at_best < 1e-6 < 1e-3 < elsewhere


@pytest.mark.parametrize("form", ["clamped", "logits"])
def test_kip_learns_labels_and_releases_them_as_distributions(form, tiny):
    options = {"loop.steps": 5, "labels.confidence": 0.9, "labels.form": form}
    made = distill(
        resolve("kip-labels", profile="small", options=options),
        tiny.train,
        data=tiny,
        ipc=2,
        seed=0,
    )
    assert made.soft
    assert made.labels.dtype == torch.float32
    assert torch.allclose(made.labels.sum(1), torch.ones(8), atol=1e-5)
    start = torch.full((8, 4), 0.1 / 3).scatter(1, torch.arange(8)[:, None] // 2, 0.9)
    assert (made.labels - start).abs().max() > 0.01
    assert made.card.recipe["labels"]["part"] == "LearnedLabels"
    assert torch.equal(from_bytes(to_bytes(made)).labels, made.labels)


def test_learned_labels_alone_make_the_regression_better():
    """Digits, two random images per class that stay as they are: labels learned for them against one-hot ones."""
    data = load_data("digits")
    images = data.test.pixels(torch.arange(len(data.test)))
    options = {"loop.steps": 40, "loop.lr": 1e-9, "labels.lr": 0.04}
    recipe = resolve("kip-labels", profile="small", options=options)
    made = distill(recipe, data.train, data=data, ipc=2, seed=0)
    before, after = (
        krr_accuracy(m, images, data.test.labels, kernel=recipe.loop.kernel, reg=1e-6)
        for m in (replace(made, labels=torch.arange(10).repeat_interleave(2)), made)
    )
    assert after > before + 0.02


def test_runs_learn_labels_of_their_own(tiny):
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    options = {"loop.steps": 2, "synthesis.init": "noise", "reader.per_class": 1000}
    recipe = resolve("kip-labels", profile="small", options=options)
    before, after = (
        distill_many(recipe, d, members, data=tiny, ipc=1, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.labels, b.labels) for a, b in zip(before, after, strict=True)]
    assert same == [not bool(m) for m in members[:, record]]


def test_learned_labels_are_refused_where_nothing_teaches_them(tiny):
    with pytest.raises(BadInput, match="has no gradient for learned labels"):
        replace(resolve("dm"), labels=LearnedLabels())
    private = replace(resolve("dp-kip", options={"loop.steps": 1}), labels=LearnedLabels())
    with pytest.raises(BadInput, match="learns labels from gradients"):
        distill(private, tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(BadInput, match=r"labels\.confidence must lie"):
        resolve("kip-labels", options={"labels.form": "logits"})
    support, x, y, soft = regression(DenseNTK())
    with pytest.raises(DDAuditError, match="not taken per record"):
        RidgeGradient(DenseNTK(), 1e-3, support, soft, 3, space="features").signals(None, x, y)
