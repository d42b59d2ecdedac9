"""Detectors against closed forms, numpy and scikit-learn: what each reads where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ddaudit.attacks.backdoor_scan.beatrix import (
    ORDERS,
    Band,
    gram,
    mean_discrepancy,
    rejection_limit,
)
from ddaudit.attacks.backdoor_scan.clustering import two_clusters
from ddaudit.attacks.backdoor_scan.detector import Exhibit, anomaly_index
from ddaudit.attacks.backdoor_scan.neural_cleanse import flagged_classes, smallest_masks
from ddaudit.attacks.backdoor_scan.patch_gap import best_patches
from ddaudit.attacks.backdoor_scan.scan import likelihood_ratio, two_groups, variation
from ddaudit.attacks.backdoor_scan.spectral import first_direction, outlier_scores
from ddaudit.attacks.backdoor_scan.strip import Strip, blended_entropy


class Linear(nn.Module):
    """Pixels -> logits ``W x + b``."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Neural Cleanse ------------------------------------------------------------------------------


def one_pixel_network(weights: list[float], bias: float) -> Linear:
    """Class k > 0 has one pixel of its own: logit ``weights[k - 1] x_k``; class 0 has ``bias`` always."""
    weight = torch.zeros(len(weights) + 1, 16)
    for k, w in enumerate(weights, start=1):
        weight[k, k] = w
    return Linear(weight, torch.tensor([bias, *[0.0] * len(weights)]))


def test_smallest_mask_of_a_linear_network_is_the_known_one():
    """Black images: class k wins once its pixel, worth w_k m p, passes the bias b; so m = b / w_k is the least mask."""
    weights, bias = [20.0, 40.0, 40.0], 10.0
    found = smallest_masks(
        one_pixel_network(weights, bias), torch.zeros(2, 1, 4, 4), classes=4, steps=400
    )
    norms = found.norms
    assert float(norms[0]) < 0.2  # nothing has to change
    for k, w in enumerate(weights, start=1):
        # cross-entropy wants a margin beyond the boundary, and tanh never quite reaches 0 elsewhere
        assert bias / w <= float(norms[k]) < bias / w + 0.4
        assert int(found.triggers[k].flatten().argmax()) == k  # the pixel that decides


def test_a_class_that_no_mask_reaches_is_recorded_and_not_flagged():
    network = one_pixel_network([5.0, 40.0, 40.0], 10.0)  # class 1 stays at 5 < 10
    norms = smallest_masks(network, torch.zeros(2, 1, 4, 4), classes=4, steps=100).norms
    assert norms.isfinite().tolist() == [True, False, True, True]
    assert not bool(flagged_classes(norms)[1])


def test_published_rule_flags_the_one_small_norm():
    norms = torch.tensor([10.0, 11.0, 9.5, 10.5, 1.0, 10.2, 9.8, 10.1, 40.0, 9.9]).double()
    assert flagged_classes(norms).nonzero().flatten().tolist() == [4]  # 40 is as far, but above


def test_anomaly_index_equals_the_formula_of_the_source():
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.6])
    middle = np.median(values)
    expected = np.abs(values - middle) / (1.4826 * np.median(np.abs(values - middle)))
    assert anomaly_index(torch.from_numpy(values)).numpy() == pytest.approx(expected)


# ---- universal patch -----------------------------------------------------------------------------


def test_best_patch_finds_the_pixel_that_decides():
    """Class 1 is written in pixel 5 of 16 alone: a white patch there adds w to its logit, known in closed form."""
    weight = torch.zeros(3, 16)
    weight[1, 5] = 8.0
    clean, labels = torch.zeros(6, 1, 4, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    reached = best_patches(Linear(weight, torch.zeros(3)), clean, labels, classes=3, steps=120)
    assert float(reached[1]) == pytest.approx(-math.log1p(2 * math.exp(-8.0)), abs=2e-3)
    assert reached[[0, 2]].tolist() == pytest.approx([-math.log(3)] * 2, abs=1e-6)


# ---- STRIP ---------------------------------------------------------------------------------------


def test_entropy_of_blends_is_log_k_of_a_constant_network_and_0_of_a_certain_one():
    images, overlays = torch.rand(3, 1, 4, 4), torch.rand(5, 1, 4, 4)
    uniform = Linear(torch.zeros(7, 16), torch.zeros(7))
    certain = Linear(torch.zeros(7, 16), torch.tensor([100.0, *[0.0] * 6]))
    assert blended_entropy(uniform, images, overlays).tolist() == pytest.approx([math.log(7)] * 3)
    assert blended_entropy(certain, images, overlays).tolist() == pytest.approx([0.0] * 3)


def test_entropy_is_that_of_the_published_blend():
    """x + x' / 2, clipped, one pair at a time in numpy."""
    g = generator()
    weight, images, overlays = (
        torch.rand(*s, generator=g) for s in ((3, 4), (2, 1, 2, 2), (4, 1, 2, 2))
    )
    got = blended_entropy(Linear(weight, torch.zeros(3)), images, overlays)
    for i in range(2):
        entropies = []
        for j in range(4):
            z = (
                np.clip(images[i].numpy() + 0.5 * overlays[j].numpy(), 0, 1).ravel()
                @ weight.numpy().T
            )
            p = np.exp(z) / np.exp(z).sum()
            entropies.append(-(p * np.log(p)).sum())
        assert float(got[i]) == pytest.approx(np.mean(entropies), rel=1e-5)


def test_strip_names_the_class_whose_images_keep_their_label():
    """Pixel 0 overrules everything for class 2: rows that have it are certain however they are blended."""
    weight = torch.randn(4, 16, generator=generator())
    weight[:, 0] = torch.tensor([0.0, 0.0, 60.0, 0.0])
    clean = torch.rand(120, 1, 4, 4, generator=generator(1))
    clean[:, :, 0, 0] = 0
    rows = torch.rand(40, 1, 4, 4, generator=generator(2))
    rows[:, :, 0, 0] = 0
    labels = torch.arange(40) % 4
    rows[(labels == 2).nonzero()[:5, 0], :, 0, 0] = 1
    seen = Exhibit(clean, torch.arange(120) % 4, 4, rows, labels)
    reading = Strip().read(Linear(weight, torch.zeros(4)), seen)
    assert int(reading.scores.argmax()) == 2
    assert 5 / 40 <= reading.flagged < 10 / 40


# ---- Spectral Signatures -------------------------------------------------------------------------


def test_outlier_scores_of_a_rank_one_shift_are_known():
    """A share e of rows shifted by d along u, nothing else: (1 - e)^2 d^2 for those, e^2 d^2 for the others."""
    share, shift, n = 0.1, 3.0, 50
    direction = nn.functional.normalize(torch.randn(20, generator=generator()).double(), dim=0)
    features = torch.randn(1, 20, generator=generator(1)).double().repeat(n, 1)
    features[: int(share * n)] += shift * direction
    scores = outlier_scores(features)
    assert scores[:5].tolist() == pytest.approx([((1 - share) * shift) ** 2] * 5)
    assert scores[5:].tolist() == pytest.approx([(share * shift) ** 2] * 45)
    found = first_direction(features - features.mean(0))
    assert abs(float(found @ direction)) == pytest.approx(1.0)


# ---- Activation Clustering -----------------------------------------------------------------------


def test_two_blobs_are_split_as_made_and_one_blob_has_a_low_silhouette():
    from sklearn.metrics import silhouette_score

    g = generator()
    blob = 0.3 * torch.randn(60, 5, generator=g).double()
    two = blob + 4.0 * (torch.arange(60) < 12)[:, None] * torch.eye(5)[0]
    split = two_clusters(two)
    assert split.smaller == 0.2
    assert split.second.nonzero().flatten().tolist() == list(range(12))
    known = silhouette_score(two.numpy(), np.arange(60) < 12)  # all five dimensions are kept
    assert split.silhouette == pytest.approx(known)
    assert two_clusters(blob).silhouette < 0.3 < split.silhouette


def test_points_that_do_not_differ_are_no_clusters():
    assert two_clusters(torch.ones(20, 3).double()).silhouette == 0.0


# ---- SCAn ----------------------------------------------------------------------------------------


def gaussians(*, classes: int, each: int, dims: int, spread: float, seed: int = 0):
    g = generator(seed)
    means = spread * torch.randn(classes, dims, generator=g).double()
    labels = torch.arange(classes).repeat_interleave(each)
    return means[labels] + torch.randn(len(labels), dims, generator=g).double(), labels


def test_variation_within_classes_is_estimated():
    features, labels = gaussians(classes=40, each=100, dims=3, spread=5.0)
    between, within = variation(features, labels)
    assert torch.allclose(within, torch.eye(3).double(), atol=0.1)
    assert torch.allclose(between.diagonal(), torch.full((3,), 25.0).double(), rtol=0.5)


def test_likelihood_ratio_of_a_mixture_is_its_closed_form():
    """Of a mixture with shares p and 1 - p at Mahalanobis distance d the ratio per point is p (1 - p) d^2."""
    n, share, distance = 4000, 0.3, 8.0
    x = torch.randn(n, 4, generator=generator()).double()
    x[: int(share * n), 0] += distance
    wide, unit = 1e4 * torch.eye(4).double(), torch.eye(4).double()  # class means are free
    ratio = likelihood_ratio(x, wide, unit, generator=generator(1))
    assert ratio == pytest.approx(share * (1 - share) * distance**2, rel=0.05)


def test_likelihood_ratio_of_one_group_is_small():
    """A Gaussian cut in two at its mean along one direction: 2 / pi in that direction, whatever n."""
    x = torch.randn(4000, 1, generator=generator()).double()
    unit = torch.eye(1).double()
    ratio = likelihood_ratio(x, 1e4 * unit, unit, generator=generator(1))
    assert ratio == pytest.approx(2 / math.pi, rel=0.05)


def test_split_finds_the_two_groups():
    x = torch.randn(100, 2, generator=generator()).double()
    x[:30, 1] += 9.0
    first = two_groups(x, torch.eye(2).double(), generator=generator(3))
    assert sorted((int(first[:30].sum()), int(first[30:].sum()))) in ([0, 30], [0, 70])


# ---- Beatrix -------------------------------------------------------------------------------------


def test_gram_features_equal_numpy():
    maps = torch.randn(3, 4, 2, 5, generator=generator()).double()
    for order in ORDERS:
        f = maps.numpy().reshape(3, 4, 10) ** order
        products = np.einsum("nch,ndh->ncd", f, f)
        root = np.sign(products) * np.abs(products) ** (1 / order)
        rows, columns = np.triu_indices(4)
        assert gram(maps, order).numpy() == pytest.approx(root[:, rows, columns])


def test_deviation_counts_what_lies_outside_the_band():
    """One channel, one pixel, value v: G_p = v^2 for every order, so the band is known by hand."""
    trusted = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double().sqrt().view(5, 1, 1, 1)
    band = Band.of(trusted)  # median 3, median deviation 1: [-7, 13]
    inside, above = (torch.tensor([v]).double().sqrt().view(1, 1, 1, 1) for v in (12.0, 20.0))
    assert float(band.deviation(inside)) == 0.0
    assert float(band.deviation(above)) == pytest.approx((20 - 13) / 13 / 0.5, rel=1e-4)


def test_five_percent_of_trusted_images_are_rejected():
    """A heavy tail, so that some lie outside the band of the other folds; the limit is the 96th of 100."""
    maps = torch.randn(100, 3, 1, 1, generator=generator()).double() ** 5
    limit = rejection_limit(maps)
    folds = []
    for i in range(5):
        out = torch.arange(100) // 20 == i
        folds.append(Band.of(maps[~out]).deviation(maps[out]))
    assert int((torch.cat(folds) > limit).sum()) == 4


def test_mean_discrepancy_is_0_of_one_group_with_itself_and_grows_with_distance():
    a = torch.randn(30, 2, generator=generator()).double()
    assert mean_discrepancy(a, a) == pytest.approx(0.0, abs=1e-9)
    assert mean_discrepancy(a, a[:0]) == 0.0
    assert mean_discrepancy(a, a + 5) > mean_discrepancy(a, a + 1) > 0
