"""What syntheses are started from in tests."""

import torch

from ddaudit.distillation.canvas import Start


def given(data, *, runs=1, ipc=1, mean=None, std=None, seed=0):
    """Every run may look at every record; constants 0 and 1 unless told."""
    channels = data.shape[0]
    return Start(
        data,
        torch.ones(runs, len(data), dtype=torch.bool),
        ipc,
        torch.zeros(channels, 1, 1) if mean is None else mean,
        torch.ones(channels, 1, 1) if std is None else std,
        torch.Generator().manual_seed(seed),
    )
