"""Class names of the data sets that everybody uses."""

from __future__ import annotations

DIGIT_CLASSES = tuple(str(digit) for digit in range(10))

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def numbered(count: int, *, kind: str = "class") -> tuple[str, ...]:
    """Names for a data set whose files give none: "class 0", "class 1", ..."""
    return tuple(f"{kind} {number}" for number in range(count))
