"""Weights by inverse density: a known answer, composition, and what privacy refuses."""

from dataclasses import replace

import pytest
import torch

from ddaudit.cli import main
from ddaudit.defenses.fairness.density import Density, inverse_density
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.targets import ByClass, Weighted
from ddaudit.errors import BadInput

FAST = {
    "loop.iterations": 3,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
}


def test_two_far_clusters_weigh_the_same():
    """Nine equal points here and one there, far apart: densities 0.9 and 0.1, so weights 1/9 and 1."""
    z = torch.zeros(10, 2)
    z[9] = 100.0
    z[:9, 0] = torch.linspace(0, 1e-4, 9)
    # The median distance of two points is within the large cluster: the kernel is scaled to reach all of it.
    found = inverse_density(z, z, bandwidth=1e4)
    assert found[:9].tolist() == pytest.approx([1 / 9] * 9, rel=1e-3)
    assert float(found[9]) == 1.0
    assert float((found[:, None] * z).sum(0)[0] / found.sum()) == pytest.approx(50.0, rel=1e-3)


@pytest.mark.parametrize("dimensions", [32, 256])
def test_a_minority_gains_weight_at_the_default_bandwidth_and_outliers_do_not_take_it_all(
    dimensions,
):
    """A tenth of the records around another centre; most records are no references."""
    g = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(2, dimensions, generator=g), dim=1)
    group = torch.arange(3000) % 10 == 0
    z = centres[group.long()] + 0.6 * torch.randn(3000, dimensions, generator=g) / dimensions**0.5
    z = torch.nn.functional.normalize(z, dim=1)
    weights = inverse_density(z, z[:500], bandwidth=Density().bandwidth)
    share = float(weights[group].sum() / weights.sum())
    assert 0.4 < share < 0.95
    apart = inverse_density(torch.cat([z, -z[:1]]), z[:500], bandwidth=Density().bandwidth)
    assert float(apart[-1] / apart.sum()) < 0.01


def test_it_composes_with_fair_and_balanced(tiny):
    options = {**FAST, "target.weights.arch": "ConvNetD2W8", "target.weights.epochs": 1}
    recipe = resolve("dm+fair+balanced+density", options=options)
    made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    assert made.card.recipe["target"]["weights"]["part"] == "Density"
    assert made.card.recipe["target"]["rule"]["weights"]["part"] == "Balanced"
    rows = recipe.target.rows(tiny.train, torch.arange(60))
    assert float(rows.norm(dim=0).max()) <= 1
    # One subset's weights must not depend on another's records: the runs are not shared.
    assert not recipe.loop.shareable(recipe, 1)


def test_privacy_refuses_it_and_says_why(tiny, capsys, monkeypatch):
    with pytest.raises(BadInput, match="Density sets each record's weight by the other records"):
        resolve("dm+density+dp")
    with pytest.raises(BadInput, match="by the other records"):
        resolve("psg+density")
    private = resolve("dm+dp", profile="small", options={**FAST, "reader.delta": 1e-3})
    with pytest.raises(BadInput, match="by the other records"):
        distill(
            replace(private, target=Weighted(ByClass(), Density())),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )
    monkeypatch.setattr(
        "sys.argv",
        ["ddaudit", "distill", "dm+density+dp", "--data", "digits", "--out", "x.safetensors"],
    )
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert said.count("\n") == 0
    assert "by the other records" in said
