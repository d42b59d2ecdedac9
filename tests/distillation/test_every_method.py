"""Every registered method makes a set of digits at its small profile: minutes for all, so at night."""

from __future__ import annotations

import pytest
import torch

from ddaudit.data import load_data
from ddaudit.distillation import METHODS, distill, resolve
from ddaudit.distillation.requests import check_recipe
from ddaudit.errors import BadInput


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_makes_a_set_of_digits(name: str) -> None:
    recipe, data = resolve(name, profile="small"), load_data("digits")
    try:
        check_recipe(recipe, data)
    except BadInput:  # asks for a protected attribute
        data = load_data("digits-colored")
    made = distill(recipe, data.train, data=data, ipc=1, seed=0).check(name)
    assert made.card.method == name
    assert len(made) % 10 == 0 or name == "full"
    assert made.images.shape[1:] == data.shape
    assert bool(torch.isfinite(made.images).all())
    if not made.soft:  # learned labels may call no image a class
        assert set(made.hard_labels.tolist()) == set(range(10))
