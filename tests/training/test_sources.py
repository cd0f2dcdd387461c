import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import functional as F

from sslviz.errors import RunFailed
from sslviz.methods import Views
from sslviz.training.sources import Files, InMemory, Planned, cut_file
from sslviz.training.views import draw_crops
from tests.inputs import encoded, picture, pixels

CPU = torch.device("cpu")
VIEWS = Views(scale=(0.2, 1.0), n_local=1, local_scale=(0.1, 0.2))


def plan(n_images, size=24, steps=2, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Planned(torch.randint(n_images, (batch,), generator=generator).tolist(), draw_crops(batch, VIEWS, size, generator))
        for _ in range(steps)
    ]


@pytest.fixture(scope="module")
def photo():
    """A photograph of 640 x 427, as a JPEG file."""
    return encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG", quality=95)


def reference(image, area, ratio, x, y, flip, side):
    """The same part by torchvision, from the whole picture at full resolution."""
    width = min(image.width, round((area * ratio * image.width * image.height) ** 0.5))
    height = min(image.height, round((area / ratio * image.width * image.height) ** 0.5))
    left = round((image.width - width) * (x + 1) / 2)
    top = round((image.height - height) * (y + 1) / 2)
    out = F.resized_crop(pixels(image), top, left, height, width, [side, side], antialias=True)
    return F.horizontal_flip(out) if flip else out


CROPS = [(1.0, 1.0, 0.0, 0.0, 0, 64), (0.3, 1.3, -1.0, 1.0, 1, 64), (0.1, 0.8, 0.4, 0.5, 0, 32), (0.05, 1.0, 0.1, 0.4, 1, 32)]


@pytest.mark.parametrize("crop", CROPS)
def test_a_part_of_a_jpeg_is_torchvisions(photo, crop):
    found = cut_file(photo, [crop])[0].float()
    expected = reference(Image.open(io.BytesIO(photo)).convert("RGB"), *crop).float()
    assert found.shape == (3, crop[-1], crop[-1])
    assert float((found - expected).abs().mean()) < 4  # of 255: decoded at a smaller scale, cut between pixels
    turned = float((found.flip(2) - expected).abs().mean())
    assert turned > 10


@pytest.mark.parametrize("crop", [c for c in CROPS if c[0] < 0.2])
def test_at_full_scale_a_part_is_torchvisions_own(photo, crop):
    whole = pixels(Image.open(io.BytesIO(photo)))
    found = cut_file(photo, [(*crop[:-1], 400)])[0]
    expected = reference(Image.fromarray(whole.permute(1, 2, 0).numpy()), *crop[:-1], 400)
    assert int((found.int() - expected.int()).abs().max()) <= 1


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_serves_every_part(photo, monkeypatch):
    asked = []
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda self, mode, size: asked.append(size))
    cut_file(photo, [(1.0, 1.0, 0, 0, 0, 40)])
    cut_file(photo, [(1.0, 1.0, 0, 0, 0, 40), (0.09, 1.0, 0, 0, 0, 40)])
    cut_file(photo, [(1.0, 1.0, 0, 0, 0, 40), (0.01, 1.0, 0, 0, 0, 40)])  # needs more than half of it: decoded whole
    width, height = Image.open(io.BytesIO(photo)).size
    assert asked[0][1] >= 40
    assert asked[0][1] < height / 4
    assert asked[1][1] >= 40 / 0.3 * height / (width * height) ** 0.5
    assert len(asked) == 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_parts_are_of_the_upright_picture(orientation):
    upright = picture(1, 120, 80)
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(turns[orientation]) if turns[orientation] is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    crop = (0.4, 1.2, -0.5, 0.7, 0, 24)
    found = cut_file(encoded(stored, "JPEG", quality=98, subsampling=0, exif=exif), [crop])[0].float()
    plain = cut_file(encoded(upright, "PNG"), [crop])[0].float()
    assert float((found - plain).abs().mean()) < 6


def test_files_and_memory_show_the_same_parts(tmp_path):
    images = [picture(k, 64, 64, k) for k in range(6)]
    for k, image in enumerate(images):
        image.save(tmp_path / f"{k}.png")
    ids = [f"{k}.png" for k in range(6)]
    memory = InMemory(torch.stack([pixels(image) for image in images]))
    said = []
    files = Files(tmp_path, ids, 2, said.append)
    assert len(files) == len(memory) == 6
    for a, b in zip(files.batches(plan(6), CPU), memory.batches(plan(6), CPU), strict=True):
        assert [v.shape for v in a] == [v.shape for v in b] == [(4, 3, 24, 24)] * 2 + [(4, 3, 12, 12)]
        for one, other in zip(a, b, strict=True):  # antialiased and on whole pixels, or not: the picture is the same
            assert float((one - other).abs().mean()) < 0.06
            assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.95
    assert not said


def test_an_unreadable_file_is_told_once_and_replaced(tmp_path):
    for k in range(4):
        picture(k, 32, 32, k).save(tmp_path / f"{k}.png")
    (tmp_path / "1.png").write_bytes(encoded(picture(1), "PNG")[:300])
    said = []
    files = Files(tmp_path, ["0.png", "1.png", "2.png", "gone.png"], 1, said.append)
    steps = plan(4, steps=12)
    batches = list(files.batches(steps, CPU))
    assert [len(b[0]) for b in batches] == [4] * 12
    assert sorted(line.split(":")[0] for line in said) == ["1.png", "gone.png"]
    assert all("another image takes its place" in line for line in said)


def test_of_many_unreadable_files_three_are_told(tmp_path):
    picture(0, 32, 32, 0).save(tmp_path / "ok.png")
    said, names = [], [f"gone{k}.png" for k in range(7)]
    files = Files(tmp_path, ["ok.png"] * 7 + names, 1, said.append)
    list(files.batches(plan(14, steps=20, batch=16), CPU))
    assert len(said) == 4
    assert said[3] == "more files cannot be read: the result lists them all"
    assert sorted(line.split(":")[0] for line in files.left_out) == names


def test_a_batch_without_one_readable_file_ends_the_run(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    with pytest.raises(RunFailed, match=r"none of 4 images of a batch can be read, a\.jpg among them"):
        list(Files(tmp_path, ["a.jpg"], 1, lambda line: None).batches(plan(1), CPU))
