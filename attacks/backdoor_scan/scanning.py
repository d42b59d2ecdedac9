"""The detectors of one scan, and what they read of a set and of the clean sets beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddaudit.attacks.backdoor_scan.beatrix import Beatrix
from ddaudit.attacks.backdoor_scan.calibration import Calibrated, calibrate
from ddaudit.attacks.backdoor_scan.clustering import ActivationClustering
from ddaudit.attacks.backdoor_scan.detector import Detector, DetectorReading, Exhibit, average
from ddaudit.attacks.backdoor_scan.neural_cleanse import NeuralCleanse
from ddaudit.attacks.backdoor_scan.patch_gap import PatchGap
from ddaudit.attacks.backdoor_scan.scan import Scan
from ddaudit.attacks.backdoor_scan.spectral import SpectralSignatures
from ddaudit.attacks.backdoor_scan.strip import Strip
from ddaudit.models import Network
from ddaudit.training import exact_float32, predict, reuse_memory

ByDetector = Mapping[str, DetectorReading]


def all_detectors(
    *, mask_steps: int = 400, patch_steps: int = 100, images: int = 100
) -> tuple[Detector, ...]:
    """Every detector, the networks' first.

    Args:
        mask_steps: of Neural Cleanse; ``patch_steps`` of the patch.
        images: trusted images that masks and patches are made on.
    """
    return (
        NeuralCleanse(mask_steps, images),
        PatchGap(patch_steps, images),
        Strip(),
        SpectralSignatures(),
        ActivationClustering(),
        Scan(),
        Beatrix(),
    )


def usable(
    detectors: Sequence[Detector], network: Network, seen: Exhibit
) -> tuple[list[Detector], dict[str, str]]:
    """The detectors that can be asked about this exhibit, and why not of the others, by title."""
    reasons = {d.title: d.missing(network, seen) for d in detectors}
    asked = [d for d in detectors if not reasons[d.title]]
    return asked, {title: reason for title, reason in reasons.items() if reason}


@exact_float32()
@reuse_memory()
def read(
    detectors: Sequence[Detector], networks: Sequence[Network], seen: Exhibit
) -> dict[str, DetectorReading]:
    """What each detector reads of a set's networks, averaged over them.

    Raises:
        Unsupported: a network that gives no numbers; not every detector would notice.
    """
    for net in networks:
        predict(net, seen.clean)
    return {d.name: average([d.read(net, seen) for net in networks]) for d in detectors}


@dataclass(frozen=True, eq=False)
class Scanned:
    """A suspect's readings beside those of clean sets.

    Attributes:
        own: by detector.
        clean: the same of every clean set.
        calibrated: what follows.
    """

    own: ByDetector
    clean: Sequence[ByDetector]
    calibrated: Calibrated

    @classmethod
    def of(cls, own: ByDetector, clean: Sequence[ByDetector]) -> Scanned:
        """Rank a suspect's readings among clean ones."""
        scores = [{name: r[name].scores for name in own} for r in (own, *clean)]
        return cls(own, clean, calibrate(scores[0], scores[1:]))
