"""DP-SGD: train a network on private records, every gradient through the private gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddaudit.data import ImageData
from ddaudit.distillation.loops import Progress
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.parts import Opening, Query, Reader, Source
from ddaudit.distillation.targets import Joint
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch, Network, build
from ddaudit.training import blend, reuse_memory

SOURCE = "Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1"

PUBLIC = 0.5
"""Mean and standard deviation per channel that inputs are normalised by: constants of no data set."""


def train_private(
    source: Source,
    net: Network,
    *,
    steps: int,
    lr: float,
    momentum: float = 0.9,
    average: float | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Network:
    """Train a network in place by SGD on the noisy mean gradients that a source releases.

    Step t asks the source one question: the gradient of cross-entropy of every record at the present weights,
    without augmentation. A private source samples records, clips each one's gradient over all parameters
    together, sums, and adds noise. What happens to its answer (momentum, the average of weights) is
    post-processing and costs nothing.

    Args:
        source: opened by :func:`open_private`, or by any reader for the rule ``Joint`` and one run.
        net: the network; its body takes images under the normalisation that the source was opened with.
        steps: questions; the source's noise was calibrated for at least as many.
        lr: step size on the mean gradient of the expected batch (never of the sampled one).
        momentum: of plain (not Nesterov) momentum, in [0, 1).
        average: decay of the moving average of the weights that is left in ``net``; None leaves the last
            weights. The first steps average over less, so that the random start is soon forgotten.
        name: told apart by it are the questions of several networks that ask one source.
        progress: called with (steps done, steps in all).

    Returns:
        ``net``, in eval mode.

    Raises:
        BadInput: a layer that couples records (batch normalisation), or a source with several rows or runs.
        DDAuditError: training diverged.
        BudgetSpent: more steps than the noise was calibrated for.

    Source: Abadi et al., CCS 2016, algorithm 1; averaging: De et al., "Unlocking High-Accuracy Differentially
        Private Image Classification through Scale", 2022, section 3.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        raise BadInput(
            f"DP-SGD on {net.arch}",
            "clips per record, and batch normalisation makes a record's gradient depend on the others",
            "Use a network with instance, group, layer or no normalisation.",
        )
    if len(source.layout) != 1:
        raise BadInput(
            "DP-SGD",
            f"needs one sum over all records per step, and this source has {len(source.layout)} rows",
            "Use the target rule Joint.",
        )
    parameters = list(net.body.parameters())
    sizes = [p.numel() for p in parameters]
    kept = [p.detach().clone() for p in parameters]
    plain = (None,) * net.num_classes
    signal = GradientMatch()
    optimiser = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    with reuse_memory():
        for step in range(steps):
            values = source.targets(Query(f"{name}step {step}", signal, net, plain)).values
            if len(values) != 1:
                raise BadInput("DP-SGD", f"trains one network at a time, not {len(values)} runs")
            for p, g in zip(parameters, values[0, 0].split(sizes), strict=True):
                p.grad = g.view_as(p)
            optimiser.step()
            if average is not None:
                blend(kept, parameters, min(average, (1 + step) / (10 + step)))
            if progress:
                progress(step + 1, steps)
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise DDAuditError(f"DP-SGD diverged. Lower its learning rate (now {lr:g}).")
    with torch.no_grad():
        for p, mean in zip(parameters, kept, strict=True):
            p.grad = None
            if average is not None:
                p.copy_(mean)
    return net.eval()


def open_private(
    reader: Reader, data: ImageData, *, members: Tensor, steps: int, device: torch.device
) -> Source:
    """Open records for ``steps`` questions of DP-SGD, normalised by public constants.

    Args:
        reader: ``PoissonGaussian(sampling="uniform", ...)`` for DP-SGD as published; its ``batch`` is the
            expected number of records in a step.
        data: the private records.
        members: (N,) bool, the records that may be used.
        steps: how many questions will be asked.
        device: where gradients are computed.

    Raises:
        BadInput: the reader cannot read these data (delta too large, say).
    """
    constant = torch.full((data.shape[0], 1, 1), PUBLIC)
    # The seed is of what is public in a reader, and DP-SGD leaves nothing public to draw.
    return reader.open(
        data, members[None], Opening(Joint(), constant, constant, steps, seed=0, device=device)
    )


def public_network(
    arch: Arch, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
) -> Network:
    """A fresh network on pixels whose normalisation is that of :func:`open_private`."""
    constant = (PUBLIC,) * shape[0]
    net = build(arch, shape=shape, num_classes=num_classes, seed=seed, mean=constant, std=constant)
    return net.to(device)
