"""Label stores: what a teacher saw of every image in every epoch, and what it said of it (FKD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.errors import BadInput

PREFIX = "store."
_MOST_EPOCHS = 10_000
_MOST_BYTES = 16 * 2**30
_TYPES = {
    "boxes": torch.float32,
    "partners": torch.int32,
    "logits": torch.float16,
    "patches": torch.int16,
    "flips": torch.bool,
}
_NEEDED = ("boxes", "flips", "logits")
_TODO = "The store was damaged or written by hand; distill again."


@dataclass(frozen=True, eq=False)
class LabelStore:
    """Views of M images in E epochs, each with a teacher's logits.

    A view is the box enlarged to the whole image and mirrored where flipped; where images are mixed
    (CutMix), the rectangle ``patches`` shows the partner's view of the same epoch instead. The
    partner's share lambda is the rectangle's share of the image.

    Attributes:
        boxes: (E, M, 4) float32 top, left, height, width, fractions of the image.
        flips: (E, M) bool, mirrored left to right.
        logits: (E, M, K) float16, unsoftened, of the (mixed) view.
        partners: (E, M) int32 positions in the set, or None where nothing is mixed.
        patches: (E, M, 4) int16 top, left, height, width, pixels; comes with ``partners``.

    Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV
    2022, section 3; as used by SRe2L, NeurIPS 2023.
    """

    boxes: Tensor
    flips: Tensor
    logits: Tensor
    partners: Tensor | None = None
    patches: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def tensors(self) -> dict[str, Tensor]:
        """The parts that are there, under their names in a set file; wider types first."""
        parts = {name: getattr(self, name) for name in _TYPES}
        return {PREFIX + name: part for name, part in parts.items() if part is not None}

    @staticmethod
    def names() -> set[str]:
        """What the parts of a store may be called in a set file."""
        return {PREFIX + name for name in _TYPES}

    @property
    def num_bytes(self) -> int:
        """What the store takes in a set file."""
        return sum(t.nelement() * t.element_size() for t in self.tensors().values())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], where: object) -> LabelStore | None:
        """The store among a file's tensors; None without one.

        Raises:
            BadInput: only some parts of one are there.
        """
        names = cls.names() & set(tensors)
        if not names:
            return None
        missing = [name for name in _NEEDED if PREFIX + name not in names]
        if missing:
            raise BadInput(where, f"holds a label store without its {' and '.join(missing)}", _TODO)
        return cls(**{name.removeprefix(PREFIX): tensors[name] for name in names})

    def check(
        self, *, size: int, num_classes: int, shape: tuple[int, int, int], where: object
    ) -> None:
        """Validate types, shapes and values for a set of ``size`` images.

        Raises:
            BadInput: one line with the first thing wrong.
        """

        def refuse(what: str) -> BadInput:
            return BadInput(where, f"label store: {what}", _TODO)

        epochs = len(self.boxes) if self.boxes.ndim else 0
        if not 1 <= epochs <= _MOST_EPOCHS:
            raise refuse(f"has {epochs} epochs, expected 1 to {_MOST_EPOCHS}")
        ends = {
            "boxes": (4,),
            "flips": (),
            "logits": (num_classes,),
            "partners": (),
            "patches": (4,),
        }
        for name, dtype in _TYPES.items():
            part = getattr(self, name)
            wanted = (epochs, size, *ends[name])
            if part is not None and (part.dtype != dtype or tuple(part.shape) != wanted):
                what = f"{name} are {_name(part.dtype)} {tuple(part.shape)}"
                raise refuse(f"{what}, expected {_name(dtype)} {wanted}")
        if self.num_bytes > _MOST_BYTES:
            raise refuse(f"takes {self.num_bytes} bytes, more than {_MOST_BYTES}")
        if (self.partners is None) != (self.patches is None):
            raise refuse("has partners without patches, or patches without partners")
        if not torch.isfinite(self.logits).all():
            raise refuse("logits contain NaN or infinity")
        start, side = self.boxes[..., :2], self.boxes[..., 2:]
        if not bool(((start >= 0) & (side > 0) & (start + side <= 1 + 1e-4)).all()):
            raise refuse("a box leaves its image or is empty")
        if self.partners is not None and self.patches is not None:
            if int(self.partners.min()) < 0 or int(self.partners.max()) >= size:
                raise refuse(f"a partner is not one of the {size} images")
            patches = self.patches.int()
            start, side = patches[..., :2], patches[..., 2:]
            frame = torch.tensor(shape[1:], dtype=torch.int32, device=patches.device)
            if not bool(((start >= 0) & (side >= 0) & (start + side <= frame)).all()):
                raise refuse("a pasted rectangle leaves its image")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
