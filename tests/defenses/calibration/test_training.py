"""Masked images, smoothed labels and mixup: closed forms, and what a card then says."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ddaudit.defenses.calibration.training import SmoothLabels
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.loops import Job
from ddaudit.distillation.masked import Masked
from ddaudit.errors import BadInput
from ddaudit.training import EvaluationProtocol
from ddaudit.training.views import Views, apply_views, draw_views, mix_labels, stack_views


def canvas_of(data, synthesis):
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    job = Job(data.train, everyone, data, 2, 0, torch.device("cpu"))
    return replace(resolve("dm"), synthesis=synthesis).start(job, torch.Generator().manual_seed(0))


def test_pixels_are_left_out_of_the_match_and_not_of_the_set(tiny):
    canvas = canvas_of(tiny, Masked(drop=0.3))
    (x,) = canvas.parameters
    first, second = canvas.decode(), canvas.decode()
    (slope,) = torch.autograd.grad(first.sum(), x)
    gone = slope == 0
    assert torch.equal(first, x.detach().masked_fill(gone, 0))
    assert float(gone.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert torch.equal(gone[:, :, 0], gone[:, :, 1]), "all channels of a pixel together"
    assert not torch.equal(first, second), "anew every time"
    assert torch.equal(canvas.released(0)[0], x[0])


def test_smoothed_labels_are_a_mixture_with_the_uniform_one(tiny):
    private = FAST | {"reader.delta": 1e-3, "reader.batch": 20}
    for name, given in (
        ("random+label-smoothing", {}),
        ("dm+label-smoothing+dp", private),
    ):
        made = distill(
            resolve(name, profile="small", options=given), tiny.train, data=tiny, ipc=1, seed=0
        )
        wanted = 0.9 * torch.eye(4) + 0.025
        torch.testing.assert_close(made.labels, wanted)
        assert (made.card.privacy is not None) == name.endswith("dp"), "no record is read for it"


def test_mixup_blends_images_and_labels_alike():
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 1, 2, 2, generator=g), torch.eye(4)
    views = draw_views(g, 4, shape=x.shape, mixup=0.2)
    share, partner = float(views.shares[0]), views.partners
    torch.testing.assert_close(apply_views(x, views), (1 - share) * x + share * x[partner])
    torch.testing.assert_close(
        mix_labels(y, views, shape=x.shape), (1 - share) * y + share * y[partner]
    )
    both = stack_views([views, Views(partners=partner, shares=1 - views.shares)], 4)
    torch.testing.assert_close(
        apply_views(torch.cat([x, x]), both)[4:], share * x + (1 - share) * x[partner]
    )
    drawn = torch.tensor(
        [float(draw_views(g, 2, shape=x.shape, mixup=0.4).shares[0]) for _ in range(4000)]
    )
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.var()) == pytest.approx(1 / (4 * 1.8), abs=0.01)


def test_mixup_stands_on_the_card_and_is_trained_with(tiny):
    made = distill(resolve("random+mixup"), tiny.train, data=tiny, ipc=1, seed=0)
    stated = EvaluationProtocol.from_card(made.card.protocol)
    assert (stated.mixup, stated.name) == (0.2, "dc-mixup")
    assert stated.augmented
    assert stated.key != replace(stated, mixup=0.0).key
    with pytest.raises(BadInput, match="by CutMix and by mixup"):
        replace(stated, cutmix=0.5)


FAST = {"loop.iterations": 2, "networks.arch": "ConvNetD1W8", "networks.width": None}
PATHS = {
    "loop.steps": 2,
    "loop.span": 1,
    "loop.starts.last": 2,
    "networks.count": 1,
    "networks.epochs": 3,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dm+masked", FAST),
        ("fyi+masked", FAST),
        ("dc+masked+fair", FAST | {"loop.outer": 2, "loop.inner": 1}),
        ("mtt+masked+mixup", FAST | PATHS),
        ("dm+masked+dp", FAST | {"reader.delta": 1e-3, "reader.batch": 20}),
    ],
)
def test_they_compose_and_run(tiny, name, options):
    made = distill(
        resolve(name, profile="small", options=options), tiny.train, data=tiny, ipc=1, seed=0
    )
    assert torch.isfinite(made.images).all()
    assert made.card.recipe["synthesis"]["part"] == "Masked"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("random+masked", "matches none"),
        ("sre2l+masked", "matches none"),
        ("ld+masked", "matches none"),
        ("datm+label-smoothing", "has others"),
        ("sre2l+mixup", "fixes other mixtures"),
        ("idc+mixup", "fixes other mixtures"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, why):
    with pytest.raises(BadInput, match=why) as refused:
        resolve(name)
    assert "\n" not in str(refused.value)


def test_networks_learn_of_whole_images_between_rounds(tiny, monkeypatch):
    from ddaudit.distillation.matching import Matching

    shown, train = [], Matching._train

    def watched(self, net, images, *rest, **named):
        shown.append(images)
        return train(self, net, images, *rest, **named)

    monkeypatch.setattr(Matching, "_train", watched)
    small = {
        "networks.arch": "ConvNetD2W8", "networks.width": None, "loop.iterations": 1, "loop.outer": 2,
        "loop.inner": 1, "synthesis.drop": 0.5,
    }  # fmt: skip
    distill(resolve("dc+masked", options=small), tiny.train, data=tiny, ipc=2, seed=0)
    assert shown
    assert all(float((x == 0).float().mean()) < 0.1 for x in shown)


def test_labels_of_a_teacher_are_smoothed_as_distributions():
    given = torch.tensor([[0.7, 0.3], [0.1, 0.9]])
    made, _ = SmoothLabels(share=0.2).relabel(
        torch.zeros(2, 1, 1, 1), given, train=None, data=SimpleNamespace(num_classes=2), seed=0, device=None
    )  # fmt: skip
    torch.testing.assert_close(made, 0.8 * given + 0.1)
