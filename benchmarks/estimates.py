"""Hold the estimates of ``ddaudit audit --dry-run`` against reality: prints a markdown table.

    OMP_NUM_THREADS=1 python -m benchmarks.estimates [--only NUMBER,..]

Each configuration is estimated, then run in this process; both in CPU seconds, without the start
of worker processes. Sizes are others than those of the table of costs, where a number says so.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch

from ddaudit.audits import AuditConfig, preview, run_audit

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {"subjects": ["random"], "auditors": ["utility"], "ipc": 1, "seeds": 2},
    {"subjects": ["dm"], "auditors": ["utility"], "ipc": 5},
    {"subjects": ["dm"], "auditors": ["utility"], "options": {"loop.iterations": 600}},
    {"subjects": ["dm"], "auditors": ["utility"], "options": {"networks.width": 64}},
    {"subjects": ["dsa"], "auditors": ["utility"], "ipc": 1},
    {"subjects": ["kip"], "auditors": ["leakage"], "seeds": 2},
    {"subjects": ["herding"], "auditors": ["calibration", "utility"], "arch": "ConvNetD2W64"},
    {"subjects": ["dm"], "auditors": ["backdoor"], "victims": 1},
    {
        "subjects": ["dm"],
        "auditors": ["membership"],
        "settings": {"membership": {"shadows": 4, "control_runs": 3}},
    },
    {"subjects": ["random"], "auditors": ["utility"], "data": "digits-colored", "ipc": 20},
)
"""What is audited, beside no reference rows, on digits unless it says otherwise."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [int(n) for n in args.only.split(",")] if args.only else range(len(CONFIGURATIONS))
    print("| configuration | estimate, CPU s | measured, CPU s | ratio |\n|---|---|---|---|")
    ratios = []
    for number in wanted:
        values = CONFIGURATIONS[number]
        with tempfile.TemporaryDirectory() as folder:
            config = AuditConfig(baselines=[], jobs=1, device="cpu", out=folder, **values)
            shown = preview(config)
            estimate = shown.cost.seconds - shown.start
            started = time.process_time()
            outcome = run_audit(config, here=True)
            measured = time.process_time() - started
        failed = f" ({len(outcome.failed)} cells failed)" if outcome.failed else ""
        ratios.append(estimate / measured)
        said = ", ".join(f"{k} {v}" for k, v in values.items()).replace("|", "/")
        print(
            f"| {said}{failed} | {estimate:.1f} | {measured:.1f} | {ratios[-1]:.2f} |", flush=True
        )
    if len(ratios) > 1:
        ends = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"\nestimate / measured: median {statistics.median(ratios):.2f}, {ends}")


if __name__ == "__main__":
    main()
