"""COBRA's barycentre, controls of FairDD's step, clusters in the place of groups: identities, public numbers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ddaudit.data import ImageData
from ddaudit.defenses.fairness.barycentre import L1Embedding, PerGroup
from ddaudit.defenses.fairness.fairdd import Barycentre, ByGroup
from ddaudit.defenses.fairness.pseudo import ByCluster, clusters
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.loops import Job
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.pool import Warm
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Body, Network

# mhmoslemi/COBRA, commit aa567ff, train_dc.py, compute_real_grad_cobra: gradients of the linear network, records and
# groups below; weight (2, 4), then bias.
PUBLIC = [
    -0.4978847,
    -0.5716534,
    -0.6454222,
    -0.719191,
    0.4978846,
    0.5716534,
    0.6454222,
    0.7191909,
    -0.7376879,
    0.7376879,
]


def test_the_barycentre_of_gradients_is_that_of_the_public_code():
    classifier = nn.Linear(4, 2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[0.5, -1.0, 0.25, 0.0], [1.0, 0.5, -0.5, 2.0]]))
        classifier.bias.copy_(torch.tensor([0.1, -0.2]))
    net = Network(
        Body(nn.Flatten(), classifier),
        arch=Arch("mlp"),
        shape=(1, 2, 2),
        num_classes=2,
        mean=[0.0],
        std=[1.0],
    )
    x = torch.arange(24.0).view(6, 1, 2, 2) / 10 - 1
    data = ImageData(
        torch.zeros(6, 1, 2, 2, dtype=torch.uint8),
        torch.zeros(6, dtype=torch.int64),
        ("a", "b"),
        groups=torch.tensor([0, 0, 0, 0, 3, 1]),
    )
    rows = Barycentre(in_batch=True).rows(data, torch.arange(6))
    found = rows[:1] @ GradientMatch().signals(net, x, data.labels) / rows[:1].sum()
    assert found[0].tolist() == pytest.approx(PUBLIC, abs=1e-6)


@pytest.fixture
def uneven(tiny) -> ImageData:
    """Groups of 1 in 10 records, with a batch that has few of them."""
    return replace(tiny.train, groups=(torch.arange(len(tiny.train)) // 4 % 10 == 0).long())


def test_squared_distances_to_groups_are_those_to_the_barycentre_times_their_number(uneven):
    """sum_a ||m_a - s||^2 = G ||mean_a m_a - s||^2 + constant, in every batch: FairDD's gradient is G times COBRA's,
    and the control takes plain targets as far."""
    index = torch.arange(0, 60)
    z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    s = torch.randn(5, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def pull(rule) -> torch.Tensor:
        rows = rule.rows(uneven, index)
        rows, mine = rows[rows.sum(1) > 0], rule.layout(uneven).slots[rows.sum(1) > 0] == 2
        means = (rows @ z / rows.sum(1, keepdim=True))[mine]
        return torch.autograd.grad((means - s).square().sum(), s)[0]

    torch.testing.assert_close(pull(ByGroup()), 2 * pull(Barycentre(in_batch=True)))
    torch.testing.assert_close(pull(PerGroup()), 2 * pull(ByClass()))
    assert not torch.allclose(pull(ByGroup()), pull(PerGroup()))
    assert float(PerGroup().rows(uneven, index).norm(dim=0).max()) <= 1 + 1e-6


def test_absolute_differences_are_summed():
    found = L1Embedding().distance(
        None, torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[0.5, 1.0]]])
    )
    assert found.tolist() == [[3.5]]


def test_clusters_are_found_largest_first():
    """Two tight clusters of 5 and 8 points far apart, and a point between: DBSCAN by hand."""
    z = torch.tensor(
        [[0.0 + k / 100] for k in range(5)] + [[5.0]] + [[10.0 + k / 100] for k in range(8)]
    )
    found = clusters(z, reach=0.1, neighbours=3)
    assert found.tolist() == [1] * 5 + [-1] + [0] * 8
    assert clusters(z[:1], reach=0.1, neighbours=3).tolist() == [0]
    assert (clusters(torch.zeros(6, 2), reach=0.5, neighbours=3) == 0).all(), (
        "equal points are one cluster"
    )


def test_rows_of_clusters_are_the_groups_where_colours_tell_them():
    """Red and blue records of one class: the rows are those of the groups, and the odd one out is the rest."""
    colours = torch.tensor([[200, 10, 10]] * 6 + [[10, 10, 200]] * 4 + [[10, 200, 10]])
    images = colours.to(torch.uint8)[:, :, None, None].expand(-1, 3, 2, 2)
    data = ImageData(images, torch.zeros(11, dtype=torch.int64), ("a", "b"))
    rule = ByCluster(most=2)
    rows = rule.rows(data, torch.arange(11))
    assert rows[:3].bool().int().tolist() == [
        [1] * 6 + [0] * 5,
        [0] * 6 + [1] * 4 + [0],
        [0] * 10 + [1],
    ]
    assert rows[3:].sum() == 0
    assert rule.layout(data).names[:3] == ("a, cluster 1", "a, cluster 2", "a, rest")


def test_a_warm_network_has_been_trained_on_the_set(tiny):
    kind = {"shape": tiny.shape, "num_classes": 4, "seed": 1, "device": torch.device("cpu")}
    source = Warm("ConvNetD1W8", epochs=30, lr=0.1).bind(tiny)
    cold = source.make(**kind)
    recipe = resolve("dm", options={"synthesis.init": "real"})
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    job = Job(tiny.train, everyone, tiny, 2, 0, torch.device("cpu"))
    canvas = replace(recipe, synthesis=Pixels()).start(job, torch.Generator().manual_seed(0))
    source.update(canvas, 0)
    x, y = canvas.taught(0)
    losses = [
        float(nn.functional.cross_entropy(net.body(x), y).detach())
        for net in (cold, source.make(**kind))
    ]
    assert losses[1] < 0.7 * losses[0]
    assert source.follows()
    assert not source.bind(tiny).shown, "another run starts anew"


FAST = {"loop.iterations": 2, "networks.arch": "ConvNetD1W8", "networks.width": None}
GRADIENTS = FAST | {"loop.outer": 1}
LEARNERS = GRADIENTS | {"networks.records": 8}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cobra", FAST | {"networks.epochs": 1}),
        ("cobra-dc", GRADIENTS),
        ("dm+barycentre+balanced", FAST),
        ("dm+group-step", FAST),
        ("dsa+fair", GRADIENTS),
        ("idc+fair", LEARNERS),
        ("dream+fair", LEARNERS),
        ("idc+barycentre", LEARNERS),
        ("dm+pseudo-groups", FAST),
        ("dc+pseudo-groups", GRADIENTS),
        ("dm+group-dro+pseudo-groups", FAST),
        ("dm+barycentre+dp", FAST | {"reader.delta": 1e-3, "reader.batch": 20}),
    ],
)
def test_they_run(tiny, name, options):
    made = distill(
        resolve(name, profile="small", options=options), tiny.train, data=tiny, ipc=1, seed=0
    )
    assert torch.isfinite(made.images).all()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dm+fair+barycentre", "or others already"),
        ("psg+group-step", "has none"),
        ("mtt+barycentre", "has none"),
        ("dm+pseudo-groups+dp", "by the other records"),
        ("random+pseudo-groups", "has none"),
        ("dm+fair+balanced+pseudo-groups", "draws records by group"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, why):
    with pytest.raises(BadInput, match=why) as refused:
        resolve(name)
    assert "\n" not in str(refused.value)
