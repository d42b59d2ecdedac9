"""CPU seconds that the quick commands take before they answer: python benchmarks/startup.py [RUNS]"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

COMMANDS = (
    ("--help",),
    ("list", "methods"),
    ("list", "auditors"),
    ("list", "datasets"),
    ("list", "formats"),
)


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """User and system time of one fresh 'ddaudit ARGUMENTS'."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "ddaudit.cli", *arguments], stdout=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(runs: int) -> None:
    """Print the fastest, the median and the slowest of ``runs`` for each command."""
    print(
        f"{'command':<22} {'min':>6} {'median':>6} {'max':>6}   CPU s, {runs} runs, {os.cpu_count()} cores"
    )
    for arguments in COMMANDS:
        times = sorted(cpu_seconds(arguments) for _ in range(runs))
        print(
            f"ddaudit {' '.join(arguments):<14} {times[0]:>6.2f} {times[len(times) // 2]:>6.2f} {times[-1]:>6.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
