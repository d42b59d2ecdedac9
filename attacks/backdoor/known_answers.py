"""Known answers of the ``backdoor`` auditor: a planted backdoor, a clean network, a trigger's place."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ddaudit.attacks._common.rates import rate
from ddaudit.attacks._common.trigger import SquareTrigger, poison
from ddaudit.attacks.backdoor.outcomes import gain, outcome
from ddaudit.auditing import Context, stratified
from ddaudit.findings import Check
from ddaudit.models import Arch
from ddaudit.stats import paired_difference
from ddaudit.training import PROTOCOLS, train_many

CONTROL_GAIN = 0.8
"""Share of what the clean network leaves of the exclusive ASR that a victim trained on poisoned real data must gain for
the instrument to count as working."""
CONTROL_QUIET = 0.05
"""How much more often than without the stamp a clean network may say the target, as far as the interval can tell."""
CONTROL_RATIO = 0.3
CONTROL_IMAGES = 1200
CONTROL_STEPS = 400
CONTROL_BATCH = 128


def controls(ctx: Context, target: int) -> list[Check]:
    """Two small networks on real images: one sees 30 % stamped and relabelled records, one sees none."""
    train, test = stratified(ctx.data.train, CONTROL_IMAGES), ctx.test(CONTROL_IMAGES)
    trigger = SquareTrigger.published(ctx.data.shape)
    planted = poison(
        train,
        trigger,
        ratio=CONTROL_RATIO,
        target=target,
        generator=ctx.generator("backdoor control"),
    )
    # No augmentation: crops and flips would move the square, and the control asks about the instrument alone.
    protocol = replace(
        PROTOCOLS["quick"], name="backdoor control", batch_size=CONTROL_BATCH, augment="", deviations=(),
        epochs_plain=max(1, round(CONTROL_STEPS / math.ceil(len(train) / CONTROL_BATCH))),
    )  # fmt: skip
    clean_net, planted_net = train_many(
        [(d.images, d.labels) for d in (train, planted.train)], arch=Arch.parse("ConvNetD2W16"),
        num_classes=ctx.data.num_classes, mean=ctx.data.mean, std=ctx.data.std, protocol=protocol,
        seeds=[ctx.seed_for("backdoor control")] * 2, device=ctx.device,
    )  # fmt: skip
    clean = outcome(ctx, [clean_net], test, trigger, target)
    attacked = outcome(ctx, [planted_net], test, trigger, target)
    found = gain(attacked, clean).value
    needed = CONTROL_GAIN * (1 - rate(clean.exclusive).value)
    unstamped = (ctx.predict(clean_net, test.images).argmax(1) == target)[clean.other]
    quiet = paired_difference(clean.exclusive[0].float(), unstamped.float())
    return [
        Check(
            name="planted backdoor is found", passed=found > needed, value=found,
            expected=f"> {needed:.3f} ({CONTROL_GAIN} of what is left to gain)",
            detail=f"exclusive ASR gain of a network trained on {len(train)} real images, {len(planted.index)} of them "
            "stamped and relabelled, no distillation", affects=["backdoor."],
        ),
        Check(
            name="clean network shows no backdoor", passed=quiet.low <= CONTROL_QUIET, value=quiet.value,
            expected=f"not above {CONTROL_QUIET} by its interval [{quiet.low:.3f}, {quiet.high:.3f}]",
            detail="how much more often a network trained on the same images, none of them stamped, says the target of "
            "stamped images", affects=["backdoor."],
        ),
    ]  # fmt: skip


def stamp_check() -> Check:
    """The trigger on a black 32 x 32 picture: exactly the published 2 x 2 pixels turn white."""
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    stamped = SquareTrigger.published((3, 32, 32)).stamp(black)
    white = (stamped == 255).all(1)[0].nonzero().tolist()
    expected = [[29, 29], [29, 30], [30, 29], [30, 30]]
    return Check(
        name="trigger sits where it was published", passed=white == expected and int((stamped != 0).sum()) == 12,
        value=float(len(white)), expected="4 pixels, rows and columns 29 to 30 of 32", affects=["backdoor."],
    )  # fmt: skip
