import numpy as np
import pytest
import torch

from sslviz.data.damages import DAMAGES, damage


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_covered_hides_the_middle_quarter(pictures):
    out = damage(pictures, "covered")
    mean = pictures.float().mean((2, 3)).round()
    assert (out[:, :, 2:6, 2:6] == mean[:, :, None, None]).all()
    out[:, :, 2:6, 2:6] = pictures[:, :, 2:6, 2:6]
    assert torch.equal(out, pictures)


def test_shrunk_lies_in_its_mean_colour():
    picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    picture[:, 0, :4] = 200  # upper half red
    out = damage(picture, "shrunk")
    assert (out[0, 0, [0, 1, 6, 7]] == 100).all()
    assert out[0, 0, 2, 3] == 200
    assert out[0, 0, 5, 3] == 0
    assert (out[0, 1:] == 0).all()


def test_darkened_is_a_quarter(pictures):
    assert torch.equal(damage(pictures, "darkened"), (pictures.float() / 4).round().to(torch.uint8))


def test_noise_has_its_spread_and_its_seed():
    grey = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    out = damage(grey, "noised", seed=1)
    assert out.float().std().item() == pytest.approx(0.15 * 255, rel=0.02)
    assert out.float().mean().item() == pytest.approx(128, abs=1)
    assert torch.equal(out, damage(grey, "noised", seed=1))
    assert not torch.equal(out, damage(grey, "noised", seed=2))


def test_blurred_smears_a_point_evenly():
    picture = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    picture[:, :, 16, 16] = 255
    out = damage(picture, "blurred").float()
    assert out.max() < 60
    assert torch.equal(out, out.flip(2))
    assert torch.equal(out, out.transpose(2, 3))
    sigma = 0.04 * 33  # of a continuous normal blur; the point's peak is 255 / (2 pi sigma^2)
    assert out.max().item() == pytest.approx(255 / (2 * np.pi * sigma**2), rel=0.1)
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(damage(flat, "blurred"), flat)


@pytest.mark.parametrize("name", DAMAGES.names())
def test_every_damage_changes_pictures_and_leaves_its_input(pictures, name):
    before = pictures.clone()
    out = damage(pictures, name)
    assert (out.dtype, out.shape) == (torch.uint8, pictures.shape)
    assert not torch.equal(out, pictures)
    assert torch.equal(pictures, before)
