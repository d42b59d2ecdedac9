"""Vector scaling, masked temperatures and ensembles: planted answers, another solver, closed forms."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ddaudit.measures.scaling import ensemble, fit_masked_temperature, fit_vector
from ddaudit.measures.scores import fit_temperature


def drawn(n: int, scale: torch.Tensor, shift: torch.Tensor, seed: int = 0):
    """Logits of which ``scale * z + shift`` are calibrated, and labels drawn from those."""
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, len(scale), generator=g, dtype=torch.float64)
    return z, torch.multinomial(torch.softmax(z * scale + shift, 1), 1, generator=g)[:, 0]


def test_a_planted_vector_scaling_is_found():
    scale, shift = (
        torch.tensor([0.4, 0.8, 1.2, 0.6]).double(),
        torch.tensor([0.5, -0.5, 0.2, -0.2]).double(),
    )
    z, y = drawn(40_000, scale, shift)
    found = fit_vector(z, y)
    assert found.scale.tolist() == pytest.approx(scale.tolist(), abs=0.03)
    assert (found.shift - found.shift.mean()).tolist() == pytest.approx(shift.tolist(), abs=0.05)
    many = fit_vector(7 * z, y)
    torch.testing.assert_close(many.apply(7 * z), found.apply(z), rtol=1e-6, atol=1e-6)


def test_it_is_the_minimum_that_scipy_finds():
    z, y = drawn(300, torch.tensor([0.5, 1.0, 0.7]).double(), torch.zeros(3).double(), seed=1)
    spread, one_hot = float(z.std()), np.eye(3)[y.numpy()]

    def objective(v: np.ndarray) -> float:
        logits = z.numpy() / spread * v[:3] + v[3:]
        peak = logits.max(1, keepdims=True)
        norm = np.log(np.exp(logits - peak).sum(1)) + peak[:, 0]
        away = np.square(v[:3] - 1).sum() + np.square(v[3:]).sum()
        return float((norm - (logits * one_hot).sum(1)).mean() + 0.5e-4 * away)

    theirs = minimize(objective, [1.0] * 3 + [0.0] * 3, method="BFGS", tol=1e-10).x
    found = fit_vector(z, y)
    assert (found.scale * spread).tolist() == pytest.approx(theirs[:3].tolist(), abs=1e-4)
    assert found.shift.tolist() == pytest.approx(theirs[3:].tolist(), abs=1e-4)


def test_what_data_leave_open_is_settled():
    """Every image right, or a class without images: finite numbers, unlike a temperature."""
    z, y = torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)
    found = fit_vector(z, y)
    assert torch.isfinite(found.scale).all()
    assert torch.isfinite(fit_vector(z[y != 2], y[y != 2]).shift).all()


def test_without_masks_it_is_temperature_scaling():
    z, y = drawn(4000, torch.full((4,), 0.5).double(), torch.zeros(4).double())
    plain = fit_temperature(z, y).value
    assert fit_masked_temperature(z, y, drop=0.0, draws=3).value == pytest.approx(plain, rel=1e-6)
    # Masked logits say less, so that the temperature that fits them is larger.
    assert fit_masked_temperature(z, y, drop=0.3).value > plain
    assert fit_masked_temperature(z, y, drop=0.3, seed=1).value == pytest.approx(
        fit_masked_temperature(z, y, drop=0.3).value, rel=0.1
    )


def test_an_ensemble_is_the_mean_of_probabilities():
    z = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ensemble(z).softmax(1), z.double().softmax(-1).mean(0))
    assert float(ensemble(z).exp().sum(1).sub(1).abs().max()) < 1e-6
