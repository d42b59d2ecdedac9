"""Trajectory matching on experts by DP-SGD: what the paths are, what they cost, and that nothing else sees records."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.defenses.privacy.paths import PrivatePaths
from ddaudit.defenses.privacy.source import PrivateSource
from ddaudit.distillation import distill, distill_sizes, resolve
from ddaudit.distillation.loops import Job
from ddaudit.errors import BadInput
from ddaudit.seeds import stable_seed

FAST = {
    "loop.iterations": 2,
    "loop.steps": 2,
    "loop.span": 1,
    "loop.starts.last": 2,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.count": 2,
    "networks.epochs": 2,
    "networks.steps": 3,
    "reader.batch": 60,
    "reader.delta": 1e-3,
    "reader.noise_seed": 1,
}
NOISELESS = {"reader.sampling": "full", "reader.sigma": 1e-9, "reader.clip": 1e4}


def recipe(name="mtt+dp", **options):
    return resolve(name, profile="small", options={**FAST, **options})


def job(data):
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    return Job(data.train, everyone, data, 1, 0, torch.device("cpu"))


def test_points_of_a_path_are_those_of_gradient_descent(tiny):
    """Without noise: full-batch gradient descent, by autograd, on pixels normalised by 0.5."""
    chosen, work = recipe(**NOISELESS), job(tiny)
    walked = chosen.networks.ask(chosen.open(work), work)
    x, y = (tiny.train.pixels() - 0.5) / 0.5, tiny.train.labels
    for expert in range(2):
        net = walked.make(
            shape=tiny.shape, num_classes=4, seed=stable_seed("path", expert), device=work.device
        )
        for step in range(7):
            if step % 3 == 0:
                kept = walked.paths.at(expert, step // 3)
                for name, p in net.body.named_parameters():
                    torch.testing.assert_close(kept[name], p.detach(), rtol=1e-3, atol=1e-4)
            loss = F.cross_entropy(net.body(x), y)
            slopes = torch.autograd.grad(loss, list(net.body.parameters()))
            with torch.no_grad():
                for p, g in zip(net.body.parameters(), slopes, strict=True):
                    p -= walked.lr * g


def test_a_straight_path_goes_from_its_first_point_to_its_last(tiny):
    chosen, work = recipe("mct+dp"), job(tiny)
    paths = chosen.networks.ask(chosen.open(work), work).paths
    start, half, end = (paths.at(1, t) for t in (0, 1.0, 2))
    for n in start:
        assert not torch.equal(start[n], end[n])
        across = torch.stack([half[n] - start[n], end[n] - start[n]]).flatten(1)
        assert torch.linalg.matrix_rank(across, rtol=1e-3) == 1


def test_the_claim_covers_every_step_of_every_expert(tiny):
    """2 experts of 2 points, 3 steps apart: 12 Gaussian answers at rate 60 / 240; epsilon by Google's accountant."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    claim = distill(recipe(), tiny.train, data=tiny, ipc=1, seed=0).card.privacy
    (entry,) = claim.ledger
    assert (entry.count, entry.q) == (12, 60 / 240)
    accountant = PLDAccountant()
    step = PoissonSampledDpEvent(entry.q, GaussianDpEvent(entry.sigma))
    accountant.compose(SelfComposedDpEvent(step, entry.count))
    theirs = accountant.get_epsilon(1e-3)
    assert theirs <= claim.epsilon <= 10.0
    assert claim.epsilon == pytest.approx(theirs, rel=0.02)


def test_experts_never_share_an_answer(tiny, monkeypatch):
    asked, honest = [], PrivateSource.noisy_sum

    def spy(self, query_id, signals, rows):
        asked.append(query_id)
        return honest(self, query_id, signals, rows)

    monkeypatch.setattr(PrivateSource, "noisy_sum", spy)
    distill(recipe(), tiny.train, data=tiny, ipc=1, seed=0)
    assert len(asked) == len(set(asked)) == 12


def test_one_record_moves_an_answer_by_at_most_the_clip(tiny):
    """Same start, full batches, no noise: without the record the first step differs by lr * clip / n and no more."""
    clip, lr = 0.1, 0.5
    options = {**NOISELESS, "reader.clip": clip, "networks.steps": 1, "networks.lr": lr}
    ends, n = [], len(tiny.train)
    for left_out in (None, 3, 17):
        chosen, work = recipe(**options), job(tiny)
        if left_out is not None:
            work.members[0, left_out] = False
        paths = chosen.networks.ask(chosen.open(work), work).paths
        start, end = paths.at(0, 0), paths.at(0, 1)
        steps = [(start[k] - end[k]).flatten() / lr for k in start]
        ends.append(torch.cat(steps).double() * int(work.members.sum()))
    for other in ends[1:]:
        assert 0.5 * clip < float((ends[0] - other).norm()) <= clip * (1 + 1e-3)
    assert float(ends[0].norm()) <= n * clip


def test_nothing_but_the_releases_reaches_the_set(tiny, monkeypatch):
    """With every release replaced by the same noise, two different private sets give one and the same output; the
    control: undisturbed, they do not."""
    other = replace(
        tiny,
        train=replace(tiny.train, images=255 - tiny.train.images, labels=tiny.train.labels.flip(0)),
    )

    def outputs():
        # A step of any size shows in images; without noise the experts alone make the difference.
        runs = [recipe(**NOISELESS), recipe(**NOISELESS)]
        sets = [
            distill(r, d.train, data=d, ipc=2, seed=0)
            for r, d in zip(runs, (tiny, other), strict=True)
        ]
        return [s.images for s in sets]

    assert not torch.equal(*outputs())

    def deaf(self, query_id, signals, rows):
        width = signals(torch.arange(2)).shape[1]
        self.count += 1
        return torch.randn(1, 1, width, generator=torch.Generator().manual_seed(len(query_id)))

    monkeypatch.setattr(PrivateSource, "noisy_sum", deaf)
    assert torch.equal(*outputs())


def test_one_lot_of_experts_serves_several_sizes(tiny):
    first, second = distill_sizes(recipe(), tiny.train, [1, 3], data=tiny, seed=0)
    assert (len(first), len(second)) == (4, 12)
    assert first.card.privacy == second.card.privacy
    assert [e.count for e in first.card.privacy.ledger] == [12]


@pytest.mark.parametrize("name", ["tesla", "haba"])
def test_methods_with_plain_experts_make_a_private_set(tiny, name):
    extra = {"synthesis.extractor": "ConvNetD2W8"} if name == "haba" else {}
    made = distill(recipe(f"{name}+dp", **extra), tiny.train, data=tiny, ipc=2, seed=0)
    assert made.card.privacy.epsilon <= 10.0
    assert made.card.source_fingerprint is None
    assert made.card.contains_real_pixels is not True


@pytest.mark.parametrize("name", ["ftd", "datm", "pad"])
def test_experts_that_dp_sgd_does_not_make_are_refused(name):
    with pytest.raises(BadInput, match="DP-SGD makes only plain ones"):
        resolve(f"{name}+dp", profile="small")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("synthesis.init", "real", "starts from real images"),
        ("normalise", "data", "constants of the private data"),
        ("networks.arch", "ConvNetBN", "batch normalisation"),
        ("loop.informed", True, "a private reader shows none"),
        ("loop.starts.last", 3, "networks.epochs=3"),
        ("networks.steps", 0, "at least 1"),
        ("networks.momentum", 1.0, "momentum"),
    ],
)
def test_what_breaks_the_claim_or_the_paths_is_refused(tiny, option, value, words):
    with pytest.raises(BadInput, match=words):
        distill(recipe(**{option: value}), tiny.train, data=tiny, ipc=1, seed=0)


def test_no_more_is_asked_than_students_follow():
    """mtt: starts below 20, two points on: 21; at the small profile below 4, one point on."""
    paper, small = (resolve("mtt+dp", profile=p).networks for p in ("paper", "small"))
    assert isinstance(paper, PrivatePaths)
    assert (paper.epochs, paper.questions()) == (21, 21 * 40)
    assert (small.epochs, small.questions()) == (4, 4 * 20)
    assert paper.count == small.count == 1


@pytest.mark.parametrize("way", ["weights", "logits"])
def test_class_counts_are_not_read_beside_the_ledger(tiny, way):
    with pytest.raises(BadInput, match="which no ledger counts"):
        distill(recipe(**{"loop.agnostic": way}), tiny.train, data=tiny, ipc=1, seed=0)
