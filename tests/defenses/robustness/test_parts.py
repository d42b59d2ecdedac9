"""Parts of robust distillation against closed forms, finite differences and the authors' own functions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.defenses.robustness.attacked import (
    AttackedRecords,
    HardestFirst,
    hardest,
    robust_hinge,
)
from ddaudit.defenses.robustness.c2r import contrast
from ddaudit.defenses.robustness.cvar import ClusterRisk
from ddaudit.defenses.robustness.rome import ROME, Bottleneck
from ddaudit.distillation.kernels import DenseNTK
from ddaudit.distillation.kip import RidgeGradient
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.parts import Opening, Query, View
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch, build
from ddaudit.training import Ascent, Curvature


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_of_rome_is_that_of_the_authors_functions(known):
    """zhouzhengqd/ROME at 2ceed90: Code/utils.py (total_variation_2) and the loss of Code/ROME_cifar10.py at
    ce_weight 0.5, on images attacked by torchattacks 3.5.1's targeted PGD without a random start; float64."""
    net, coded = (
        known.network(),
        replace(ROME.reader.attack, space="normalised", random_start=False),
    )
    objective, total = Bottleneck(), 0.0
    net.accuracy = 0.25
    for c in range(3):
        real, made = known.images(4, c), known.images(2, c + 0.5)
        y = torch.full((4,), c)
        attacked = coded.on(
            real,
            lambda z, y=y: coded.aim(net.body(z), y),
            mean=torch.zeros(1, 1, 1),
            std=torch.ones(1, 1, 1),
            generator=torch.Generator(),
        )
        rows = torch.full((1, 1, 4), 0.25, dtype=torch.float64)
        target = objective.real(net, attacked, y, rows)
        ours = objective.synthetic(net, made[None], y[:2], torch.full((1, 2), 0.5).double(), None)
        total += objective.distance(net, target, ours).item()
        view = View(made[None], made[None], y[:2], 1, net, torch.ones(1, 1, 1), 0)
        # One class at a time here: without the factor that stands for their sum, with all three classes' logits.
        (term,) = (replace(t, per_class=False) for t in ROME.terms)
        total += term.weight * term.loss(replace(view, num_classes=3)).item()
    assert total == pytest.approx(32.94831894142795, rel=1e-9)


def test_cluster_risk_is_the_mean_of_each_clusters_worst_losses_and_has_a_gradient():
    losses = torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0, 9.0, 7.0], requires_grad=True)
    member = torch.zeros(3, 7, dtype=torch.bool)
    member[0, :5] = member[1, 5:] = True  # the third cluster has no records here
    # alpha 0.6: the worst 0.4 of five losses are two, of two losses 0.8 of one.
    risk = ClusterRisk(level=0.6).risk(losses, member)
    assert risk.item() == pytest.approx((4.5 + 9.0) / 2 + 9.0)
    (slope,) = torch.autograd.grad(risk, losses)
    assert slope.tolist() == pytest.approx([0, 0.25, 0, 0.25, 0, 1.5, 0])
    # As released: the smallest alpha share, three of five and 1.2 of two, and no gradient.
    released = ClusterRisk(level=0.6, released=True).risk(losses, member)
    second = (7.0 + 0.2 * 9.0) / 1.2
    assert released.item() == pytest.approx((2.0 + second) / 2 + second)
    assert not released.requires_grad


def test_records_are_clustered_around_the_nearest_image(known):
    net, canvas = known.network(), known.images(3, 0)
    shown = SimpleNamespace(taught=lambda run: (canvas, None), labels=torch.arange(3), size=3)
    risk = ClusterRisk(level=0.0, every=2)
    x = canvas[[2, 0, 0, 1]] + 1e-6
    losses = torch.tensor([8.0, 1.0, 3.0, 6.0], dtype=torch.float64)
    # Level 0: means of the clusters {1, 3}, {6} and {8}.
    assert risk.added(net, x, losses, shown, 0).item() == pytest.approx((2 + 6 + 8) / 3 + 8)
    assert risk.added(net, x, losses, shown, 1).item() == 0
    assert risk.added(net, x, losses, None, 0).item() == 0


def test_the_attack_on_a_kernels_predictor_has_its_slope():
    """Against finite differences in float64, for squared error and for the Platt loss."""
    x, y = numbers(3, 1, 3, 3).double(), torch.tensor([0, 1, 1])
    support, labels = numbers(1, 4, 1, 3, 3, seed=1).double(), torch.tensor([0, 0, 1, 1])
    for log_scale in (None, torch.tensor([0.7]).double()):
        question = RidgeGradient(
            DenseNTK(), 1e-3, support, labels, 2, space="features", log_scale=log_scale
        )
        assert torch.autograd.gradcheck(
            lambda z, q=question: q.losses(z, y), x.clone().requires_grad_()
        )
    # What is attacked is what is learned: the question's own gradient is that of the mean of these losses.
    one = RidgeGradient(DenseNTK(), 1e-3, support, labels, 2, space="pixels")
    rows, step = torch.full((1, 1, 3), 1 / 3).double(), 1e-5
    slope = one.real(None, x, y, rows).flatten()
    moved = support.clone()
    moved.view(-1)[5] += step
    far = RidgeGradient(DenseNTK(), 1e-3, moved, labels, 2, space="pixels")
    rise = (far.losses(x, y).mean() - one.losses(x, y).mean()) / step
    assert float(rise) == pytest.approx(float(slope[5]), rel=1e-3)
    two = RidgeGradient(
        DenseNTK(), 1e-3, support.repeat(2, 1, 1, 1, 1), labels, 2, space="features"
    )
    with pytest.raises(DDAuditError, match="several runs"):
        two.losses(x, y)


def test_curvature_is_matched_in_the_gradient_of_real_records_alone(known):
    """The gradient of (mean loss + curvature) by finite differences in one weight; per record it is the same mean."""
    net, x, y = known.network(), known.images(4, 1), torch.tensor([0, 1, 2, 0])
    plain = GradientMatch()
    curved = replace(plain, curvature=Curvature(weight=1.0, radius=0.5))
    rows = torch.full((1, 1, 4), 0.25).double()
    got = (curved.real(net, x, y, rows) - plain.real(net, x, y, rows)).flatten()
    p, step = next(net.body.parameters()), 1e-6

    def slopes(at: torch.Tensor) -> torch.Tensor:
        z = at.clone().requires_grad_(True)
        (g,) = torch.autograd.grad(F.cross_entropy(net.body(z), y, reduction="sum"), z)
        return g

    g = slopes(x)
    z = 0.5 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)  # held while the weight moves

    def penalty() -> float:
        return (slopes(x + z) - slopes(x)).flatten(1).norm(dim=1).mean().item()

    low = penalty()
    with torch.no_grad():
        p.view(-1)[3] += step
    rise = (penalty() - low) / step
    with torch.no_grad():
        p.view(-1)[3] -= step
    assert rise == pytest.approx(got[3].item(), rel=1e-3)
    per_record = curved.signals(net, x, y).mean(0) - plain.signals(net, x, y).mean(0)
    assert torch.allclose(per_record, got, atol=1e-8)
    made = x[None].clone().requires_grad_(True)
    both = [o.synthetic(net, made, y, rows[0], None) for o in (plain, curved)]
    assert torch.equal(*both)
    assert not curved.couples_records()
    assert replace(curved, curvature=Curvature(form="loss")).couples_records()


def test_the_hardest_records_of_a_row_count_and_its_sum_stays():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.5, 0.0, 0.4], [0.0, 2.0, 1.5]])
    assert robust_hinge(logits, torch.tensor([0, 0, 2])).tolist() == pytest.approx([0, 0.9, 1.5])
    rows = torch.tensor([[[0.25, 0.25, 0.25, 0.25, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]])
    hard = torch.tensor([0.1, 0.9, 0.5, 0.0, 3.0, 2.0])
    got = hardest(rows, hard, share=0.5)
    assert got.tolist() == [[[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1, 0]]]
    assert torch.equal(hardest(rows, hard, share=1.0), rows)
    pace = HardestFirst(0.4)
    assert [pace.share(t) for t in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([0.4, 0.7, 1, 1])


def test_contrast_of_pairs_is_the_sum_written_out():
    similar, labels = numbers(2, 5, 5, seed=5), torch.tensor([0, 1, 0, 2, 1])
    for k, run in enumerate(similar):
        terms = []
        for i in range(5):
            others = sorted((run[i, n] for n in range(5) if labels[n] != labels[i]), reverse=True)[
                :2
            ]
            for p in range(5):
                if p != i and labels[p] == labels[i]:
                    rest = sum(o.exp() for o in others)
                    terms.append(-(run[i, p].exp() / (run[i, p].exp() + rest)).log())
        got = contrast(similar, labels, hardest=2)[k].item()
        assert got == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_a_source_answers_for_attacked_records(tiny):
    """Its target is the signal of x', which the network likes less than x; a private reader is refused."""
    data, net = tiny.train, build(
        Arch.parse("ConvNetD2W8"), shape=(3, 8, 8), num_classes=4, seed=0, mean=[0.0] * 3, std=[1.0] * 3
    )  # fmt: skip
    mean, std = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.25)
    opening = Opening(ByClass(), mean, std, 1, 0, torch.device("cpu"))
    everyone = torch.ones(1, len(data), dtype=torch.bool)

    class Loss:
        shareable = False

        def signals(self, net, x, y):
            return F.cross_entropy(net.body(x), y, reduction="none")[:, None].detach()

        def real(self, net, x, y, rows):
            return rows @ self.signals(net, x, y)

    query = Query("0", Loss(), net, (None,) * 4)
    reader = Minibatch(per_class=20)
    plain = reader.open(data, everyone, opening).targets(query).values
    attacked = AttackedRecords(reader, Ascent(steps=3, random_start=False))
    source = attacked.open(data, everyone, opening)
    assert bool((source.targets(query).values > plain).all())
    assert source.clip is None
    assert source.claims() == [None]
    assert len(source.layout) == 4
    hard = replace(attacked, curriculum=HardestFirst(0.1)).open(data, everyone, opening)
    assert bool((hard.targets(query).values >= source.targets(query).values - 0.1).all())
    private = replace(attacked, reader=SimpleNamespace(private=True))
    with pytest.raises(BadInput, match="no private reader"):
        private.open(data, everyone, opening)
