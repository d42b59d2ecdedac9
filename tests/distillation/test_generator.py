"""Images from a generator: sizes and layers of the published ones, fixed codes, pixel range, no look at records."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ddaudit.distillation.generator import Generated, _by_channel, _enlarge, build_generator
from ddaudit.distillation.parts import Synthesis
from ddaudit.errors import DDAuditError

from .starts import given

PUBLIC = torch.full((3, 1, 1), 0.5)


def canvas(synthesis, data, *, ipc=2, seed=0, mean=PUBLIC, std=PUBLIC):
    return synthesis.start(given(data, ipc=ipc, mean=mean, std=std, seed=seed))


def released(made):
    with torch.no_grad():
        return made.decode()


@pytest.mark.parametrize(
    ("kind", "code", "width", "layers"),
    [
        # Sizes (inputs, outputs, kernel) read off the authors' code: code 5, hidden 200, channels 16, 8, 1.
        (
            "conv",
            5,
            16,
            [15 * 200 + 200, 2 * 200, 200 * 784 + 784, 2 * 784, 16 * 8 * 25 + 8, 8 * 25 + 1],
        ),
        # Code 10, width 64: dense to 256 x 4 x 4, then 256 -> 128 (5), 128 -> 64 (5), 64 -> 1 (8).
        (
            "dcgan",
            10,
            64,
            [20 * 4096 + 4096, 256 * 128 * 25 + 128, 128 * 64 * 25 + 64, 64 * 64 + 1],
        ),
    ],
)
def test_at_28_pixels_the_layers_are_the_published_ones(kind, code, width, layers):
    net = build_generator(kind, shape=(1, 28, 28), inputs=code + 10, width=width, seed=0)
    sizes = [sum(p.numel() for p in m.parameters(recurse=False)) for m in net.modules()]
    assert sorted(s for s in sizes if s) == sorted(layers)
    assert net(torch.randn(3, code + 10)).shape == (3, 1, 28, 28)


@pytest.mark.parametrize("kind", ["conv", "dcgan"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 17, 22), (3, 64, 64)])
def test_any_image_size(kind, shape):
    net = build_generator(kind, shape=shape, inputs=9, width=4, seed=0)
    out = net(torch.randn(64, 9, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (64, *shape)
    # Every pixel depends on the code: no border is left to biases alone.
    assert float(out.detach().std(0).min()) > 1e-3


def test_enlarging_and_normalising_are_the_published_operations():
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_enlarge(x), nn.UpsamplingBilinear2d(scale_factor=2)(x), atol=1e-6)
    rms = _by_channel(x).square().mean(1).sqrt()
    assert torch.allclose(rms, torch.ones_like(rms), atol=1e-4)


@pytest.mark.parametrize("kind", ["conv", "dcgan"])
def test_bounded_pixels_stay_in_the_unit_interval(tiny, kind):
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4, 0.5, 0.1), (0.25, 0.3, 0.1)))
    made = canvas(Generated(kind=kind, width=4), tiny.train, mean=mean, std=std)
    for p in made.parameters:
        p.data.mul_(20)  # far into the tails
    pixels = released(made)[0] * std + mean
    assert pixels.shape == (8, 3, 8, 8)
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6
    assert float(pixels.max() - pixels.min()) > 0.9
    free = canvas(Generated(kind=kind, width=4, bounded=False), tiny.train, mean=mean, std=std)
    for p in free.parameters:
        p.data.mul_(20)
    assert float(released(free).abs().max()) > 10


def test_fixed_codes_release_what_was_optimised(tiny):
    for kind in ("conv", "dcgan"):
        made = canvas(Generated(kind=kind, width=4), tiny.train)
        seen = made.decode()
        assert seen.requires_grad
        assert torch.equal(seen.detach(), released(made))
        assert torch.equal(made.decode().detach(), seen.detach())


def test_fresh_codes_are_for_training_and_fixed_ones_for_the_release(tiny):
    made = canvas(Generated(kind="conv", width=4, fresh=True), tiny.train)
    first, second = made.decode().detach(), made.decode().detach()
    assert not torch.equal(first, second)
    for _ in range(60):
        made.decode()
    a, b = released(made), released(made)
    assert torch.equal(a, b)  # the release neither draws codes nor moves the statistics


def test_a_release_of_fresh_codes_looks_like_the_training(tiny):
    """The statistics of batch normalisation follow the training batches, so the release has their distribution."""
    made = canvas(Generated(kind="conv", width=8, fresh=True), tiny.train, ipc=50)
    for _ in range(100):
        batch = made.decode().detach()
    out = released(made)
    assert torch.allclose(out.mean(1), batch.mean(1), atol=0.05)
    assert float(out.std()) == pytest.approx(float(batch.std()), rel=0.1)


@pytest.mark.parametrize(("kind", "lr"), [("conv", 0.01), ("dcgan", 0.003)])
def test_a_generator_learns_the_images_it_is_asked_for(tiny, kind, lr):
    """Known answer: one image per class can be drawn nearly perfectly."""
    made = canvas(Generated(kind=kind, width=8), tiny.train, ipc=1)
    first = [int((tiny.train.labels == c).nonzero()[0]) for c in range(4)]
    goal = (tiny.train.pixels(torch.tensor(first)) - PUBLIC) / PUBLIC
    optimiser = torch.optim.Adam(made.parameters, lr=lr)
    start = float((released(made)[0] - goal).square().mean())
    for _ in range(120):
        optimiser.zero_grad()
        (made.decode()[0] - goal).square().mean().backward()
        optimiser.step()
    assert float((released(made)[0] - goal).square().mean()) < 0.1 * start


def test_records_are_not_looked_at_and_the_seed_decides(tiny):
    other = replace(tiny.train, images=255 - tiny.train.images)
    for synthesis in (Generated(), Generated(kind="dcgan", code=10, width=8, bounded=False)):
        a, b = canvas(synthesis, tiny.train), canvas(synthesis, other)
        assert torch.equal(released(a), released(b))
        assert not torch.equal(released(a), released(canvas(synthesis, tiny.train, seed=1)))


def test_the_callers_random_state_is_left_alone(tiny):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    canvas(Generated(fresh=True), tiny.train).decode()
    assert torch.equal(torch.rand(3), expected)


def test_what_it_refuses(tiny):
    with pytest.raises(DDAuditError, match="one run at a time"):
        Generated().start(given(tiny.train, runs=2))
    for bad in ({"kind": "vae"}, {"init": "real"}, {"code": 0}, {"width": 1}):
        with pytest.raises(ValueError, match=r"."):
            Generated(**bad)
    part: Synthesis = Generated()
    assert part.init == "noise"
    assert not part.parallel
