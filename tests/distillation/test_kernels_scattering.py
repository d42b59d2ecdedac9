"""Scattering features: numbers of another library, a second derivation in pixel space, closed-form properties."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve

from ddaudit.distillation.kernels import Scattering, scatter, standardise_groups
from ddaudit.errors import BadInput


def picture(h, w):
    """A fixed image with waves, a chirp and an edge."""
    r = torch.arange(h, dtype=torch.float64)[:, None]
    c = torch.arange(w, dtype=torch.float64)[None]
    return (torch.sin(0.9 * r + 0.4 * c) + torch.cos(0.05 * r * c) + (r > c).double())[None, None]


# kymatio 0.3.0, torch backend. Key: shape, J, L. Then output shape, norm, L1 norm, and the coefficients (0, 0, 0),
# (1, 1, 1), (L // 2, 0, -1), (P // 2, -1, 0), (P - 1, h // 2, w // 2).
KYMATIO = {
    (28, 28, 2, 8): [
        (81, 7, 7),
        (8.79531524, 204.56731636),
        (1.95936584, 0.07241525, 0.390432, 0.0125582, 0.00502802),
    ],
    (32, 32, 2, 8): [
        (81, 8, 8),
        (9.84079394, 261.4626997),
        (1.95743608, 0.07242136, 0.21633014, 0.01233698, 0.00501562),
    ],
    (8, 8, 2, 8): [
        (81, 2, 2),
        (3.1536943, 17.08762194),
        (1.96321785, 0.07110447, 0.16494946, 0.00955296, 0.00322988),
    ],
    (8, 8, 1, 8): [
        (9, 4, 4),
        (5.94524326, 35.41538958),
        (1.81219792, 0.11480667, 0.25714427, 0.20570086, 0.07188848),
    ],
    (28, 32, 3, 6): [
        (127, 3, 4),
        (4.14140885, 65.79622578),
        (1.43846273, 0.19488458, 0.36435011, 0.00726402, 0.00894728),
    ],
    (30, 26, 2, 5): [
        (36, 7, 6),
        (8.03885354, 138.9357414),
        (1.87265599, 0.18608291, 0.4160963, 0.00610911, 0.00838817),
    ],
}


@pytest.mark.parametrize("setting", KYMATIO)
def test_numbers_are_those_of_kymatio(setting):
    height, width, scales, angles = setting
    shape, norms, values = KYMATIO[setting]
    s = scatter(picture(height, width).float(), scales=scales, angles=angles)[0]
    assert s.shape == shape
    p, h, w = shape
    places = [(0, 0, 0), (1, 1, 1), (angles // 2, 0, -1), (p // 2, -1, 0), (p - 1, h // 2, w // 2)]
    assert [float(s[i]) for i in places] == pytest.approx(values, abs=2e-6)
    assert (float(s.norm()), float(s.abs().sum())) == pytest.approx(norms, rel=1e-6)


def morlet(sigma, theta, xi, slant, radius=24):
    """The wavelet in pixel space, by its definition."""
    r, c = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(float)
    along = r * math.cos(theta) + c * math.sin(theta)
    across = c * math.cos(theta) - r * math.sin(theta)
    gauss = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    gauss *= slant / (2 * math.pi * sigma**2)
    wave = gauss * np.exp(1j * xi * along)
    return wave - wave.sum() / gauss.sum() * gauss


def test_coefficients_follow_from_the_definition_in_pixel_space():
    """S2 = ||x * psi_1| * psi_2| * phi by direct convolution, far enough from the border not to feel it."""
    n, channel = 64, 1 + 16 + 8 * 2 + 5  # first angle 2, second angle 5
    rng = np.random.default_rng(0)
    x = np.zeros((n, n))
    x[24:40, 24:40] = rng.standard_normal((16, 16))
    first = np.abs(
        fftconvolve(x, morlet(0.8, (3 - 2) * math.pi / 8, 0.75 * math.pi, 0.5), mode="same")
    )
    # The transform keeps every pixel at scale 0 and every second one at scale 1; averaging spans 4.
    second = np.abs(
        fftconvolve(first, morlet(1.6, (3 - 5) * math.pi / 8, 0.375 * math.pi, 0.5), mode="same")
    )
    r, c = np.mgrid[-24:25, -24:25].astype(float)
    phi = np.exp(-(r**2 + c**2) / (2 * 1.6**2)) / (2 * math.pi * 1.6**2)
    want = {
        0: fftconvolve(x, phi, mode="same")[::4, ::4],
        3: fftconvolve(first, phi, mode="same")[::4, ::4],
        channel: fftconvolve(second, phi, mode="same")[::4, ::4],
    }
    got = scatter(torch.from_numpy(x)[None, None])[0].numpy()
    for k, expected in want.items():
        scale = np.abs(expected).max()
        # Thinning the modulus aliases a little of it: 1 % of the largest coefficient at second order.
        assert np.abs(got[k] - expected).max() < (0.02 if k == channel else 2e-3) * scale


def test_a_flat_image_has_its_value_and_nothing_else():
    s = scatter(torch.full((1, 1, 28, 28), 0.7, dtype=torch.float64))[0]
    assert torch.allclose(s[0], torch.tensor(0.7, dtype=torch.float64), atol=1e-4)
    assert float(s[1:].abs().max()) < 1e-6


def test_a_shift_by_the_averaging_span_shifts_the_coefficients():
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[..., 24:36, 20:34] = torch.randn(12, 14, generator=torch.Generator().manual_seed(0)).double()
    a, b = scatter(x)[0], scatter(x.roll((4, 8), (2, 3)))[0]
    # Exactly, but for the tails of wavelets that reach the border.
    assert float((a.roll((1, 2), (1, 2)) - b).abs().max()) < 1e-4 * float(a.abs().max())


def test_a_shift_by_one_pixel_moves_features_far_less_than_pixels():
    x = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    x = torch.nn.functional.pad(x[..., 8:-8, 8:-8], (8,) * 4)
    y = x.roll(1, 3)

    def moved(a, b):
        return float((a - b).norm() / a.norm())

    assert moved(x, y) > 1.3
    assert moved(scatter(x), scatter(y)) < 0.25


def test_the_transform_does_not_expand_distances():
    """A Littlewood-Paley bound: averaging and wavelets together pass every frequency at most once."""
    # Reflection repeats at most (40 / 32)^2 of the energy, and one pixel of 16 is kept: 1.25 / 4.
    g = torch.Generator().manual_seed(2)
    noise = [torch.randn(20, 1, 32, 32, generator=g) for _ in range(2)]
    flat = [torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)]
    ratios = [
        float(
            (
                (scatter(x) - scatter(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
            ).max()
        )
        for x, y in (noise, flat)
    ]
    assert max(ratios) < 1.25 / 4
    assert ratios[1] == pytest.approx(1 / 4, rel=1e-3)  # the average passes all of a flat image


def test_channels_are_independent_and_types_kept():
    x = torch.randn(3, 3, 16, 20, generator=torch.Generator().manual_seed(3)).double()
    s = scatter(x)
    assert s.shape == (3, 243, 4, 5)
    assert s.dtype == torch.float64
    assert torch.allclose(s[:, 81:162], scatter(x[:, 1:2]))
    assert torch.allclose(s, torch.cat([scatter(v[None]) for v in x]))  # no batch coupling


def test_gradients_are_right_and_finite_where_responses_vanish():
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    weight = torch.randn(1, 81, 2, 2, generator=torch.Generator().manual_seed(5)).double()
    assert torch.autograd.gradcheck(
        lambda v: (weight * scatter(v)).sum(), x.requires_grad_(True), eps=1e-6, atol=1e-6
    )
    blank = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (g,) = torch.autograd.grad(scatter(blank).sum(), blank)
    assert bool(torch.isfinite(g).all())
    assert float(g.abs().sum()) > 0


def test_images_too_small_for_the_scales_are_refused():
    with pytest.raises(BadInput, match="does not fit images of 4 x 4"):
        scatter(torch.zeros(1, 1, 4, 4), scales=3)
    with pytest.raises(BadInput, match="cannot reflect"):
        scatter(torch.zeros(1, 1, 4, 4), scales=2)


def test_standardised_groups_are_group_norm_where_there_is_one_position():
    """A second implementation: with a single position the group axis is all there is."""
    x = torch.randn(5, 81, 1, 1, generator=torch.Generator().manual_seed(6))
    assert torch.allclose(
        standardise_groups(x), torch.nn.functional.group_norm(x, 27, eps=1e-5), atol=1e-6
    )
    y = torch.randn(5, 81, 3, 3, generator=torch.Generator().manual_seed(7))
    each = standardise_groups(y)
    assert torch.allclose(each[..., 1:2, 2:3], standardise_groups(y[..., 1:2, 2:3]))


def test_the_kernel_standardises_grey_images_only_by_default():
    kernel = Scattering()
    grey = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(8))
    colour = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    assert torch.equal(kernel.embed(grey), standardise_groups(scatter(grey)).flatten(1))
    assert torch.equal(kernel.embed(colour), scatter(colour).flatten(1))
    unit = Scattering(unit_norm=True).embed(grey)
    assert torch.allclose(unit.norm(dim=1), torch.ones(2))
    with pytest.raises(ValueError, match="standardise"):
        Scattering(standardise="sometimes")
