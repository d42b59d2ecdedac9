"""Which training strategy pays where: a fixed cost model, so that equal calls run the same way.

The thresholds are measured (benchmarks/training.md). They depend on sizes only, never on a stop
watch: a choice by timing would make results differ in the last digits from run to run.
"""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddaudit.models import Network
from ddaudit.training.protocols import EvaluationProtocol

# CPU: below this a step is mostly overhead, above it stacking only spoils the cache.
_STACK_FLOPS = 25e6
_STACK_MIN = 4  # CPU: fewer networks do not pay for vmap
_STACK_CHUNK = 16
# CPU, per thread: some five minutes of plain training. Compiling takes 10 to 25 s and saves 5 to 20 %.
_COMPILE_FLOPS = 2e13
_CUDA_SHARE = 0.4  # of the device's memory for the maps of one stacked chunk
_MAP_COPIES = 3  # a map, what its layer keeps for the backward pass, and its gradient


@dataclass(frozen=True)
class Plan:
    """``strategy`` to run, networks at a time, and why."""

    strategy: str
    chunk: int
    reason: str


@dataclass(frozen=True)
class Cost:
    """Of one image: forward floating-point operations, and numbers in all its maps."""

    flops: float
    floats: float


def plan(
    strategy: str,
    network: Network,
    *,
    count: int,
    size: int,
    protocol: EvaluationProtocol,
    device: torch.device,
) -> Plan:
    """Pick how to train ``count`` networks like ``network`` on sets of ``size`` images.

    What cannot be stacked (batch norm, label stores, outliers) never is, even when asked for. A
    compile asked for without a compiler becomes a loop. The reason says so.
    """
    batch = min(protocol.batch_size, size)
    cost = measure(network)
    step = 3 * cost.flops * batch  # forward, and backward to weights and to maps
    total = step * protocol.schedule(size).steps * count
    single = _unstackable(network, protocol)
    chunk = min(count, _chunk(cost, batch, device))

    if strategy == "loop":
        return Plan("loop", 1, "asked for")
    if strategy == "stacked":
        if single:
            return Plan("loop", 1, single)
        return Plan("stacked", chunk, "asked for")
    if strategy == "compiled":
        if not _has_compiler(device):
            return Plan("loop", 1, "torch.compile found no compiler")
        return Plan("compiled", 1, "asked for")
    if strategy != "auto":
        raise ValueError(f"unknown strategy '{strategy}': auto, loop, compiled or stacked")

    if device.type == "cuda":
        if count > 1 and not single:
            return Plan("stacked", chunk, "kernel launches dominate on a GPU")
        return Plan("loop", 1, single or "a single network")
    if count >= _STACK_MIN and step <= _STACK_FLOPS and not single:
        return Plan("stacked", chunk, f"{step / 1e6:.0f} MFLOP a step: overhead dominates")
    if total >= _COMPILE_FLOPS * torch.get_num_threads() and _has_compiler(device):
        return Plan("compiled", 1, f"{total / 1e12:.1f} TFLOP in all: pays for compiling")
    return Plan("loop", 1, f"{step / 1e6:.0f} MFLOP a step, {total / 1e12:.2f} TFLOP in all")


def measure(network: Network) -> Cost:
    """Count the work of one forward pass, without doing it (on torch's meta device)."""
    body = copy.deepcopy(network.body).to("meta").eval()
    floats = 0

    def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal floats
        floats += output.numel()

    for module in body.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        body(torch.empty(1, *network.shape, device="meta"))
    return Cost(float(counter.get_total_flops()), float(floats))


def _unstackable(network: Network, protocol: EvaluationProtocol) -> str:
    """Why such networks must be trained one at a time; "" when they can be stacked."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        return "batch norm keeps running statistics, which torch.func cannot stack"
    if protocol.labels == "store":
        return "label stores are replayed for one network at a time, not stacked"
    if protocol.robust is not None:
        return "robust training looks at one network's answers at a time, not at stacked ones"
    if protocol.adjust > 0:
        return "logits are adjusted by the shares of one set at a time, not stacked"
    if protocol.outlier_weight > 0:
        return "outliers are drawn for one network at a time, not stacked"
    return ""


def _chunk(cost: Cost, batch: int, device: torch.device) -> int:
    """Networks to stack at a time."""
    if device.type != "cuda":
        return _STACK_CHUNK
    memory = torch.cuda.get_device_properties(device).total_memory
    one = cost.floats * batch * 4 * _MAP_COPIES
    return max(1, int(_CUDA_SHARE * memory / one))


def _has_compiler(device: torch.device) -> bool:
    """True if torch.compile can make code for ``device``."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return any(shutil.which(c) for c in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if c)
