"""How a distilled set shows itself in a notebook: a strip of its images, and what its card says in short."""

from __future__ import annotations

import base64
import io

import torch

from ddaudit._html import facts, paragraphs, picture
from ddaudit.data.decode import in_colour
from ddaudit.sets._types import MOST_CHANNELS, DistilledSet

MOST = 20


def to_html(value: DistilledSet) -> str:
    """Escaped HTML with an inline PNG."""
    card, claim = value.card, value.card.privacy
    shown = {
        "images": f"{len(value)} of {' x '.join(map(str, value.images.shape[1:]))}",
        "classes": value.num_classes,
        "labels": "soft" if value.labels.ndim == 2 else "hard",
        "data": card.data,
        "images per class": card.ipc,
        "privacy": f"claims epsilon {claim.epsilon:.4g} at delta {claim.delta:g}"
        if claim
        else "no claim",
    }
    strip = _strip(value) if card.modality == "image" and card.space == "pixels" else None
    return (
        facts(f"{card.method} (distilled set)", shown)
        + (picture(strip, "some of its images") if strip else "")
        + paragraphs(card.notes[:3])
    )


def _strip(value: DistilledSet) -> str | None:
    """Up to MOST images beside each other, one of each class first; base64 of a PNG. None: not to be seen."""
    from PIL import Image

    channels, height, width = value.images.shape[1:]
    if channels > MOST_CHANNELS or len(value) == 0:
        return None
    classes = value.hard_labels
    position = torch.zeros(len(value), dtype=torch.int64)
    for c in classes.unique():  # type: ignore[no-untyped-call]
        mine = classes == c
        position[mine] = torch.arange(int(mine.sum()))
    order = torch.argsort(position * (value.num_classes + 1) + classes.cpu(), stable=True)[:MOST]
    pixels = value.images[order].detach().cpu().float().nan_to_num(0).clamp(0, 1)
    row = (
        torch.stack([in_colour(x) for x in pixels])
        .permute(0, 2, 3, 1)
        .mul(255)
        .round()
        .to(torch.uint8)
    )
    strip = torch.cat(list(torch.nn.functional.pad(row, (0, 0, 0, 1), value=255)), 1)
    array = strip.contiguous().numpy()
    scale = max(1, round(40 / max(height, width)))
    image = Image.fromarray(array).resize(
        (array.shape[1] * scale, array.shape[0] * scale), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
