"""Row reductions against hand computation and NumPy, and what the loop converges to under them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ddaudit.data import Dataset, ImageData
from ddaudit.defenses.fairness.fairdd import ByGroup
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.reductions import CVaR, Max, Sum, cvar
from ddaudit.distillation.targets import Reduced
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network
from ddaudit.models.network import Body


def test_cvar_by_hand():
    losses = torch.tensor([3.0, 1.0, 4.0, 2.0])
    # Worst 40 % of four rows are 1.6 rows: 4 whole and 0.6 of 3.
    assert float(cvar(losses, share=0.4)) == pytest.approx((4 + 0.6 * 3) / 1.6)
    assert float(cvar(losses, share=1.0)) == pytest.approx(2.5)
    assert float(cvar(losses, share=0.25)) == 4.0
    assert float(cvar(losses, share=0.1)) == pytest.approx(4.0)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.77, 1.0])
def test_cvar_is_the_minimum_over_thresholds(share):
    """Rockafellar and Uryasev's definition, min over v of v + E[(l - v)+] / share, over all candidate v in NumPy."""
    losses = np.random.default_rng(0).normal(size=(3, 11))
    got = cvar(torch.from_numpy(losses), share=share).numpy()
    excess = np.maximum(losses[:, None, :] - losses[:, :, None], 0).mean(-1)
    want = (losses + excess / share).min(1)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_gradients_are_the_rows_exact_shares():
    losses = torch.tensor([[3.0, 1.0, 4.0, 2.0]], requires_grad=True)
    live = torch.ones(1, 4, dtype=torch.bool)
    for reduction, want in (
        (CVaR(0.4), [0.6, 0.0, 1.0, 0.0]),
        (Max(), [0.0, 0.0, 1.0, 0.0]),
        (Sum(), [1.0, 1.0, 1.0, 1.0]),
    ):
        (got,) = torch.autograd.grad(reduction.reduce(losses, live).sum(), losses)
        assert torch.allclose(got, torch.tensor([want])), reduction


def test_rows_without_records_do_not_count():
    losses = torch.tensor([[9.0, 1.0, 3.0], [5.0, 5.0, 5.0]])
    live = torch.tensor([[False, True, True], [False, False, False]])
    assert CVaR(0.5).reduce(losses, live).tolist() == [3.0, 0.0]
    assert Max().reduce(losses, live).tolist() == [3.0, 0.0]
    assert cvar(losses, live, share=1.0).tolist() == [2.0, 0.0]


def test_the_sum_is_cvar_of_all_rows_and_the_max_that_of_one():
    losses = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    live = torch.ones(4, 7, dtype=torch.bool)
    assert torch.allclose(CVaR(1.0).reduce(losses, live), Sum().reduce(losses, live), atol=1e-5)
    assert torch.allclose(CVaR(1 / 7).reduce(losses, live), Max().reduce(losses, live), atol=1e-5)


class Pixels:
    """Networks whose embedding is the image."""

    def bind(self, data):
        return self

    def make(self, *, shape, num_classes, seed, device):
        body = Body(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))
        one = {"mean": (0.0,) * shape[0], "std": (1.0,) * shape[0]}
        return Network(body, arch=Arch("mlp"), shape=shape, num_classes=num_classes, **one)

    def couples_records(self):
        return False

    def assumed(self, data):
        return ()

    def follows(self):
        return False

    def update(self, canvas, step):
        pass


@pytest.mark.parametrize(
    ("reduction", "centre"), [(Sum(), 0.4), (CVaR(1.0), 0.4), (Max(), 0.5), (CVaR(2 / 3), 0.5)]
)
def test_matching_converges_to_the_centre_that_the_reduction_asks_for(reduction, centre):
    """Groups at grey 0, 0.2 and 1: their mean is 0.4, the point with the smallest largest distance 0.5. The two
    worst of three rows are those at 0 and 1 wherever S lies between 0.1 and 0.6, and their mean is 0.5."""
    grey = torch.tensor([0, 51, 255]).repeat(20)
    split = ImageData(
        images=grey.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous(),
        labels=torch.zeros(60, dtype=torch.int64),
        class_names=("only",),
        groups=torch.arange(60) % 3,
        group_names=("a", "b", "c"),
    )
    data = Dataset(
        name="grey", train=split, validation=split, test=split, mean=(0.0,), std=(1.0,), augment=""
    )
    recipe = resolve("dm", options={"loop.iterations": 400, "loop.lr": 0.02, "loop.momentum": 0})
    recipe = replace(recipe, target=Reduced(ByGroup(), reduction), networks=Pixels())
    made = distill(recipe, split, data=data, ipc=1, seed=0)
    assert made.images.mean().item() == pytest.approx(centre, abs=0.03)


def test_group_dro_reads_rows_per_group_and_runs_stay_apart(tiny):
    options = {
        "loop.iterations": 3,
        "networks.arch": "ConvNetD2W8",
        "networks.width": None,
        "synthesis.init": "noise",
        "reader.per_class": 1000,
    }
    recipe = resolve("dm+group-dro", profile="small", options=options)
    assert recipe.target == Reduced(ByGroup(), CVaR(0.5))
    assert resolve("dm+fair+group-dro").target == recipe.target
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    before, after = (
        distill_many(recipe, d, members, data=tiny, ipc=1, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
    assert same == [not bool(m) for m in members[:, record]]
    assert before[0].card.recipe["target"]["reduction"] == {"part": "CVaR", "share": 0.5}


def test_a_share_of_one_is_fairdd(tiny):
    options = {"loop.iterations": 3, "networks.arch": "ConvNetD2W8", "networks.width": None}
    dro = resolve("dm+group-dro", profile="small", options={**options, "target.reduction.share": 1})
    fair = resolve("dm+fair", profile="small", options=options)
    a, b = (distill(r, tiny.train, data=tiny, ipc=1, seed=0).images for r in (dro, fair))
    assert torch.allclose(a, b, atol=1e-5)


def test_reductions_are_refused_where_no_distances_are(tiny):
    with pytest.raises(BadInput, match="'group-dro' weighs distances"):
        resolve("kip+group-dro")
    with pytest.raises(BadInput, match="'group-dro' weighs distances"):
        resolve("random+group-dro")
    with pytest.raises(BadInput, match=r"reduction\.share must lie in"):
        resolve("dm+group-dro", options={"target.reduction.share": "1.5"})
    kip = replace(resolve("kip", options={"loop.steps": 1}), target=Reduced(ByGroup(), Max()))
    with pytest.raises(BadInput, match="picks the worst of its rows' distances"):
        distill(kip, tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(BadInput, match="noise decides which is the worst"):
        resolve("dm+group-dro+dp")
