"""Sub-images: cut out of one image and laid out in one, as IDC stores them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddaudit.distillation.synthesis import assemble, dissect
from ddaudit.sets.formats.idc import decode


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (9, 3), (28, 2), (12, 1)])
def test_sub_images_are_those_of_idc_s_files(size: int, factor: int) -> None:
    """Sheet 7 g: identity at factor 1; else what the reader of IDC's files decodes, which follows its decode_zoom."""
    x = torch.rand(3, 1, 2, size, size, generator=torch.Generator().manual_seed(0))
    own = dissect(x, factor)
    theirs, labels = decode(
        x[:, 0], torch.arange(3), factor=factor, kind="single", where=Path("data.pt")
    )
    assert own.shape == (3, factor**2, 2, size, size)
    assert torch.allclose(own.flatten(0, 1), theirs, atol=1e-6)
    assert labels.tolist() == [c for c in range(3) for _ in range(factor**2)]
    flat = x.mean((3, 4), keepdim=True).expand_as(x)  # without detail nothing is lost either way
    assert torch.allclose(assemble(dissect(flat, factor), factor), flat, atol=1e-6)
