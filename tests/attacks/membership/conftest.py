"""What several tests of the membership attacks use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ddaudit.attacks._common.nonmembers import held_out
from ddaudit.attacks._common.records import join
from ddaudit.attacks.membership.shadows import Cohort
from ddaudit.auditing import Context, stratified


@pytest.fixture
def flattened() -> Callable[..., Cohort]:
    """A defective ``split``: members evenly over cells, held-out records as they come."""

    def draw(ctx: Context, *, members: int, nonmembers: int, ours: bool = True) -> Cohort:
        inside, outside = stratified(ctx.data.train, members, even=True), held_out(ctx).records
        both = join(inside, outside)
        return Cohort(both, (torch.arange(len(both)) < len(inside))[None], outside, ())

    return draw
