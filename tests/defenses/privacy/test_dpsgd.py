"""DP-SGD against plain SGD, against Opacus, and against what its noise and sensitivity must be."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from ddaudit.defenses.privacy.dpsgd import open_private, public_network, train_private
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.defenses.privacy.source import BudgetSpent
from ddaudit.distillation.parts import Opening
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch
from ddaudit.training import predict

CPU = torch.device("cpu")
NOISELESS = 1e-9


def network(data, name="ConvNetD2W8", seed=3):
    return public_network(
        Arch.parse(name), shape=data.shape, num_classes=data.num_classes, seed=seed, device=CPU
    )


def opened(data, *, steps, members=None, **reader):
    everyone = torch.ones(len(data), dtype=torch.bool)
    settings = {
        "sampling": "full",
        "scale": "mean",
        "sigma": NOISELESS,
        "delta": 1e-3,
        "noise_seed": 0,
    }
    return open_private(
        PoissonGaussian(**{**settings, **reader}),
        data,
        members=everyone if members is None else members,
        steps=steps,
        device=CPU,
    )


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.body.parameters()])


def public(data):
    return (data.pixels() - 0.5) / 0.5, data.labels


def test_without_noise_and_clipping_it_is_plain_sgd(tiny):
    """The same steps by autograd on the mean loss of all records: clip 1e4 touches no gradient."""
    data, steps = tiny.train, 6
    private, plain = network(data), network(data)
    source = opened(data, steps=steps, clip=1e4, sigma=1e-12)
    train_private(source, private, steps=steps, lr=0.2, momentum=0.9)
    x, y = public(data)
    optimiser = torch.optim.SGD(plain.body.parameters(), lr=0.2, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(plain.body(x), y).backward()
        optimiser.step()
    start = weights(network(data))
    assert float((weights(plain) - start).norm()) > 0.1  # it moved
    torch.testing.assert_close(weights(private), weights(plain), atol=2e-5, rtol=1e-4)
    assert not private.training


def opacus(net, data, *, batch, sigma, clip, steps, lr, poisson, accountant="prv"):
    """A second implementation of the same algorithm; returns the trained body and its engine."""
    from opacus import PrivacyEngine

    body = copy.deepcopy(net.body).train()
    x, y = public(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant=accountant)
        body, optimiser, loader = engine.make_private(
            module=body,
            optimizer=torch.optim.SGD(body.parameters(), lr=lr, momentum=0.9),
            data_loader=DataLoader(TensorDataset(x, y), batch_size=batch),
            noise_multiplier=sigma,
            max_grad_norm=clip,
            poisson_sampling=poisson,
        )
        done = 0
        while done < steps:
            for xb, yb in loader:
                if done == steps:
                    break
                optimiser.zero_grad()
                F.cross_entropy(body(xb), yb).backward()
                optimiser.step()
                done += 1
    return body, engine


@pytest.mark.parametrize("clip", [0.05, 1.0])
def test_clipped_steps_are_those_of_opacus(tiny, clip):
    """Full batches, no noise, clipping active: weights after five steps agree with Opacus' hooks."""
    data, steps = tiny.train, 5
    net = network(data)
    theirs, _ = opacus(
        net, data, batch=len(data), sigma=0.0, clip=clip, steps=steps, lr=1.0, poisson=False
    )
    start = weights(net)
    train_private(opened(data, steps=steps, clip=clip), net, steps=steps, lr=1.0, momentum=0.9)
    other = torch.cat([p.detach().flatten() for p in theirs.parameters()])
    assert float((other - start).norm()) > 0.5 * clip
    torch.testing.assert_close(weights(net), other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_epsilon_is_that_of_opacus(tiny, accountant):
    """Same sigma, rate and steps: Opacus' engine reports the epsilon that our claim lists for its accountant."""
    data, steps, batch, sigma, delta = tiny.train, 20, 60, 1.3, 1e-3
    source = opened(data, steps=steps, sampling="uniform", batch=batch, sigma=sigma, delta=delta)
    net = network(data, "ConvNetD1W4")
    train_private(source, net, steps=steps, lr=0.1)
    (claim,) = source.claims()
    _, engine = opacus(
        net, data, batch=batch, sigma=sigma, clip=1.0, steps=steps, lr=0.1, poisson=True,
        accountant=accountant,
    )  # fmt: skip
    assert [(e.sigma, e.q, e.count) for e in claim.ledger] == [(sigma, batch / len(data), steps)]
    theirs = engine.get_epsilon(delta)
    assert claim.cross_checks[accountant] == pytest.approx(theirs, rel=0.02)
    assert claim.epsilon <= claim.cross_checks["rdp"]
    assert claim.sampling == "poisson, uniform"
    assert "number of records" in claim.public


def test_a_calibrated_run_stays_within_its_budget(tiny):
    """Opacus' PRV accountant, given the noise that we chose for epsilon 3, agrees that it is enough and no more."""
    from opacus.accountants import PRVAccountant

    steps = 15
    source = opened(tiny.train, steps=steps, sampling="uniform", batch=48, sigma=None, epsilon=3.0)
    train_private(source, network(tiny.train, "ConvNetD1W4"), steps=steps, lr=0.1)
    (claim,) = source.claims()
    (entry,) = claim.ledger
    accountant = PRVAccountant()
    accountant.history = [(entry.sigma, entry.q, entry.count)]
    assert claim.epsilon <= 3.0
    assert entry.count == steps
    assert 2.9 < accountant.get_epsilon(1e-3) < 3.01


def first_step(data, *, members=None, clip, **reader):
    """Minus the change of weights in one step of size 1: the released mean gradient."""
    net = network(data)
    before = weights(net)
    source = opened(data, steps=1, members=members, clip=clip, **reader)
    train_private(source, net, steps=1, lr=1.0, momentum=0.0)
    return before - weights(net)


def test_removing_one_record_moves_a_step_by_at_most_the_clip(tiny):
    """With a clip below every gradient's norm the bound C / batch is nearly attained."""
    data, clip = tiny.train, 0.02
    everyone = torch.ones(len(data), dtype=torch.bool)
    # Equal divisors: with public counts the mean is over the run's own number of records.
    whole = first_step(data, clip=clip) * len(data)
    for record in (0, 7, 101):
        without = everyone.clone()
        without[record] = False
        moved = whole - first_step(data, members=without, clip=clip) * (len(data) - 1)
        assert 0.97 * clip < float(moved.norm()) <= clip * (1 + 1e-3)


def test_the_noise_of_a_step_has_the_claimed_size(tiny):
    data, clip, sigma = tiny.train, 0.5, 2.0
    noise = first_step(data, clip=clip, sigma=sigma) - first_step(data, clip=clip)
    expected = sigma * clip / len(data)
    # 1500 parameters: the standard deviation is known to 2 %, the bound is 4 sigma
    assert float(noise.std()) == pytest.approx(expected, rel=0.08)
    assert abs(float(noise.mean())) < 4 * expected / noise.numel() ** 0.5


def test_the_mean_is_over_the_expected_batch_not_the_sampled_one(tiny):
    """Poisson batches: the average step is the full-batch mean gradient, whatever the batch sizes were."""
    data, rate = tiny.train, 0.25
    full = first_step(data, clip=1e4, sigma=1e-12)
    steps = torch.stack(
        [
            first_step(data, clip=1e4, sigma=1e-12, sampling="uniform",
                       batch=int(rate * len(data)), noise_seed=s)
            for s in range(60)
        ]
    )  # fmt: skip
    along = steps @ full / full.square().sum()
    # Dividing by the sampled size would leave no spread along the mean; ours has the binomial one.
    assert float(along.mean()) == pytest.approx(1.0, abs=4 * float(along.std()) / 60**0.5)
    assert float(along.std()) > 0.05


def test_the_average_of_weights_is_a_moving_average_with_warm_up(tiny):
    data, steps = tiny.train, 4
    path = []
    for n in range(steps + 1):
        net = network(data)
        path.append(
            weights(train_private(opened(data, steps=max(n, 1), clip=1.0), net, steps=n, lr=0.5))
        )
    mean = path[0]
    for step in range(steps):
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * path[step + 1]
    net = network(data)
    train_private(opened(data, steps=steps, clip=1.0), net, steps=steps, lr=0.5, average=0.9)
    torch.testing.assert_close(weights(net), mean, atol=1e-5, rtol=1e-3)


def test_it_learns_under_noise(tiny):
    data = tiny.train
    net = network(data, "ConvNetD2W16")
    source = opened(data, steps=40, sampling="uniform", batch=80, sigma=None, epsilon=10.0)
    train_private(source, net, steps=40, lr=0.5, average=0.9)
    right = predict(net, tiny.test.images).argmax(1) == tiny.test.labels
    assert float(right.float().mean()) > 0.9


def test_more_steps_than_were_paid_for_are_refused(tiny):
    with pytest.raises(BudgetSpent, match="covers 2 queries"):
        train_private(opened(tiny.train, steps=2), network(tiny.train), steps=3, lr=0.1)


def test_networks_and_sources_that_break_the_proof_are_refused(tiny):
    data = tiny.train
    with pytest.raises(BadInput, match="batch normalisation"):
        train_private(opened(data, steps=1), network(data, "ConvNetD2W8BN"), steps=1, lr=0.1)
    half, everyone = torch.full((3, 1, 1), 0.5), torch.ones(1, len(data), dtype=torch.bool)
    reader = PoissonGaussian(sigma=1.0, delta=1e-3)
    by_class = reader.open(data, everyone, Opening(ByClass(), half, half, 1, 0, CPU))
    with pytest.raises(BadInput, match="has 4 rows"):
        train_private(by_class, network(data), steps=1, lr=0.1)
    with pytest.raises(BadInput, match="below 1 / n"):
        open_private(replace(reader, delta=0.1), data, members=everyone[0], steps=1, device=CPU)


def test_divergence_is_an_error_not_a_network(tiny):
    with pytest.raises(DDAuditError):
        train_private(
            opened(tiny.train, steps=3, clip=1e4), network(tiny.train), steps=3, lr=float("inf")
        )
