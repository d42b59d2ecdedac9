"""Distribution methods under +dp: what works, with which networks, and the one line that refuses the rest."""

import pytest
import torch

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.characteristic import CharacteristicFunction
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Query
from ddaudit.errors import BadInput

FAST = {"loop.iterations": 3, "networks.arch": "ConvNetD2W8", "networks.width": None}


def test_ncfm_is_private_at_random_frequencies_on_random_networks(tiny):
    options = {**FAST, "reader.noise_seed": 0, "reader.sigma": 3.0}
    recipe = resolve("ncfm+dp", profile="small", options=options)
    assert type(recipe.networks) is Fresh
    assert recipe.terms == ()
    assert any("random networks stand for" in d for d in recipe.deviations)
    made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    claim = made.card.privacy
    assert claim is not None
    assert claim.clip == 1.0
    assert sum(entry.count for entry in claim.ledger) == 3
    assert claim.epsilon <= 10.0


def test_the_private_answer_is_the_mean_of_cosines_and_sines(tiny):
    """Without noise to speak of, at full sampling, the target is the mean of what each record says."""
    quiet = {"reader.sigma": 1e-6, "reader.sampling": "full", "reader.noise_seed": 0}
    recipe = resolve("ncfm+dp", profile="small", options={**FAST, **quiet})
    objective = CharacteristicFunction(frequencies=32).draw(1)
    net = recipe.networks.make(shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu"))
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    source = recipe.open(Job(tiny.train, everyone, tiny, 1, 0, torch.device("cpu")))
    got = source.targets(Query("0", objective, net, (None,) * 4)).values[0]
    z = objective.measure(net, (tiny.train.pixels(torch.arange(240)) - 0.5) / 0.5)
    means = torch.stack([z[tiny.train.labels == c].mean(0) for c in range(4)])
    assert torch.allclose(got, means, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("m3d", "KernelDiscrepancy compares sets of records"),
        ("lqm", "Quantiles compares sets of records"),
        ("ncfm-minmax", "LearnedFrequencies learns frequencies from the records"),
    ],
)
def test_what_is_no_sum_of_records_is_refused_with_its_reason(name, reason):
    with pytest.raises(BadInput, match=reason):
        resolve(f"{name}+dp")


def test_datadam_asks_for_a_clip_and_works_with_one(tiny):
    options = {**FAST, "reader.noise_seed": 0, "reader.sigma": 3.0}
    with pytest.raises(BadInput, match="no clip is known"):
        distill(
            resolve("datadam+dp", profile="small", options=options),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )
    recipe = resolve("datadam+dp", profile="small", options={**options, "reader.clip": 15})
    assert distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card.privacy.clip == 15
