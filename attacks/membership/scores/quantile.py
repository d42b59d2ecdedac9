"""Quantile-regression attack: is the victim's margin high for a record that looks like this one?

A small regressor learns, on non-members only, what margin to expect from a record's features. No
reference networks; a held-out half of the non-members corrects the threshold so that its
false-positive rate is the one asked for.
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


@dataclass(frozen=True, eq=False)
class QuantileHead:
    """The margin that a fraction ``fpr`` of non-members with such features exceeds."""

    fpr: float
    shift: float
    _quantile: Any

    def score(self, features: Tensor, phi: Tensor) -> Tensor:
        """``phi - q(x)``: (N,) float64; positive means "member at false-positive rate ``fpr``"."""
        predicted = torch.from_numpy(self._quantile.predict(features.double().numpy()))
        return phi.double() - predicted - self.shift


def fit_gaussian(features: Tensor, phi: Tensor, *, seed: int, trees: int = 40) -> GaussianHead:
    """Fit mean and spread of non-members' margins by small boosted trees.

    The spread is learnt from out-of-fold residuals: in-sample ones are too small.

    Args:
        features: (N, F) of non-members.
        phi: (N,) their margins under the victim.
        seed: of the regressors.
        trees: boosting rounds of depth-2 trees; keep the capacity small.

    Source: Bertran et al., "Scalable Membership Inference Attacks via Quantile Regression", NeurIPS
    2023, section 4.1 (Gaussian head).
    """
    from sklearn.model_selection import cross_val_predict

    x, y = features.double().numpy(), phi.double().numpy()
    residual = y - cross_val_predict(_trees("squared_error", seed, trees), x, y, cv=5)
    # E log|Z| of a standard normal is -0.635; adding it back makes exp(prediction) a standard
    # deviation
    size = torch.from_numpy(residual).abs().clamp(min=1e-6).log().numpy() + 0.6352
    spread = _trees("squared_error", seed, trees // 2).fit(x, size)
    return GaussianHead(_mean=_trees("squared_error", seed, trees).fit(x, y), _log_spread=spread)


def fit_quantile(
    features: Tensor, phi: Tensor, *, fpr: float, seed: int, trees: int = 40
) -> QuantileHead:
    """Fit the (1 - fpr) quantile of non-members' margins, then calibrate on a held-out half.

    Args:
        features: (N, F) of non-members.
        phi: (N,) their margins under the victim.
        fpr: false-positive rate in (0, 1).
        seed: of the split and of the regressor.
        trees: boosting rounds of depth-2 trees.

    Raises:
        ValueError: the held-out half has fewer than 1 / fpr records, so the rate cannot be
        calibrated.

    Source: Bertran et al., NeurIPS 2023, section 3; split-conformal correction: Romano et al.,
    "Conformalized Quantile Regression", NeurIPS 2019.
    """
    n = len(phi)
    if (n - n // 2 + 1) * fpr < 1:
        raise ValueError(f"{n} non-members cannot calibrate a false-positive rate of {fpr:g}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    learn, held_out = order[: n // 2], order[n // 2 :]
    model = _trees("quantile", seed, trees, alpha=1 - fpr)
    model.fit(features[learn].double().numpy(), phi[learn].double().numpy())
    raw = QuantileHead(fpr=fpr, shift=0.0, _quantile=model)
    excess = torch.sort(raw.score(features[held_out], phi[held_out]), descending=True).values
    allowed = int(
        fpr * (len(held_out) + 1)
    )  # rank that keeps P[excess of a new record > shift] <= fpr
    return QuantileHead(fpr=fpr, shift=float(excess[allowed - 1]), _quantile=model)


def _trees(loss: str, seed: int, trees: int, *, alpha: float = 0.9) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(
        loss=loss,
        alpha=alpha,
        n_estimators=trees,
        max_depth=2,
        min_samples_leaf=10,
        random_state=seed,
    )
