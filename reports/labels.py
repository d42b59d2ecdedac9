"""Names and numbers as a reader sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import count as count_up
from pathlib import PurePath
from typing import Any

from ddaudit.findings import Metric
from ddaudit.reports.schema import Report, SubjectInfo

_ACRONYMS = {
    "ASR", "AUC", "AUROC", "AURC", "CTA", "CW", "DEO", "ECE", "FGSM", "FID", "FPR", "KS", "MCE", "MMD",
    "NLL", "OOD", "PGD", "PSNR", "SSIM", "TPR",
}  # fmt: skip
_DIRECTIONS = {
    "higher": "higher is better",
    "lower": "lower is better",
    "none": "neither end is better",
}
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
_GREEK = {"epsilon": "ε", "delta": "δ", "alpha": "α", "beta": "β", "sigma": "σ", "lambda": "λ"}
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
TERMS = {
    "ASR": "attack success rate: share of marked inputs classified as the attacker wants",
    "AUC": "area under the ROC curve: 0.5 is guessing, 1 always right",
    "AUROC": "area under the ROC curve: 0.5 is guessing, 1 always right",
    "CTA": "clean test accuracy, without an attack",
    "DEO_A": "average gap in accuracy between groups, over classes",
    "DEO_M": "largest gap in accuracy between groups, over classes",
    "DP-SGD": "training with noise that proves a privacy bound",
    "ECE": "expected calibration error: stated confidence against accuracy",
    "FPR": "false-positive rate: share of non-members wrongly accused",
    "IPC": "images per class",
    "NLL": "negative log-likelihood",
    "OOD": "out of distribution: inputs unlike the training data",
    "TPR": "true-positive rate: share of members found",
    "δ": "chance that the bound ε fails",
    "ε": "privacy loss: smaller is more private",
}
"""What a reader who is not of the field has to be told; expanded where a page shows it first."""
MISSING = "–"
INVERTED = "beyond its floor, so an attacker turns the answer round; look for a confound"
"""What to think of a number that is better than knowing nothing."""


def metric_name(metric: Metric) -> str:
    """Its label; without one the words of its name: ``mine.worst_class_ece`` -> ``worst class ECE``."""
    if metric.label:
        return metric.label
    words = metric.name.split(".", 1)[-1].replace(".", " ").split("_")
    return " ".join(w.upper() if w.upper() in _ACRONYMS else w for w in words)


def params_text(params: dict[str, Any]) -> str:
    """``{"attack": "pgd", "eps": 0.0314}`` -> ``pgd, eps 8/255``; text needs no key."""
    parts = []
    for key, value in params.items():
        if key == "fpr" and _is_number(value):
            parts.append(f"at {percent(float(value))} FPR")
        elif isinstance(value, bool):
            parts.append(key if value else f"no {key}")
        elif _is_number(value):
            parts.append(f"{_GREEK.get(key, key)} {_parameter(key, value)}")
        else:
            parts.append(str(value))
    return ", ".join(parts)


def per_class(subject: SubjectInfo) -> str:
    """What its set has of each class: ``10``, ``20 to 25``, ``40 (IPC 10)`` where its card counts otherwise."""
    if not subject.per_class:
        return ""
    low, high = subject.per_class[0], subject.per_class[-1]
    text = str(low) if low == high else f"{low} to {high}"
    ipc = subject.ipc
    return text if ipc in (None, low) and low == high else f"{text} (IPC {ipc})" if ipc else text


def sizes(report: Report) -> str:
    """``10 images per class``, or by subject where they differ; baselines only where there is nothing else."""
    audited = [s for s in report.subjects if not s.baseline] or report.subjects
    groups: dict[str, list[str]] = {}
    for subject in audited:
        if text := per_class(subject):
            groups.setdefault(text, []).append(subject.id)
    if len(groups) == 1:
        return f"{next(iter(groups))} images per class"
    shown = [f"{text} ({', '.join(ids)})" for text, ids in groups.items()]
    return f"images per class: {'; '.join(shown)}" if shown else ""


def direction(metric: Metric) -> str:
    """Which end is better, in words."""
    if metric.merge == "bound":
        return "at least so much; no ranking"
    return _DIRECTIONS[metric.direction]


def full_name(metric: Metric, *, params: bool = True) -> str:
    """Name and parameters on one line; a false-positive rate is part of the name."""
    rest = dict(metric.params)
    name = metric_name(metric)
    if _is_number(rest.get("fpr")):
        name += f" at {percent(float(rest.pop('fpr')))} FPR"
    text = params_text(rest) if params else ""
    return f"{name} ({text})" if text else name


def number(value: float | None, unit: str = "fraction", *, digits: int = 3) -> str:
    """A value for a table cell: fractions with ``digits`` decimals (two significant digits below
    0.01), other units with ``digits`` significant digits, and a real minus sign."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if unit == "fraction":
        small = 0 < size < 0.5 * 10 ** (1 - digits)
        text = (
            f"{size:.{digits}f}" if not small else f"{size:#.2g}" if size >= 1e-4 else f"{size:.1e}"
        )
    elif size == 0 or 10 ** (digits - 1) <= size < 1e6:
        text = f"{size:,.0f}"
    else:
        text = f"{size:#.{digits}g}"
    is_zero = not any(c in "123456789" for c in text.split("e")[0])
    return text if value >= 0 or is_zero else f"−{text}"


def signed(value: float, unit: str = "fraction", *, digits: int = 3) -> str:
    """A difference: always with its sign, except a zero."""
    text = number(value, unit, digits=digits)
    return f"+{text}" if value > 0 and any(c in "123456789" for c in text) else text


def interval(
    low: float | None, high: float | None, unit: str = "fraction", *, digits: int = 3
) -> str:
    """``[0.694, 0.741]``, ``≥ 1.42`` for a one-sided bound, nothing when there is no interval."""
    if low is None and high is None:
        return ""
    if high is None:
        return f"≥ {number(low, unit, digits=digits)}"
    if low is None:
        return f"≤ {number(high, unit, digits=digits)}"
    return f"[{number(low, unit, digits=digits)}, {number(high, unit, digits=digits)}]"


def brief(value: float) -> str:
    """A constant as people write it: ``10``, ``0.5``, ``1e-5``."""
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e")


def moment(text: str) -> str:
    """``2026-01-05T10:11:42+00:00`` -> ``2026-01-05 10:11 UTC``; other text as it is."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    zone = " UTC" if when.utcoffset() == timedelta(0) else when.strftime(" %z").rstrip()
    return when.strftime("%Y-%m-%d %H:%M") + zone


def percent(fraction: float) -> str:
    """``0.001`` -> ``0.1%``."""
    return f"{100 * fraction:.6g}%"


def count(value: int | None) -> str:
    """``10000`` -> ``10,000``."""
    return MISSING if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """``75.2`` -> ``1 min 15 s``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def first_sentence(text: str, most: int) -> str:
    """The first sentence of a text; one of more than ``most`` words up to a comma among them, or cut there."""
    words = re.split(r"(?<=[.!?]) ", text.strip(), maxsplit=1)[0].split()
    if len(words) <= most:
        return " ".join(words)
    ends = [i for i, w in enumerate(words[:most], 1) if w[-1] in ",;:" and i > 3]
    return " ".join(words[: ends[-1] if ends else most]).rstrip(",;:") + " …"


def question(text: str) -> str:
    """A text as a heading: of a long one the last sentence that asks, without what it asks besides."""
    asked = [x for x in re.split(r"(?<=[.!?]) ", text.strip()) if x.endswith("?")]
    if len(text.split()) > 30 and asked:
        text = asked[-1]
    first = re.match(r"(.{60,}?), (?:and|or) .*\?$", text)
    return f"{first[1]}?" if first else text


def visible(text: str) -> str:
    """The text without control characters, above all those that reorder what follows (bidi)."""
    return _INVISIBLE.sub("\ufffd", text)


def without_folders(name: str) -> str:
    """The last part of a path; other names as they are."""
    return PurePath(name.replace("\\", "/")).name or name


def file_names(names: Iterable[str]) -> list[str]:
    """A file name for each that is safe everywhere; no two are alike, whatever their case."""
    out: list[str] = []
    taken: set[str] = set()
    for name in names:
        base = re.sub(r"[^A-Za-z0-9._+-]+", "-", name)[:80].strip(".-") or "unnamed"
        tries = (base if k == 1 else f"{base}-{k}" for k in count_up(1))
        out.append(next(n for n in tries if n.casefold() not in taken))
        taken.add(out[-1].casefold())
    return out


def short(text: str, limit: int = 28) -> str:
    """The text, cut in its middle to at most ``limit`` characters."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _parameter(key: str, value: float) -> str:
    if key in ("eps", "epsilon_pixels") and 0 < value < 1:
        steps = value * 255
        if abs(steps - round(steps)) < 1e-3:
            return f"{round(steps)}/255"
    return brief(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
