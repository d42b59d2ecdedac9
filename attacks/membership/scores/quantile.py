"""Quantile-regression attack: is the victim's margin high for a record that looks like this one?

A small regressor learns, on non-members only, what margin to expect from a record's features. No
reference networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GaussianHead:
    """Expected margin and spread given features; ``score`` is the standardised surprise."""

    _mean: Any
    _log_spread: Any

    def score(self, features: Tensor, phi: Tensor) -> Tensor:
        """``(phi - mu(x)) / s(x)``: (N,) float64.

        Args:
            features: (N, F).
            phi: (N,) margins under the victim.
        """
        x = features.double().numpy()
        mean = torch.from_numpy(self._mean.predict(x))
        spread = torch.from_numpy(self._log_spread.predict(x)).exp()
        return (phi.double() - mean) / spread


def fit_gaussian(features: Tensor, phi: Tensor, *, seed: int, trees: int = 40) -> GaussianHead:
    """Fit mean and spread of non-members' margins by small boosted trees.

    The spread is learnt from out-of-fold residuals: in-sample ones are too small.

    Args:
        features: (N, F) of non-members.
        phi: (N,) their margins under the victim.
        seed: of the regressors.
        trees: boosting rounds of depth-2 trees; keep the capacity small.

    Source: Bertran et al., "Scalable Membership Inference Attacks via Quantile Regression", NeurIPS
    2023 (Gaussian head). Here trees fit mean and spread one after the other, and phi is the log-odds of the label; the
    authors' code trains one network on both by the Gaussian likelihood, with the margin over the best rival for phi.
    """
    from sklearn.model_selection import cross_val_predict

    x, y = features.double().numpy(), phi.double().numpy()
    residual = y - cross_val_predict(_trees(seed, trees), x, y, cv=5)
    # E log|Z| of a standard normal is -0.635; adding it back makes exp(prediction) a standard
    # deviation
    size = torch.from_numpy(residual).abs().clamp(min=1e-6).log().numpy() + 0.6352
    spread = _trees(seed, trees // 2).fit(x, size)
    return GaussianHead(_mean=_trees(seed, trees).fit(x, y), _log_spread=spread)


def _trees(seed: int, trees: int) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(
        loss="squared_error",
        n_estimators=trees,
        max_depth=2,
        min_samples_leaf=10,
        random_state=seed,
    )
