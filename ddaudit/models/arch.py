"""Architecture names of the field: a frozen description that parses from and prints as its name."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from ddaudit.errors import BadInput

FAMILIES: dict[str, str] = {
    "convnet": "ConvNet",
    "mlp": "MLP",
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG11",
    "resnet18": "ResNet18",
}
"""family -> the name the literature prints."""

ABOUT: dict[str, str] = {
    "convnet": "D3 W128 (depth, width) if nothing is said: ConvNetD4, ConvNetD2W32; ASwish, BN, MP and the like follow",
    "mlp": "D<linear layers> W<hidden units>: MLPD1 is logistic regression",
    "lenet": "two convolutions",
    "alexnet": "BN or IN may follow",
    "vgg11": "instance norm; VGG11BN: batch norm",
    "resnet18": "instance norm; ResNet18BN: batch norm; AP: average pooling instead of stride",
}
"""family -> what its name may say, for ``ddaudit list archs``."""

ACTS = {"relu": "AR", "sigmoid": "AS", "leakyrelu": "AL", "swish": "ASwish"}
NORMS = {"instance": "IN", "batch": "BN", "layer": "LN", "group": "GN", "none": "NN"}
POOLS = {"avg": "AP", "max": "MP", "none": "NP"}

# What each family allows; the first entry of a tuple is the family's default.
_ALLOWED: dict[str, dict[str, tuple[str, ...]]] = {
    "convnet": {"norm": tuple(NORMS), "act": tuple(ACTS), "pool": tuple(POOLS)},
    "mlp": {"norm": ("none",), "act": ("relu",), "pool": ("none",)},
    "lenet": {"norm": ("none",), "act": ("relu",), "pool": ("max",)},
    "alexnet": {"norm": ("none", "batch", "instance"), "act": ("relu",), "pool": ("max",)},
    "vgg11": {"norm": ("instance", "batch"), "act": ("relu",), "pool": ("max",)},
    "resnet18": {"norm": ("instance", "batch"), "act": ("relu",), "pool": ("none", "avg")},
}
_LARGEST = 2**16
_FAMILY = re.compile("|".join(FAMILIES), re.IGNORECASE)
_TOKEN = re.compile(
    r"D(\d{1,9})|W(\d{1,9})|(ASwish|AS|AR|AL)|(NN|BN|LN|IN|GN)|(NP|MP|AP)", re.IGNORECASE
)


@dataclass(frozen=True)
class Arch:
    """An architecture by its parts.

    ``norm`` and ``pool`` may be left empty: the family's default is filled in, so they are never
    empty afterwards. ``depth`` and ``width`` belong to ConvNet and MLP: convolutions, or linear layers
    with the classifier among them (``MLPD1`` is logistic regression). For ``resnet18`` a
    ``pool`` of "avg" means down-sampling by average pooling instead of by stride.

    The family "own" is an architecture of the user's: ``own`` names it, ``digest`` is a hash of its code, and
    nothing is known of its parts (see ``ddaudit.models.own``).

    Raises:
        BadInput: a part that the family does not have.

    Source: Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021, and its released
        code.
    """

    family: str = "convnet"
    depth: int = 3
    width: int = 128
    norm: str = ""
    act: str = "relu"
    pool: str = ""
    own: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if self.family == "own":
            return
        if self.family not in _ALLOWED:
            raise BadInput(
                self.family, "unknown architecture family", f"Known: {', '.join(_ALLOWED)}."
            )
        for part, allowed in _ALLOWED[self.family].items():
            value = getattr(self, part) or allowed[0]
            object.__setattr__(self, part, value)
            if value not in allowed:
                raise BadInput(
                    FAMILIES[self.family],
                    f"has no {part} '{value}'",
                    f"It allows: {', '.join(allowed)}.",
                )
        defaults = {f.name: f.default for f in fields(self)}
        for part in ("depth", "width"):
            value = getattr(self, part)
            if self.family not in ("convnet", "mlp") and value != defaults[part]:
                raise BadInput(
                    FAMILIES[self.family], f"has no {part} to choose", "Only ConvNet and MLP do."
                )
            if not 1 <= value <= _LARGEST:
                raise BadInput(FAMILIES[self.family], f"{part} {value} is not in 1 to {_LARGEST}")
        if self.norm == "group" and self.width % 4:
            raise BadInput(
                f"ConvNetW{self.width}GN", "group norm has 4 groups", "Take a width divisible by 4."
            )

    @classmethod
    def parse(cls, name: str) -> Arch:
        """Read a name of the field: "ConvNetD2W32", "ConvNetASwishBN", "VGG11BN", "ResNet18AP".

        Case, ``_`` and ``-`` do not matter ("ResNet18BN_AP" is the released code's spelling). Other names are looked
        up among the user's own: ``file.py:ClassName``, ``timm:NAME``, or what a package registers.

        Raises:
            BadInput: unknown family or suffix; an own architecture that cannot be had.
        """
        from ddaudit.models.own import ARCHS, is_timm, own_arch

        plain = re.sub(r"@[0-9a-f]{8}$", "", name)
        if ".py:" in plain or is_timm(plain):
            return own_arch(plain)
        try:
            return cls._of_the_field(name)
        except BadInput:
            if plain in ARCHS:
                return own_arch(plain)
            raise

    @classmethod
    def _of_the_field(cls, name: str) -> Arch:
        text = re.sub(r"[_\-\s]", "", name)
        head = _FAMILY.match(text)
        if head is None:
            known = ", ".join(FAMILIES.values())
            todo = f"Known: {known}; timm:NAME; your own: FILE.py:ClassName."
            raise BadInput(name, "unknown architecture", todo)
        parts: dict[str, str | int] = {}
        at = head.end()
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise BadInput(
                    name,
                    f"unknown architecture suffix '{text[at:]}'",
                    "Suffixes are D<depth>, W<width>, AS|AR|AL|ASwish (activation), "
                    "IN|BN|LN|GN|NN (norm) and AP|MP|NP (pooling).",
                )
            part, value = _read(token)
            if part in parts:
                raise BadInput(name, f"names its {part} twice")
            parts[part] = value
            at = token.end()
        return cls(head.group().lower(), **parts)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.family == "own":
            return f"{self.own}@{self.digest}" if self.digest else self.own
        default = _ALLOWED[self.family]
        name = FAMILIES[self.family]
        name += f"D{self.depth}" if self.depth != 3 else ""
        name += f"W{self.width}" if self.width != 128 else ""
        name += ACTS[self.act] if self.act != "relu" else ""
        name += NORMS[self.norm] if self.norm != default["norm"][0] else ""
        name += POOLS[self.pool] if self.pool != default["pool"][0] else ""
        return name


def _read(token: re.Match[str]) -> tuple[str, str | int]:
    """(part, value) of one suffix."""
    depth, width, act, norm, pool = token.groups()
    if depth or width:
        return ("depth", int(depth)) if depth else ("width", int(width))
    for part, text, table in (("act", act, ACTS), ("norm", norm, NORMS), ("pool", pool, POOLS)):
        if text:
            return part, next(k for k, v in table.items() if v.lower() == text.lower())
    raise AssertionError("unreachable")
