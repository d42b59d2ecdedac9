"""Images from a generator: its weights are the free parameters, one code per image says which one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.synthesis import labels_of
from ddaudit.errors import BadInput, DDAuditError

Kind = Literal["conv", "dcgan"]


@dataclass(frozen=True)
class Generated:
    """S = G(z, y): a class-conditional generator is optimised, and its images at fixed codes are released.

    A generator cannot draw every picture, which keeps noise out of the images; and it holds the same number of
    parameters whatever the images per class. It starts from random weights, never from a record. Batch
    normalisation inside it is harmless for privacy: it only ever sees synthetic codes.

    Attributes:
        kind: "conv" is DP-MERF's generator, "dcgan" the one of PSG's prior variant.
        code: dimensions of a code z ~ N(0, I).
        width: channels. "conv": of its first map (the second has half of them); "dcgan": of its last map
            (the others have 2 and 4 times as many).
        fresh: False optimises the released codes themselves (PSG). True draws new codes at every step, as many as
            images are released, and releases fixed ones with the batch normalisation of the whole training
            (DP-MERF, whose steps take 500 codes: those of 50 images in each of 10 classes).
        bounded: True puts a sigmoid behind the generator, so that pixels lie in [0, 1] (DP-MERF); False releases
            its output as it is, in normalised space (PSG).
        init: only "noise".

    Source: Harder, Adamczewski & Park, "DP-MERF", AISTATS 2021, arXiv 2002.11603, and its code (code size 5, 200
        hidden units, 16 and 8 channels, 5 x 5 kernels, two bilinear enlargements); Chen, Kerkouche & Fritz,
        "Private Set Generation", NeurIPS 2022, arXiv 2211.04446, and its code (code size 10, three transposed
        convolutions, pixel normalisation). Both are written for 28 x 28 and equal theirs there; other sizes are
        our generalisation.
    """

    kind: Kind = "conv"
    code: int = 5
    width: int = 16
    fresh: bool = False
    bounded: bool = True
    init: Literal["noise"] = "noise"

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "dcgan"):
            raise ValueError(f"synthesis.kind is 'conv' or 'dcgan', not '{self.kind}'")
        if self.init != "noise":
            raise ValueError(f"a generator starts from noise, not from '{self.init}'")
        if self.code < 1 or self.width < 2:
            raise ValueError("synthesis.code must be at least 1 and synthesis.width at least 2")

    @property
    def parallel(self) -> bool:
        """The weights serve one run."""
        return False

    def from_noise(self) -> Generated:
        """It looks at no record anyway."""
        return self

    def start(self, given: Start) -> Canvas:
        """A new generator; ``num_classes * ipc`` images in class-major order. No record is looked at.

        The canvas decodes the images of the training while gradients are recorded, and those that are released
        under ``torch.no_grad()``; without ``fresh`` the two are the same.

        Raises:
            BadInput: values in [0, 1] for records that are no pixels.
            DDAuditError: more than one run.
        """
        data = given.data
        if len(given.members) != 1:
            raise DDAuditError("a generator makes the images of one run at a time")
        if self.bounded and data.space != "pixels":
            raise BadInput(
                "synthesis.bounded=True",
                f"keeps values in [0, 1], and {data.modality} values are standardised",
                "Use --set synthesis.bounded=false.",
            )
        labels = labels_of(data.num_classes, given.ipc)
        kept = torch.randn(len(labels), self.code, generator=given.generator)
        weights, codes = (
            int(torch.randint(2**62, (), generator=given.generator)) for _ in ("weights", "codes")
        )
        net = build_generator(
            self.kind,
            shape=data.shape,
            inputs=self.code + data.num_classes,
            width=self.width,
            seed=weights,
        ).to(given.device)
        drawn = torch.Generator().manual_seed(codes)
        kept, one_hot = (
            kept.to(given.device),
            F.one_hot(labels, data.num_classes).float().to(given.device),
        )
        low, high = (
            (v - given.mean) / given.std for v in (0.0, 1.0)
        )  # of pixels, in normalised space
        low, span = low.to(given.device), (high - low).to(given.device)

        def decode() -> Tensor:
            training = self.fresh and torch.is_grad_enabled()
            z = torch.randn(kept.shape, generator=drawn).to(given.device) if training else kept
            # With fixed codes, the statistics of the batch are those of the released set: nothing to switch.
            net.train(training or not self.fresh)
            out: Tensor = net(torch.cat([z, one_hot], 1))
            return (low + span * out.sigmoid() if self.bounded else out)[None]

        return Canvas(list(net.parameters()), labels.to(given.device), decode)


def build_generator(
    kind: Kind, *, shape: tuple[int, int, int], inputs: int, width: int, seed: int
) -> nn.Module:
    """A generator on the CPU, (M, inputs) -> (M, C, H, W) without an activation at its end.

    Args:
        kind: see :class:`Generated`.
        shape: (C, H, W) of its images.
        inputs: length of code and one-hot label together.
        width: channels, see :class:`Generated`.
        seed: initialisation (PyTorch's defaults, as the sources use); equal seeds, equal weights.
    """
    # Layers draw from torch's CPU generator: lend it a seeded state and give the caller's back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return _Conv(shape, inputs, width) if kind == "conv" else _DCGAN(shape, inputs, width)


class _Conv(nn.Module):
    """Two dense layers, a map of a quarter of the image's size, twice: enlarge bilinearly, convolve."""

    hidden = 200

    def __init__(self, shape: tuple[int, int, int], inputs: int, width: int) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        self.map = (width, -(-self.height // 4), -(-self.width // 4))
        flat = self.map[0] * self.map[1] * self.map[2]
        self.dense = nn.Sequential(
            nn.Linear(inputs, self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, flat),
            nn.BatchNorm1d(flat),
        )
        self.first = nn.Conv2d(width, width // 2, 5, padding=2)
        self.second = nn.Conv2d(width // 2, channels, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense(x).view(-1, *self.map)
        x = self.first(_enlarge(x)).relu()
        x = self.second(_enlarge(x))
        return x[..., : self.height, : self.width]


def _enlarge(x: Tensor) -> Tensor:
    """Twice the size; corners stay corners, as in the source."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class _DCGAN(nn.Module):
    """A dense layer and three transposed convolutions, each input normalised over channels.

    The sides of the maps at 28 pixels are 4, 8 (cut to 7), 11 and 28. Images below 16 pixels are cut out of 16.
    """

    smallest = 16

    def __init__(self, shape: tuple[int, int, int], inputs: int, width: int) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        # Backwards: the last layer makes 2 s + 6 of s, the two before it s + 4.
        middle = [-(-(max(side, self.smallest) - 6) // 2) - 4 for side in shape[1:]]
        self.cut = (middle[0], middle[1])
        self.map = (4 * width, max(4, middle[0] - 4), max(4, middle[1] - 4))
        self.dense = nn.Linear(inputs, self.map[0] * self.map[1] * self.map[2])
        self.first = nn.ConvTranspose2d(4 * width, 2 * width, 5)
        self.second = nn.ConvTranspose2d(2 * width, width, 5)
        self.third = nn.ConvTranspose2d(width, channels, 8, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense(x).view(-1, *self.map)
        x = self.first(_by_channel(x.relu()))[..., : self.cut[0], : self.cut[1]]
        x = self.second(_by_channel(x.relu()))
        x = self.third(_by_channel(x.relu()))
        return x[..., : self.height, : self.width]


def _by_channel(x: Tensor) -> Tensor:
    """Every pixel's channel vector at root mean square 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
