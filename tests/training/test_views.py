import dataclasses

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from sslviz.methods import Views
from sslviz.training.views import crop, draw_crops, recolour
from tests.inputs import picture, pixels

STILL = Views(n_views=1, scale=(1.0, 1.0), jitter_share=0, grey_share=0, flip_share=0)
IMAGES = torch.stack([pixels(picture(s, kind=s)).float() / 255 for s in range(8)])


def random_views(images, views, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return recolour([crop(images, part) for part in draw_crops(len(images), views, size, generator)], views, generator)


def view(seed=0, images=IMAGES, size=32, **changes):
    return random_views(images, dataclasses.replace(STILL, **changes), size, seed)[0]


def test_nothing_asked_for_changes_only_the_aspect():
    whole = view(scale=(2.0, 2.0))  # area over 1: the whole image, whatever the aspect
    torch.testing.assert_close(whole, IMAGES, atol=1e-5, rtol=0)


def test_flip_is_torchvisions():
    torch.testing.assert_close(view(scale=(2.0, 2.0), flip_share=1), F.horizontal_flip(IMAGES), atol=1e-5, rtol=0)


def test_grey_is_torchvisions():
    torch.testing.assert_close(view(scale=(2.0, 2.0), grey_share=1), F.rgb_to_grayscale(IMAGES, 3), atol=2e-3, rtol=0)


def test_a_crop_is_a_part_of_the_image():
    ramp = torch.linspace(0, 1, 64).expand(16, 3, 64, 64).contiguous()
    crops = view(images=ramp, scale=(0.1, 0.3))
    width = crops.amax(3).mean((1, 2)) - crops.amin(3).mean((1, 2))
    assert (width > 0.2).all()  # sides of sqrt(.1 .. .3 times 3/4 .. 4/3): .27 to .63
    assert (width < 0.7).all()
    assert crops.min() >= 0
    assert crops.max() <= 1


def test_samples_have_parameters_of_their_own():
    same = IMAGES[:1].expand(8, -1, -1, -1)
    out = view(images=same, scale=(0.2, 1.0), jitter_share=1, jitter=(0.4, 0.4, 0.4, 0.1))
    assert len({round(float(v), 5) for v in out.mean((1, 2, 3))}) == 8


@pytest.mark.parametrize("jitter", [(0.4, 0, 0, 0), (0, 0.4, 0, 0), (0, 0, 0.4, 0), (0, 0, 0, 0.1)])
def test_each_jitter_keeps_what_it_should(jitter):
    soft = 0.3 + 0.3 * IMAGES  # far from 0 and 1, so that nothing is clipped
    out = view(images=soft, scale=(2.0, 2.0), jitter_share=1, jitter=jitter)
    brightness, contrast, saturation, hue = jitter
    grey_in, grey_out = F.rgb_to_grayscale(soft, 1), F.rgb_to_grayscale(out, 1)
    assert not torch.allclose(out, soft, atol=1e-3)
    if brightness:
        ratio = out / soft
        torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), atol=1e-4, rtol=0)
    if contrast:
        torch.testing.assert_close(grey_out.mean((1, 2, 3)), grey_in.mean((1, 2, 3)), atol=1e-3, rtol=0)
    if saturation or hue:
        torch.testing.assert_close(grey_out, grey_in, atol=2e-3, rtol=0)  # luminance stays


@pytest.mark.parametrize("jitter", [(2, 0, 0, 0), (0, 2, 0, 0), (0, 0, 2, 0)])
def test_strengths_above_one_invert_nothing(jitter):
    """torchvision's factors are drawn from max(0, 1 - strength) on."""
    left, right = torch.tensor([0.30, 0.28, 0.28]), torch.tensor([0.34, 0.32, 0.32])
    soft = torch.stack([left, right], 1)[None, :, None, :].expand(400, -1, 8, -1)
    out = view(images=soft, size=8, scale=(2.0, 2.0), jitter_share=1, jitter=jitter)
    assert (out[..., 0] <= out[..., -1] + 1e-4).all()
    assert (out[:, 0] >= out[:, 1] - 1e-4).all()
    assert (out.amax((1, 2, 3)) > 0).all()


def test_hue_turns_by_up_to_its_share_of_a_circle():
    """Angle in the plane of the colour differences, as torchvision's YIQ-free hue of 0.1 turns by a tenth."""
    colour = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None].expand(400, -1, 8, 8)
    out = view(images=colour, scale=(2.0, 2.0), jitter_share=1, jitter=(0, 0, 0, 0.1))
    r, g, b = out.mean((2, 3)).T.double()
    i, q = 0.596 * r - 0.274 * g - 0.322 * b, 0.211 * r - 0.523 * g + 0.312 * b
    first = torch.atan2(
        torch.tensor(0.211 * 0.6 - 0.523 * 0.4 + 0.312 * 0.4), torch.tensor(0.596 * 0.6 - 0.274 * 0.4 - 0.322 * 0.4)
    )
    turned = (torch.atan2(q, i) - first).abs() / (2 * torch.pi)
    assert 0.095 < float(turned.max()) < 0.1005
    assert float(turned.mean()) == pytest.approx(0.05, abs=0.005)


def test_the_same_generator_gives_the_same_bits():
    a, b = (view(seed=5, scale=(0.2, 1.0), jitter_share=0.8, grey_share=0.2, flip_share=0.5) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, view(seed=6, scale=(0.2, 1.0), jitter_share=0.8, grey_share=0.2, flip_share=0.5))


def test_each_kind_of_view_has_its_own_share_of_blur_and_solarising():
    """As DINO wants it, whose small views are blurred by a share of their own; a solarised white is black."""
    views = Views(jitter_share=0, grey_share=0, blur=(0.0, 0.0, 1.0), solarise=(1.0, 0.0, 0.0), n_local=2)
    bright = torch.full((4, 3, 64, 64), 0.9)
    bright[:, :, :, 32:] = 0.6
    bright[:, :, :8] = 0.2
    first, second, *small = recolour([bright] * 4, views, torch.Generator().manual_seed(0))
    torch.testing.assert_close(first, torch.where(bright == 0.2, 0.2, 1 - bright))
    torch.testing.assert_close(second, bright)
    for view in small:
        assert (view[:, :, 32, 31] < 0.9).any()
        assert (view[:, :, 32, 32] > 0.6).any()
        torch.testing.assert_close(view.mean(), bright.mean(), rtol=1e-3, atol=0)


def test_blur_is_a_gaussian_of_up_to_two_pixels_of_224():
    """SimCLR, appendix A: sigma between 0.1 and 2, drawn for each image; compared with torchvision's blur of the same sigma."""
    views = Views(n_views=1, jitter_share=0, grey_share=0, blur=(1.0,))
    point = torch.zeros(200, 3, 224, 224)
    point[:, :, 112, 112] = 1
    (blurred,) = recolour([point], views, torch.Generator().manual_seed(0))
    offsets = torch.arange(224) - 112.0
    sigma = (blurred[:, 0].sum(1) * offsets**2).sum(1).sqrt()
    assert 0 <= sigma.min() < 0.2 < 1.9 < sigma.max() < 2.01
    assert float(sigma.mean()) == pytest.approx(1.05, abs=0.15)
    for k in sigma.argsort()[[100, 150, 199]].tolist():
        theirs = F.gaussian_blur(point[k], 13, float(sigma[k]))
        torch.testing.assert_close(blurred[k], theirs, atol=0.003, rtol=0)


def test_blur_is_in_proportion_to_the_side():
    views = Views(n_views=1, jitter_share=0, grey_share=0, blur=(1.0,))
    point = torch.zeros(200, 3, 112, 112)
    point[:, :, 56, 56] = 1
    (blurred,) = recolour([point], views, torch.Generator().manual_seed(0))
    sigma = (blurred[:, 0].sum(1) * (torch.arange(112) - 56.0) ** 2).sum(1).sqrt()
    assert 0.95 < sigma.max() < 1.01
