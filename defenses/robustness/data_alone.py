"""Robustness from data alone: a set whose predictor (adv-KIP) or trained network (Robust Dataset Learning) resists
attacks on real records, which are what its outer loss is taken on."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.robustness.adversarial import adversarial
from ddaudit.distillation import register
from ddaudit.distillation.learned import FixedRate
from ddaudit.distillation.recipes.dd import DD
from ddaudit.distillation.recipes.kip import KIP
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.unrolled import Unrolled

ADV_KIP = register(
    replace(
        adversarial(KIP),
        name="adv-kip",
        purpose="kernel regression on the set predicts attacked real records",
        status="reconstruction",
        source="Tsilivis, Su & Kempe, Can We Achieve Robustness from Data Alone? ICML 2022 workshop, arXiv 2207.11727",
        deviations=(
            *KIP.deviations,
            "no code is public: kernel, batch and step are those of kip, radius and steps of the attack ours",
        ),
    )
)

ROBUST_LEARNING = register(
    replace(
        adversarial(DD),
        name="robust-learning",
        purpose="plain training on the set gives networks that resist attacks",
        status="reconstruction",
        source="Li, Wu, Kerschbaum, Huang & Zhang, Towards Robust Dataset Learning, arXiv 2211.10752",
        synthesis=Pixels(init="real"),
        loop=Unrolled(steps=2000, lr=0.01, inner=30, rate=FixedRate(0.05)),
        protocol=None,
        small={
            **{k: v for k, v in adversarial(DD).small.items() if not k.startswith("protocol.")},
            "loop.lr": 0.005,
            "loop.rate.start_at": 0.1,
        },
        deviations=(
            "no code is public: loop lengths, rates and the attack are ours",
            "images per class as asked for (source: a set of the size of the real one)",
        ),
    )
)
