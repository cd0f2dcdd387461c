import io
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from sslviz.data.images import BadImage, decode, fit, thumbnail
from sslviz.errors import InputError
from tests.inputs import encoded, picture, pixels

TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("tag", TURNS)
def test_exif_orientation_is_applied(tag):
    upright = picture(1, 60, 40)
    stored = upright if TURNS[tag] is None else upright.transpose(TURNS[tag])
    exif = Image.Exif()
    exif[0x0112] = tag
    png = decode(encoded(stored, "PNG", exif=exif))
    assert torch.equal(png.pixels, pixels(upright))
    jpeg = decode(encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0))
    assert jpeg.pixels.shape == (3, 40, 60)
    assert (jpeg.pixels.int() - pixels(upright).int()).abs().float().mean() < 2
    assert png.plain == (tag == 1)  # a turned file is not handed to the browser as it is
    small = Image.open(io.BytesIO(thumbnail(png, encoded(stored, "PNG", exif=exif))))
    assert small.size == (60, 40)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_containers_give_the_same_pixels(form):
    assert torch.equal(decode(encoded(picture(2), form)).pixels, pixels(picture(2)))


def test_modes_and_containers():
    image = picture(3, 48, 48)
    true = pixels(image).float()
    webp = decode(encoded(image, "WEBP", lossless=True))
    assert torch.equal(webp.pixels.float(), true)
    cmyk = decode(encoded(image.convert("CMYK"), "JPEG", quality=95))
    assert (cmyk.pixels.float() - true).abs().mean() < 12  # inverted colours would be off by about 100
    palette = decode(encoded(image.quantize(64)))
    assert (palette.pixels.float() - true).abs().mean() < 12
    progressive = decode(encoded(image, "JPEG", quality=95, progressive=True))
    assert (progressive.pixels.float() - true).abs().mean() < 14
    frames = [image.quantize(64), picture(4, 48, 48).quantize(64)]
    animated = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert animated.remark == "first of 2 frames"
    assert (animated.pixels.float() - true).abs().mean() < 12


def test_grey_of_every_depth_looks_like_8_bit_grey():
    grey = picture(5).convert("L")
    eight = decode(encoded(grey)).pixels.int()
    deep = np.asarray(grey).astype(np.uint16) * 257
    assert torch.equal(decode(encoded(Image.fromarray(deep))).pixels.int(), eight)
    assert torch.equal(decode(encoded(Image.fromarray(deep), "TIFF")).pixels.int(), eight)
    assert torch.equal(decode(encoded(Image.fromarray(deep.astype(np.int32)), "TIFF")).pixels.int(), eight)
    unit = Image.fromarray((deep / 65535).astype(np.float32))
    assert (decode(encoded(unit, "TIFF")).pixels.int() - eight).abs().max() <= 1
    assert decode(encoded(grey.convert("1"))).pixels.shape == (3, 32, 32)
    with pytest.raises(BadImage, match="no known scale"):
        decode(encoded(Image.fromarray((deep * 3.0).astype(np.float32)), "TIFF"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (encoded(picture(6, 96, 96), "JPEG")[:700], "damaged picture"),
        (encoded(picture(6, 96, 96))[:4000], "damaged picture"),
        (b"<html><body>404 Not Found</body></html>\n", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"some text", "not a picture"),
        (encoded(Image.new("L", (1, 2000))), r"too thin a picture \(1 x 2000\)"),
        (encoded(Image.fromarray(np.array([[0.5, np.nan]] * 4, np.float32)), "TIFF"), "NaN or infinite"),
    ],
)
def test_what_is_no_whole_picture_gives_its_reason(content, reason):
    with pytest.raises(BadImage, match=reason):
        decode(content)


def test_a_flipped_byte_in_a_png_is_found():
    content = bytearray(encoded(picture(7, 96, 96)))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(BadImage, match="damaged"):
        decode(bytes(content))


def test_fit_is_pillows_resize_and_centre_crop():
    image = picture(8, 200, 120)
    ours = fit(pixels(image), 64, 56)
    theirs = image.resize((200 * 64 // 120, 64), Image.Resampling.BILINEAR)
    left, top = round((theirs.width - 56) / 2), 4
    expected = pixels(theirs.crop((left, top, left + 56, top + 56)))
    assert ours.shape == (3, 56, 56)
    assert (ours.int() - expected.int()).abs().float().mean() < 1.5


def test_small_plain_files_are_their_own_thumbnail():
    content = encoded(picture(9), "JPEG")
    assert thumbnail(decode(content), content) == content
    large = encoded(picture(9, 300, 150), "JPEG")
    assert Image.open(io.BytesIO(thumbnail(decode(large), large))).size == (128, 64)


def test_the_reason_is_for_people():
    content = encoded(picture(6, 96, 96), "JPEG")
    with pytest.raises(BadImage) as error:
        decode(content[:700])
    assert ".cpp" not in str(error.value)
    assert "/" not in str(error.value)


def test_no_other_program_is_started_for_a_picture(monkeypatch):
    """PostScript under a picture's name: Pillow would hand it to Ghostscript."""
    from PIL import EpsImagePlugin

    from sslviz.data.masks import decode_mask
    from sslviz.training.sources import cut_file

    def started(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(BadImage):
        decode(drawing)
    with pytest.raises(InputError):
        decode_mask(drawing, "x.png")
    with pytest.raises(BadImage):
        cut_file(drawing, [(1.0, 1.0, 0.0, 0.0, 0.0, 8.0)])


@pytest.mark.parametrize("form", ["GIF", "TIFF", "AVIF", "WEBP", "BMP", "PNG"])
def test_damage_anywhere_is_a_reason_and_no_error_of_pillows(form):
    frames = [picture(k, 48, 48) for k in range(3)]
    several = {"save_all": True, "append_images": frames[1:]} if form in ("GIF", "TIFF", "WEBP") else {}
    whole = encoded(frames[0], form, **several)
    rng = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(12, len(whole), 4):
            content[place] = rng.integers(256)
        with suppress(BadImage):
            assert decode(bytes(content[: rng.integers(len(whole) // 2, len(whole) + 1)])).pixels.shape[0] == 3


def test_large_pictures_of_many_bits_are_refused_before_they_are_read():
    deep = encoded(Image.new("I;16", (8001, 8001)))  # 64 million pixels, in a few kilobytes
    with pytest.raises(BadImage, match="too large a picture of more than 8 bits"):
        decode(deep)
