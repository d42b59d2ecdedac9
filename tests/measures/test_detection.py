"""Detection measures against scikit-learn and closed forms; scores against their definitions."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

from ddaudit.measures.detection import detection, energy, max_logit, msp, nearness


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("counts", [(200, 200), (150, 60)])
def test_measures_are_scikit_learns(ties, counts) -> None:
    g = torch.Generator().manual_seed(sum(counts) + ties)
    scores = torch.randn(sum(counts), generator=g).double()
    inside = torch.arange(sum(counts)) < counts[0]
    scores[inside] += 1
    if ties:
        scores = (2 * scores).round()
    got = {
        k: float(v)
        for k, v in detection(scores, inside, torch.ones(1, len(scores)).double()).items()
    }
    y, s = inside.numpy(), scores.numpy()
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    assert got["auroc"] == pytest.approx(roc_auc_score(y, s))
    assert got["fpr95"] == pytest.approx(fpr[tpr >= 0.95 - 1e-12].min())
    assert got["aupr_in"] == pytest.approx(average_precision_score(y, s))
    assert got["aupr_out"] == pytest.approx(average_precision_score(~y, -s))


def test_a_weight_of_two_is_a_record_twice() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(40, generator=g).double().round()
    inside = torch.arange(40) < 25
    weights = torch.randint(0, 3, (1, 40), generator=g)
    index = torch.repeat_interleave(torch.arange(40), weights[0])
    weighted = detection(scores, inside, weights.double())
    repeated = detection(scores[index], inside[index], torch.ones(1, len(index)).double())
    for name, value in weighted.items():
        assert float(value) == pytest.approx(float(repeated[name])), name


def test_scores_are_those_of_their_sources() -> None:
    z = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    p = z.double().softmax(1).amax(1)
    assert torch.allclose(msp(z), (p / (1 - p)).log())
    assert torch.allclose(max_logit(z), z.double().amax(1))
    assert torch.allclose(energy(z), z.double().exp().sum(1).log())
    sure = torch.tensor([[40.0, 0.0], [50.0, 0.0]])
    assert bool((sure.softmax(1).amax(1) == 1).all())
    assert float(msp(sure)[1]) > float(msp(sure)[0])


def test_nearness_is_the_kth_neighbour_of_unit_vectors() -> None:
    g = torch.Generator().manual_seed(2)
    x, bank = torch.randn(30, 5, generator=g), torch.randn(20, 5, generator=g)
    unit = [(t / t.norm(dim=1, keepdim=True)).numpy() for t in (x, bank)]
    want = NearestNeighbors(n_neighbors=3).fit(unit[1]).kneighbors(unit[0])[0][:, 2]
    got = nearness(x, bank, neighbours=3)
    assert got.numpy() == pytest.approx(-want, abs=1e-5)
    assert len(nearness(x, bank[:2], neighbours=5)) == 30
