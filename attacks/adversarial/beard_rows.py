"""The BEARD benchmark's evaluation of a subject's victims, as rows of a finding: as coded beside as meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks.adversarial.beard import (
    BeardMetrics,
    EvaluationLog,
    beard_metrics,
    clip_only,
    evaluate,
)
from ddaudit.data import ImageData
from ddaudit.findings import Metric, MetricInfo
from ddaudit.models import Network
from ddaudit.stats import crossed

RATIOS = {
    "rr": "robustness ratio RR of BEARD: it rises when the worst attack gets stronger",
    "i_rr": "improved robustness ratio I-RR of BEARD, against clean and worst accuracy",
    "ae": "attack efficiency AE of BEARD: by seconds on this machine",
    "crei": "BEARD's mean of RR and AE, CREI",
}
INFOS = (
    MetricInfo(
        "adversarial.beard_accuracy", "none",
        "accuracy in the BEARD benchmark's evaluation, as coded (not robustness) and as meant",
    ),
    *(MetricInfo(f"adversarial.beard_{n}", "none", text, "ratio", True) for n, text in RATIOS.items()),
)  # fmt: skip
NOTE = (
    "BEARD's ratios are of these images at this IPC (the benchmark pools three). AE and CREI go by this machine's "
    "seconds, whose own spread no interval covers. 'As coded' is no robustness: read clean and worst accuracy beside."
)
_RESAMPLES = 500

Found = Mapping[str, tuple[Tensor, float]]


def emitted(victims: Sequence[Network], images: ImageData) -> list[Metric]:
    """Accuracy under every attack of the pool, clamping alone, and the benchmark's ratios, in both modes."""
    x, y = images.images, images.labels
    clipped = torch.stack([clip_only(net, x) == y for net in victims])
    out = [_accuracy(clipped, mode="as coded", attack="clip only")]
    for mode, compat in (("as coded", True), ("as meant", False)):
        by_aim = {
            aim: [evaluate(n, x, y, targeted=targeted, beard_compat=compat) for n in victims]
            for aim, targeted in (("untargeted", False), ("targeted", True))
        }
        # The benchmark's clean time is the shorter of both evaluations'.
        quickest = [
            min(f["clean"][1] for f in of_one) for of_one in zip(*by_aim.values(), strict=True)
        ]
        for aim, timed in by_aim.items():
            found = [
                {**f, "clean": (f["clean"][0], seconds)}
                for f, seconds in zip(timed, quickest, strict=True)
            ]
            for attack in [name for name in found[0] if name != "clean"]:
                table = torch.stack([f[attack][0] for f in found])
                out.append(_accuracy(table, mode=mode, attack=attack, aim=aim))
            out += _ratios(found, mode=mode, aim=aim)
    return out


def _accuracy(table: Tensor, **params: Any) -> Metric:
    return rate_metric("adversarial.beard_accuracy", rate(table), direction="none", **params)


def _ratios(found: Sequence[Found], **params: str) -> list[Metric]:
    """RR, I-RR, AE and CREI, averaged over victims; none where a victim gets nothing right."""
    if not all(bool(f["clean"][0].any()) for f in found):
        return []
    n = len(found[0]["clean"][0])
    g = torch.Generator().manual_seed(0)
    draws = torch.randint(n, (_RESAMPLES, n), generator=g)
    whole = [_metrics(f, torch.arange(n)[None])[0] for f in found]
    again = list(zip(*(_metrics(f, draws) for f in found), strict=True))
    out = []
    for name in RATIOS:
        each = torch.tensor([getattr(m, name) for m in whole], dtype=torch.float64)
        means = [sum(getattr(m, name) for m in draw) / len(draw) for draw in again]
        covered = crossed(each, torch.tensor(means, dtype=torch.float64), n=n)
        row = Metric.of(f"adversarial.beard_{name}", covered, unit="ratio", params=params)
        if name == "ae" and len(found) == 1:  # one timing has no spread that could be seen
            row = row.model_copy(update={"low": None, "high": None})
        out.append(row)
    return out


def _metrics(found: Found, draws: Tensor) -> list[BeardMetrics]:
    """The benchmark's metrics of one victim on each of (B, N) draws of images."""
    shares = {name: right[draws].double().mean(1) for name, (right, _) in found.items()}
    seconds = {name: spent for name, (_, spent) in found.items()}
    (clean, *attacks), least = shares.items(), 1 / draws.shape[1]
    under = torch.stack([share for _, share in attacks], 1)
    return [
        beard_metrics([
            EvaluationLog(
                max(float(clean[1][row]), least), seconds["clean"], tuple(under[row].tolist()),
                tuple(seconds[name] for name, _ in attacks),
            )
        ])
        for row in range(len(draws))
    ]  # fmt: skip
