"""The 2-D scattering transform: fixed wavelet features, no training, no data.

An image is convolved with oriented Morlet wavelets at a few scales, the modulus is taken, and the result is
averaged by a Gaussian; once more for second order. The filters are written down in closed form in the Fourier
domain, so nothing but their constants is shared with other implementations. The constants, the channel order,
the padding and so the numbers are those of kymatio 0.3.0, whose current release does not import with
SciPy 1.17 and newer.

Source: Bruna & Mallat, "Invariant Scattering Convolution Networks", TPAMI 2013; constants and channel order:
Andreux et al., "Kymatio: Scattering Transforms in Python", JMLR 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.errors import BadInput


def scatter(x: Tensor, *, scales: int = 2, angles: int = 8) -> Tensor:
    """Scattering coefficients of orders 0, 1 and 2.

    Args:
        x: (N, C, H, W) images, any range. Differentiable (subgradient 0 where a wavelet response vanishes).
        scales: J, averaging over 2^J pixels.
        angles: L, orientations per scale.

    Returns:
        (N, C * P, H // 2^J, W // 2^J) with P = 1 + L J + L^2 J (J - 1) / 2 paths per input channel (81 at
        J = 2, L = 8): order 0, then order 1 by scale and angle, then order 2 by first and second wavelet.

    Raises:
        BadInput: the image is too small for that many scales.
    """
    n, c, h, w = x.shape
    step = 2**scales
    if scales < 1 or angles < 1 or min(h, w) < step:
        raise BadInput(
            f"scattering with {scales} scales and {angles} angles",
            f"does not fit images of {h} x {w} pixels: averaging spans {step}",
            "Use fewer scales.",
        )
    if n == 0:  # Fourier libraries refuse empty batches; the shape is still wanted.
        return scatter(x.new_zeros(1, c, h, w), scales=scales, angles=angles)[:0]
    planes = _reflect(x.reshape(n * c, h, w), step)
    bank = _bank(planes.shape[1], planes.shape[2], scales, angles).to(x)
    # Second order holds (angles * pixels) * (later wavelets) complex numbers per plane; blocks that fit the
    # cache are twice as fast as the whole batch at once.
    block = max(
        1, _BLOCK // (planes.shape[1] * planes.shape[2] * angles * max(1, angles * (scales - 1)))
    )
    out = torch.cat([_paths(p, bank, scales) for p in planes.split(block)])
    return out.reshape(n, c * out.shape[1], *out.shape[2:])


_BLOCK = 2**20
# Kymatio normalises filters with pi = 3.1415; this keeps our numbers equal to theirs beyond four digits.
_MASS = math.pi / 3.1415


def _paths(planes: Tensor, bank: _Bank, scales: int) -> Tensor:
    """(N, P, h, w) coefficients of padded planes (N, H, W)."""
    spectrum = torch.fft.fft2(planes)[:, None]
    order1, order2 = [], []
    for j in range(scales):
        first = _modulus(torch.fft.ifft2(_thin(spectrum * bank.band[j][0], 2**j)))
        order1.append(_average(first, bank.rows[j], bank.cols[j]))
        if j == scales - 1:
            break
        again = torch.fft.fft2(first)[:, :, None]
        later = []
        for k in range(j + 1, scales):
            second = _modulus(torch.fft.ifft2(_thin(again * bank.band[k][j], 2 ** (k - j))))
            later.append(_average(second, bank.rows[k], bank.cols[k]))
        # (N, first angle, second scale and angle, h, w): the second wavelet runs fastest.
        order2.append(torch.cat(later, 2).flatten(1, 2))
    order0 = _average(planes[:, None], bank.rows[0], bank.cols[0])
    return torch.cat([order0, *order1, *order2], 1)


def standardise_groups(features: Tensor, *, size: int = 3, eps: float = 1e-5) -> Tensor:
    """Shift and scale every ``size`` consecutive channels to mean 0 and variance 1, at each position by itself.

    Args:
        features: (N, P, h, w); the last group is smaller where ``size`` does not divide P.
        size: channels per group. 81 channels in 27 groups are DP-KIP's.
        eps: added to the variance.

    Source: DP-KIP's released feature code (the axis is the channel axis alone, unlike in group normalisation).
    """
    groups = []
    for g in features.split(size, 1):
        centred = g - g.mean(1, keepdim=True)
        groups.append(centred * (centred.square().mean(1, keepdim=True) + eps).rsqrt())
    return torch.cat(groups, 1)


@dataclass(frozen=True, eq=False)
class _Bank:
    """Wavelets and averages for padded images of one size.

    ``band[j]`` holds the L wavelets of scale j in the Fourier domain (real numbers), at resolutions
    1, 1/2, ... 1/2^j, each (L, H / 2^r, W / 2^r). ``rows[j]`` (H / 2^j, h) and ``cols[j]`` (W / 2^j, w) average
    a signal at resolution 1/2^j by the Gaussian, keep one pixel of 2^(J - j) and drop the padding.
    """

    band: tuple[tuple[Tensor, ...], ...]
    rows: tuple[Tensor, ...]
    cols: tuple[Tensor, ...]

    def to(self, like: Tensor) -> _Bank:
        """The same filters in the precision and on the device of ``like``."""
        return _Bank(
            tuple(tuple(f.to(like) for f in level) for level in self.band),
            tuple(f.to(like) for f in self.rows),
            tuple(f.to(like) for f in self.cols),
        )


@lru_cache(maxsize=16)
def _bank(height: int, width: int, scales: int, angles: int) -> _Bank:
    """The filters for padded images of height x width, in double precision."""
    band = []
    for j in range(scales):
        # Kymatio's design: bandwidth 0.8, centre frequency 3 pi / 4, both dilated by 2^j.
        wavelets = torch.stack(
            [
                _morlet(
                    height,
                    width,
                    sigma=0.8 * 2**j,
                    theta=((angles - 2) // 2 - t) * math.pi / angles,
                    xi=0.75 * math.pi / 2**j,
                    slant=4.0 / angles,
                )
                for t in range(angles)
            ]
        )
        band.append(tuple(_crop(_crop(wavelets, 2**r, -1), 2**r, -2) for r in range(j + 1)))
    return _Bank(
        tuple(band),
        tuple(_lowpass(height, j, scales) for j in range(scales)),
        tuple(_lowpass(width, j, scales) for j in range(scales)),
    )


def _lowpass(size: int, level: int, scales: int) -> Tensor:
    """(size / 2^level, out) matrix of the Gaussian average at resolution 1/2^level along one axis.

    The Gaussian is isotropic, so that the average of an image is this matrix on either side of it.
    """
    gauss = _crop(_gaussian(size, 0.8 * 2 ** (scales - 1)), 2**level, -1)
    kernel = torch.fft.ifft(gauss).real
    n = len(kernel)
    circulant = torch.stack([kernel.roll(i) for i in range(n)])
    return circulant[:, :: 2 ** (scales - level)][:, 1:-1].contiguous()


def _morlet(
    height: int, width: int, *, sigma: float, theta: float, xi: float, slant: float
) -> Tensor:
    """(H, W) spectrum of a Gabor filter minus the multiple of its envelope that makes its mean zero."""
    wave = _gabor(height, width, sigma=sigma, theta=theta, xi=xi, slant=slant)
    envelope = _gabor(height, width, sigma=sigma, theta=theta, xi=0.0, slant=slant)
    return wave - wave[0, 0] / envelope[0, 0] * envelope


def _gabor(
    height: int, width: int, *, sigma: float, theta: float, xi: float, slant: float
) -> Tensor:
    """(H, W) spectrum of exp(i xi t) times a unit-mass Gaussian, t the coordinate along ``theta``.

    The Gaussian has standard deviation sigma along theta and sigma / slant across. Its Fourier transform is a
    Gaussian around xi; sampling on the pixel grid repeats it every 2 pi, and the nearest repetitions count.
    """
    rows = 2 * math.pi * torch.fft.fftfreq(height, dtype=torch.float64)
    cols = 2 * math.pi * torch.fft.fftfreq(width, dtype=torch.float64)
    total = torch.zeros(height, width, dtype=torch.float64)
    for a in range(-2, 3):
        for b in range(-2, 3):
            u, v = (rows + 2 * math.pi * a)[:, None], (cols + 2 * math.pi * b)[None]
            along = u * math.cos(theta) + v * math.sin(theta) - xi
            across = v * math.cos(theta) - u * math.sin(theta)
            total += torch.exp(-(sigma**2) / 2 * (along**2 + (across / slant) ** 2))
    return total * _MASS


def _gaussian(size: int, sigma: float) -> Tensor:
    """(size,) spectrum of a unit-mass Gaussian on a pixel grid: one factor of the isotropic low-pass."""
    freq = 2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    for a in range(-2, 3):
        total += torch.exp(-(sigma**2) / 2 * (freq + 2 * math.pi * a) ** 2)
    return total * math.sqrt(_MASS)


def _crop(spectrum: Tensor, factor: int, dim: int) -> Tensor:
    """The low frequencies of a spectrum along ``dim``: the filter at a coarser resolution."""
    size = spectrum.shape[dim]
    half = size // factor // 2
    return torch.cat([spectrum.narrow(dim, 0, half), spectrum.narrow(dim, size - half, half)], dim)


def _reflect(x: Tensor, step: int) -> Tensor:
    """Pad (N, H, W) by reflection to multiples of ``step``, with at least one coarse pixel on either side."""
    pads = []
    for size in (x.shape[2], x.shape[1]):
        missing = ((size + step) // step + 1) * step - size
        pads += [missing // 2, (missing + 1) // 2]
    if max(pads[:2]) >= x.shape[2] or max(pads[2:]) >= x.shape[1]:
        raise BadInput(
            f"scattering over {step} pixels",
            f"cannot reflect images of {x.shape[1]} x {x.shape[2]} pixels that far",
            "Use fewer scales.",
        )
    return F.pad(x[:, None], pads, mode="reflect")[:, 0]


def _thin(spectrum: Tensor, factor: int) -> Tensor:
    """The spectrum of the signal at every ``factor``-th pixel: repetitions fold onto each other."""
    if factor == 1:
        return spectrum
    *lead, h, w = spectrum.shape
    folded: Tensor = spectrum.reshape(*lead, factor, h // factor, factor, w // factor)
    return folded.mean((-4, -2))


def _average(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """(..., h, w) averages of (..., H, W)."""
    return ((x @ cols).mT @ rows).mT


def _modulus(z: Tensor) -> Tensor:
    """|z| with derivative 0 at 0 (the square root's is infinite)."""
    square = z.real.square() + z.imag.square()
    vanishes = square == 0
    modulus: Tensor = torch.where(vanishes, 0.0, torch.where(vanishes, 1.0, square).sqrt())
    return modulus
