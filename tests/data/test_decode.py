"""Pictures of any depth come out at their own brightness, or are refused: none turns white or black."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddaudit.data.decode import decode_images
from ddaudit.errors import BadInput
from ddaudit.sets.formats._decode import decode_images as decode_set

GREYS = np.linspace(0, 1, 64).reshape(8, 8)


def data(picture: Image.Image, kind: str = "PNG") -> Tensor:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return decode_images([("a picture", buffer.getvalue())], size=0)


def of_set(picture: Image.Image, kind: str = "PNG") -> Tensor:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return decode_set([("a picture", buffer.getvalue())], shape=None, where=Path("set"))[0] * 255


READERS: list[Callable[[Image.Image], Tensor]] = [data, of_set]


@pytest.mark.parametrize("read", READERS)
def test_sixteen_bits_are_scaled_by_their_depth(read: Callable[[Image.Image], Tensor]) -> None:
    made = read(Image.fromarray((GREYS * 65535).round().astype(np.uint16)))
    assert made.shape == (1, 1, 8, 8)
    expected = torch.from_numpy(GREYS * 255)[None, None]
    torch.testing.assert_close(made.double(), expected, atol=0.51, rtol=0)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_of_both_byte_orders(order: str) -> None:
    values = (GREYS * 65535).round().astype(order)
    mode = "I;16" if order == "<u2" else "I;16B"
    made = data(Image.frombytes(mode, (8, 8), values.tobytes()), "TIFF")
    torch.testing.assert_close(made.double()[0, 0], torch.from_numpy(GREYS * 255), atol=0.51, rtol=0)  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("white", [255, 4095])
def test_fewer_bits_in_sixteen_are_refused(
    read: Callable[[Image.Image], Tensor], white: int
) -> None:
    with pytest.raises(
        BadInput, match=rf"16 bits, but no picture has a value above {white}.*65535 is white"
    ):
        read(Image.fromarray((GREYS * white).astype(np.uint16)))


def test_one_dark_picture_among_bright_ones_is_dark() -> None:
    encoded = []
    for white in (1000, 60000):
        buffer = io.BytesIO()
        Image.fromarray((GREYS * white).astype(np.uint16)).save(buffer, "PNG")
        encoded.append((str(white), buffer.getvalue()))
    assert decode_images(encoded, size=0).flatten(1).amax(1).tolist() == [4, 233]


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(GREYS.astype(np.float32)),
        Image.fromarray((GREYS * 255).astype(np.float32)),
        Image.fromarray((GREYS * 2**30).astype(np.int32)),
    ],
)
def test_floating_point_and_32_bits_are_refused(picture: Image.Image) -> None:
    with pytest.raises(BadInput, match=r"nothing says which value is white\. Scale it to 8 bits"):
        data(picture, "TIFF")


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 200)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(BadInput, match="holds 2 frames, expected one picture"):
        decode_images([("a", file.getvalue())], size=0)


def _alpha(lowest: int) -> Image.Image:
    alpha = np.linspace(255, lowest, 64).reshape(8, 8).astype(np.uint8)
    return Image.fromarray(alpha)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_hides_nothing_is_left_out_and_other_alpha_refused(
    read: Callable[[Image.Image], Tensor], mode: str
) -> None:
    plain = Image.fromarray((GREYS * 255).round().astype(np.uint8)).convert(mode)
    channels = 1 if mode == "LA" else 3
    made = read(plain)
    assert made.shape == (1, channels, 8, 8)
    torch.testing.assert_close(made.double()[0, 0], torch.from_numpy(GREYS * 255), atol=0.51, rtol=0)  # fmt: skip
    plain.putalpha(_alpha(0))
    with pytest.raises(
        BadInput, match=r"transparent pixels, and no background is stated\. Flatten"
    ):
        read(plain)


@pytest.mark.parametrize(("apart", "fits"), [(0, True), (8, True), (9, False)])
def test_colour_becomes_grey_only_where_channels_agree(apart: int, fits: bool) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (100, 100, 100 + apart)).save(buffer, "PNG")

    def grey() -> Tensor:
        return decode_images([("test/a.png", buffer.getvalue())], size=0, channels=1)

    if fits:
        torch.testing.assert_close(grey(), torch.full((1, 1, 8, 8), 100).byte(), atol=2, rtol=0)
    else:
        with pytest.raises(BadInput, match=r"test/a\.png: has 3 channels, the data 1\. Convert"):
            grey()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_is_refused_where_it_occurs(
    read: Callable[[Image.Image], Tensor], mode: str, tmp_path: Path
) -> None:
    picture = Image.new("L", (4, 4), 9)
    picture.putpixel((0, 0), 200)
    picture = picture.convert(mode)
    colours = {"P": picture.getpixel((0, 0)), "RGB": (200, 200, 200), "L": 200}
    for colour, fits in ((colours[mode], False), ({"P": 3, "RGB": (1, 2, 3), "L": 1}[mode], True)):
        picture.info["transparency"] = colour
        picture.save(tmp_path / "a.png", transparency=colour)
        with Image.open(tmp_path / "a.png") as stored:
            stored.load()
            assert "transparency" in stored.info
            if fits:
                assert float(read(stored).max()) == 200
            else:
                with pytest.raises(BadInput, match="transparent pixels"):
                    read(stored)
