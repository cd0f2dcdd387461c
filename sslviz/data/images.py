"""From the bytes of a picture file to upright 8-bit RGB, whatever people have in their folders."""

import io
import re
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sslviz.errors import InputError, in_one_line

if TYPE_CHECKING:
    import torch


class BadImage(InputError):
    """A file that is no whole picture; the message is the reason, without the file's name."""


class Picture(NamedTuple):
    """pixels uint8[3, H, W], upright; `plain` where the file's own bytes show the same in a browser; a remark or ''."""

    pixels: "torch.Tensor"
    plain: bool
    remark: str


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF")
"""What is opened, whatever a file is called: formats of pictures that Pillow reads by itself (EPS would start Ghostscript)."""
_MOST_GREY = 64_000_000
"""Pixels of a picture of 16 bits or floats, which takes several times the memory of one of 8 bits."""
_MOST_RATIO = 100
"""Of the longer side to the shorter: resized by its shorter side, a thinner picture takes gigabytes."""
_ORIENTATION = 0x0112
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is refused
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a remark on metadata
_WEB_FORMATS = {"JPEG", "PNG", "WEBP"}


def decode(content: bytes) -> Picture:
    """Decode a picture file. Content decides, not the name; EXIF orientation is applied; of several frames the first counts.

    16-bit grey is scaled by 1/257, floats from 0..1. Raises BadImage with the reason.
    """
    import torch

    if not content:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_size(image)
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        plain = upright and image.format in _WEB_FORMATS and image.mode in {"RGB", "L", "P", "RGBA"}
        if image.format == "JPEG" and image.mode in {"RGB", "L"}:
            return Picture(_decode_jpeg(content), plain, "")
        frames = getattr(image, "n_frames", 1)
        pixels = _to_rgb(ImageOps.exif_transpose(image))
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(_what_it_is(content)) from None
    except Image.DecompressionBombError:
        raise BadImage("too large a picture (more than 178 million pixels)") from None
    except Exception as error:  # Pillow's readers of formats raise whatever they meet in a file that is not whole
        raise BadImage(f"damaged picture ({in_one_line(error, 120)})") from None
    remark = f"first of {frames} frames" if frames > 1 else ""
    return Picture(torch.from_numpy(pixels).permute(2, 0, 1), plain and frames == 1, remark)


def thumbnail(picture: Picture, content: bytes, side: int = 128) -> bytes:
    """A small file of the picture, longer side at most `side`: the file itself where it is small already, else a JPEG."""
    _, height, width = picture.pixels.shape
    if picture.plain and max(height, width) <= side and len(content) <= 32_768:
        return content
    image = Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())
    image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def fit(pixels: "torch.Tensor", resize: int, size: int) -> "torch.Tensor":
    """Shorter side to `resize` (bilinear, antialiased), centre crop to `size`: uint8[3, H, W] -> uint8[3, size, size]."""
    from torchvision.transforms.v2 import functional as F

    _, height, width = pixels.shape
    if min(height, width) != resize:
        pixels = F.resize(pixels, [resize], antialias=True)
    if pixels.shape[1:] != (size, size):
        pixels = F.center_crop(pixels, [size, size])
    return pixels


def _decode_jpeg(content: bytes) -> "torch.Tensor":
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        pixels: torch.Tensor = decode_jpeg(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:
        reason = re.split(r"\.cpp:\d+,? *", in_one_line(error, 400))[-1]  # without the path torchvision was built in
        raise BadImage(f"damaged picture ({reason[:120].split('. ')[0]})") from None
    return pixels


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > _MOST_RATIO * min(width, height):
        raise BadImage(f"too thin a picture ({width} x {height})")
    if image.mode[0] in "IF" and width * height > _MOST_GREY:
        raise BadImage(f"too large a picture of more than 8 bits ({width} x {height}, more than 64 million pixels)")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values: np.ndarray = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise BadImage("grey values that are NaN or infinite")
        low, high = float(values.min()), float(values.max())
        if image.mode == "F" and 0 <= low and high <= 1:
            values = values * 255
        elif image.mode.startswith("I;16") or (image.mode == "I" and 0 <= low and 255 < high <= 65535):
            values = values / 257
        elif low < 0 or high > 255:
            raise BadImage(f"grey values from {low:g} to {high:g}: no known scale (0..1, 0..255 or 0..65535)")
        grey = np.rint(values).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _what_it_is(content: bytes) -> str:
    head = content[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not a picture (probably a failed download)"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not a picture (run git lfs pull)"
    return "not a picture that can be read"
