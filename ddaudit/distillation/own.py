"""A function of one's own as a method: it is distilled again for shadows, composes and is audited like any other."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.loops import Job, Outcome, Unasked
from ddaudit.distillation.recipe import METHODS, Recipe
from ddaudit.errors import BadInput

Distil = Callable[[ImageData, int, int], tuple[Tensor, Tensor]]
"""(records, images per class, seed) -> (images (M, C, H, W) float pixels in [0, 1], labels (M,) or (M, K))."""


@dataclass(frozen=True)
class Calls(Unasked):
    """The loop of such a method: one call for each run, on the records that the run may see.

    Attributes:
        function: what is called, with PyTorch's own generator seeded.
        code: name and hash of its source, so that an edited function is another method to a run folder. Code that it
            calls does not count.
    """

    function: Distil = field(repr=False)
    code: str

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil once per row of ``job.members``.

        Raises:
            BadInput: the function gives something else than images and labels.
        """
        outcomes = []
        for row in job.members:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(job.seed)
                made = self.function(job.train.subset(row), job.ipc, job.seed)
            if not (isinstance(made, tuple | list) and [type(v) for v in made] == [Tensor, Tensor]):
                what = f"gives {type(made).__name__}, not two tensors"
                raise BadInput(recipe.name, what, "A method returns (images, labels).")
            images, labels = (value.detach().cpu() for value in made)
            if not images.is_floating_point():
                what = f"gives images of {images.dtype}, expected float pixels in [0, 1]"
                raise BadInput(recipe.name, what, "Divide 8-bit values by 255.")
            outcomes.append(Outcome(images.float(), labels))
        return outcomes


def method(name: str) -> Callable[[Distil], Distil]:
    """Register a function as a method: ``ddaudit.method("mine")`` above ``def mine(train, ipc, seed)``.

    It gets the records as :class:`ImageData` (``train.pixels()`` are floats in [0, 1]), must use no others, and
    returns images and labels. Recipes take the name from then on, ``mine+soft`` too; defenses that change a part of
    a method (``+fair``, ``+dp``) refuse it, for it has none.

    Raises:
        BadInput: the name is taken.
    """

    def add(function: Distil) -> Distil:
        place = f"{function.__module__}.{function.__qualname__}"
        text = ""
        with contextlib.suppress(OSError, TypeError):  # typed into a console
            text = inspect.getsource(function)
        code = f"{place} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        loop, purpose = Calls(function, code), "a function of one's own"
        recipe = Recipe(name, "own", place, loop, purpose, status="ours")
        METHODS.add(name, recipe, owner=function.__module__)
        return function

    return add
