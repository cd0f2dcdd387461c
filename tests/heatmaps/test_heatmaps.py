"""Heatmaps with a known truth, the same for every layer, batch and layout; and encoders that are left as they came."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from numpy.testing import assert_allclose
from torch import nn
from torchvision.models import resnet18

from sslviz import explain, feature_maps
from sslviz.encoders.backbones.small_resnet import SmallResNet
from sslviz.encoders.run import load_encoder
from sslviz.errors import InputError, NotFound
from sslviz.heatmaps import HEATMAPS, enlarge, finish
from sslviz.heatmaps.hiding import fall_when_hidden
from sslviz.heatmaps.layers import Subject
from tests.inputs import picture, pixels, small_encoder


class Colours(nn.Module):
    """Features are the means of red, of green less a half, and of blue."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.stage.weight.copy_(torch.eye(3)[:, :, None, None])
            self.stage.bias.copy_(torch.tensor([0.0, -0.5, 0.0]))

    def forward(self, x):
        return self.stage(x).mean((2, 3))


class Tokens(nn.Module):
    """A transformer's shapes by hand: a class token and a register before a 3 x 3 grid; features sum what the patches say."""

    num_prefix_tokens = 2

    def __init__(self):
        super().__init__()
        self.norm1 = nn.Identity()
        self.blocks = nn.Sequential(nn.Identity())

    def forward(self, x):
        patches = x[:, :, ::4, ::4].flatten(2).transpose(1, 2)  # [N, 9, 3], row by row
        others = torch.full((len(x), 2, 3), 100.0)
        tokens = self.norm1(torch.cat([others, patches], 1))
        return self.blocks(tokens)[:, 2:].square().sum(1)


def trained_like(net, size=64, seed=0):
    """Random weights, BatchNorm statistics of real pictures."""
    torch.manual_seed(seed)
    images = torch.stack([pixels(picture(i, size, size, i)) for i in range(16)]).float() / 127 - 1
    net.train()
    with torch.no_grad():
        for _ in range(10):
            net(images)
    return net.eval(), images


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    net = resnet18()
    net.fc = nn.Identity()
    return trained_like(net)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return trained_like(SmallResNet(width=8, blocks=1, stem_stride=2, feature_dim=64))


def test_maps_by_hand():
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0, 1, 2] = 1.0
    images[1, 1] = 0.9
    maps = feature_maps(Colours(), images, [0, 1])
    assert maps.shape == (2, 2, 4, 4)
    assert_allclose(maps[0, 0].numpy(), images[0, 0].numpy())
    assert_allclose(maps[:, 1].numpy(), images[:, 1].numpy() - 0.5, atol=1e-6)
    heat = explain(Colours(), images, np.array([[True, False, False], [False, True, False]]))
    assert_allclose(heat[0].numpy(), images[0, 0].numpy())
    assert_allclose(heat[1].numpy(), np.ones((4, 4)))  # .4 everywhere, divided by its maximum
    both = explain(Colours(), images.numpy(), [0, 1])  # summed first, then negatives to 0: 1 - .5 is left
    assert isinstance(both, np.ndarray)
    assert_allclose(both[0], images[0, 0].numpy())


def test_the_map_is_made_large_as_align_corners_false():
    raw = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    assert_allclose(finish(raw, (4, 4))[0, 0].numpy(), [0, 0.25, 0.75, 1])  # with align_corners 0, 1/3, 2/3, 1
    assert finish(-raw, (4, 4)).abs().max() == 0
    # negatives are 0 before they can lower what lies beside them
    assert_allclose(finish(torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]]]), (4, 4))[0, 0].numpy(), [0, 0.25, 0.75, 1])
    maps = torch.randn(2, 3, 5, 7)
    for size in ((20, 9), (5, 7), (3, 30)):
        peer = nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        assert_allclose(enlarge(maps, size).numpy(), peer.numpy(), atol=1e-6)
    assert torch.isfinite(finish(torch.zeros(1, 2, 2), (4, 4))).all()


def test_exact_maps_are_captums_grad_cam_and_average_to_the_features(resnet):
    net, images = resnet
    features = [3, 77, 500]
    maps = feature_maps(net, images, features)
    with torch.no_grad():
        assert_allclose(maps.mean((2, 3)).numpy(), net(images)[:, features].numpy(), rtol=1e-5, atol=1e-6)
    for k, j in enumerate(features):
        captum = LayerGradCam(net, net.layer4).attribute(images, target=j)[:, 0].detach() * 4
        assert (maps[:, k] - captum).abs().max() <= 1e-5 * captum.abs().max()
    both = explain(net, images, features, "gradcam")
    assert (both - explain(net, images, features)).abs().max() <= 1e-5


@pytest.mark.parametrize("layer", ["layer4", "layer4.1", "layer4.1.bn1", "layer3", "layer1", None])
def test_relus_in_place_change_nothing(resnet, layer):
    net, images = resnet
    other = copy.deepcopy(net)
    for module in other.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    a, b = (feature_maps(n, images[:3], [5, 9], layer=layer) for n in (net, other))
    assert a.abs().max() > 0
    assert_allclose(a.numpy(), b.numpy(), atol=1e-6 * float(a.abs().max()))
    c, d = (explain(n, images[:3], [5, 9], "gradcam", layer=layer) for n in (net, other))
    assert_allclose(c.numpy(), d.numpy(), atol=1e-6)


def state_of(net):
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    return weights, [m.training for m in net.modules()], [(p.requires_grad, p.grad) for p in net.parameters()], hooks


@pytest.mark.parametrize("method", HEATMAPS.names())
def test_an_encoder_leaves_as_it_came_also_after_an_error(resnet, method):
    net, images = copy.deepcopy(resnet[0]), resnet[1][:2]
    net.train()
    net.layer1.eval()
    net.conv1.weight.requires_grad_(False)
    net.bn1.weight.grad = torch.ones(64)
    weights, modes, gradients, hooks = state_of(net)
    explain(net, images, [1, 2], method)
    fall_when_hidden(net, images, np.ones((2, 64, 64)), [1])
    for wrong in ({"layer": "nowhere"}, {"features": [9999]}, {"images": images[:, :2]}):
        with pytest.raises((InputError, RuntimeError)):
            explain(net, **{"images": images, "features": [1], "method": method, **wrong})
    after, modes_after, gradients_after, hooks_after = state_of(net)
    assert all(torch.equal(v, weights[k]) for k, v in after.items())
    assert (modes_after, hooks_after) == (modes, hooks)
    assert all(a == b and c is d for (a, c), (b, d) in zip(gradients, gradients_after, strict=True))


@pytest.mark.parametrize("method", HEATMAPS.names())
def test_the_batch_does_not_matter(small, method):
    net = small[0]
    images = torch.stack([small[1][i] for i in (0, 1, 0, 2, 3, 0, 4)])
    mask = np.zeros((7, 64), bool)
    mask[:, 40:60] = True
    mask[[1, 3, 4, 6]] = np.random.default_rng(0).random((4, 64)) < 0.2  # other features for the neighbours
    whole = explain(net, images, mask, method)
    assert_allclose(whole[0].numpy(), whole[2].numpy(), atol=1e-5)
    assert_allclose(whole[0].numpy(), whole[5].numpy(), atol=1e-5)
    for size in (1, 2, 3):
        parts = [explain(net, images[s : s + size], mask[s : s + size], method) for s in range(0, 7, size)]
        assert_allclose(torch.cat(parts).numpy(), whole.numpy(), atol=1e-5)
    last = explain(net, images.contiguous(memory_format=torch.channels_last), mask, method)
    bound = 1e-5 if HEATMAPS[method].needs_layer else 2e-2  # another order of sums flips gradients of ReLUs that lie at 0
    assert_allclose(last.numpy(), whole.numpy(), atol=bound)


@pytest.mark.parametrize("method", HEATMAPS.names())
def test_without_positive_evidence_the_map_is_zero(method):
    images = torch.zeros(2, 3, 8, 8)
    images[1, 1] = 1.0
    with np.errstate(all="raise"):
        heat = explain(Colours(), images, [1], method)  # green less a half: negative in the first picture
    assert heat[0].abs().max() == 0 if method != "integrated_gradients" else heat[0].max() == 0
    assert heat[1].max() == 1
    assert explain(Colours(), images, np.zeros((2, 3), bool), method).abs().max() == 0


def test_tokens_become_a_grid_without_class_token_and_registers():
    images = torch.zeros(1, 3, 12, 12)
    images[0, 1, 4, 8] = 3.0  # patch (1, 2)
    with Subject(Tokens()) as subject:
        subject.inputs(images)
        layer = subject.layer(None)
        assert (layer.height, layer.width, layer.prefix) == (3, 3, 2)
        assert not subject.is_exact(None)
        assert "2 others left out" in layer.words
    maps = feature_maps(Tokens(), images, [1])
    wanted = np.zeros((3, 3))
    wanted[1, 2] = 3.0 * (2 * 3.0)  # value times the sum of gradients 2 v
    assert_allclose(maps[0, 0].numpy(), wanted)
    with pytest.raises(InputError, match="use gradcam"):
        explain(Tokens(), images, [1])


def test_a_transformer_that_does_not_say_how_many_tokens_lead_is_explained(monkeypatch):
    """torchvision's: one class token before a 4 x 4 grid."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    net.heads = nn.Identity()
    with Subject(net) as subject:
        subject.inputs(torch.randn(2, 3, 32, 32))
        assert subject.map_size(None) == (4, 4)
    assert explain(net, torch.randn(2, 3, 32, 32), [1, 2], "gradcam").max() > 0


def test_grad_cam_of_raw_maps_has_the_scale_of_the_features(small):
    net, images = small
    with Subject(net) as subject:
        inputs = subject.inputs(images)
        one = torch.zeros(len(images), subject.width)
        one[:, 5] = 1
        raw = HEATMAPS["gradcam"].maps(subject, inputs, one, None)
    torch.testing.assert_close(raw, feature_maps(net, images, [5])[:, 0], rtol=1e-4, atol=1e-5)


def test_stages_of_a_network_that_holds_them_in_one_part_are_offered():
    import timm

    net = timm.create_model("efficientnet_lite0", num_classes=0)
    with Subject(net) as subject:
        subject.inputs(torch.randn(2, 3, 64, 64))
        assert {"blocks.0", "blocks.1", "blocks.2", "blocks.4"} <= {layer.name for layer in subject.offered()}


@pytest.mark.parametrize("registers", [0, 4])
def test_a_vision_transformer_is_explained_before_its_last_attention(registers):
    import timm

    torch.manual_seed(0)
    net = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0, reg_tokens=registers
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    kept = []
    hook = net.blocks[2].norm1.register_forward_hook(lambda m, i, o: kept.append(o))
    h = net(images.clone().requires_grad_())
    hook.remove()
    (gradient,) = torch.autograd.grad(h[:, 7].sum(), kept[0])
    tokens, slope = (t[:, 1 + registers :].detach() for t in (kept[0], gradient))
    wanted = (tokens * slope.sum(1, keepdim=True)).sum(2).reshape(2, 4, 4)
    assert_allclose(feature_maps(net, images, [7])[:, 0].numpy(), wanted.numpy(), atol=1e-5 * float(wanted.abs().max()))
    with Subject(net) as subject:
        subject.inputs(images)
        assert subject.layer(None).name == "blocks.2.norm1"
        assert [n.name for n in subject.offered()] == ["blocks.0.norm1", "blocks.1.norm1", "blocks.2.norm1"]


def test_channels_last_as_swin_has_them():
    import timm

    net = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, img_size=64, window_size=2).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = net.forward_features(images)
    assert maps.shape == (2, 2, 2, 768)
    assert_allclose(feature_maps(net, images, [5])[:, 0].numpy(), maps[..., 5].numpy(), atol=1e-5)


def test_integrated_gradients_add_up_to_the_rise_from_the_baseline():
    images = torch.randn(4, 3, 12, 12)
    weights = torch.tensor([[1.0, 0, 2.0]]).expand(4, -1)
    with Subject(Tokens()) as subject:
        raw = HEATMAPS["integrated_gradients"].maps(subject, subject.inputs(images), weights, None)
    squares = images[:, :, ::4, ::4].square()  # the integral of 2 v over the way from 0 to v
    wanted = torch.zeros(4, 12, 12)
    wanted[:, ::4, ::4] = squares[:, 0] + 2 * squares[:, 2]
    assert_allclose(raw.numpy(), wanted.numpy(), atol=1e-5)


def test_other_weights_give_another_map(small):
    net, images = small
    features = list(range(30, 60))
    other, _ = trained_like(copy.deepcopy(net).apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None))
    for method in HEATMAPS.names():
        a, b = (explain(n, images, features, method).flatten(1) for n in (net, other))
        likeness = [float(np.corrcoef(x, y)[0, 1]) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
        assert np.mean(likeness) < 0.7, method


def test_our_encoders_whole_and_cut(workspace):
    from sslviz.encoders.cut import cut_encoder
    from sslviz.encoders.run import build_encoder
    from sslviz.encoders.store import load_weights

    small_encoder(workspace)
    encoder = load_encoder(workspace, "tiny")
    images = torch.stack([pixels(picture(i, 32, 32, i)) for i in range(3)])
    maps = feature_maps(encoder, images, [2, 11])
    assert_allclose(maps.mean((2, 3)).numpy(), encoder.embed(images)[:, [2, 11]].numpy(), rtol=1e-5, atol=1e-6)
    selected = encoder.spec.model_copy(update={"outputs": (2, 5, 11), "feature_dim": 3})
    weights = load_weights(workspace, encoder.spec)
    spec, fewer, _ = cut_encoder(encoder.spec, weights, np.array([2, 5, 11]), "cut")
    for other in (build_encoder(selected, weights), build_encoder(spec, fewer)):
        assert_allclose(feature_maps(other, images, [0, 2]).numpy(), maps.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="takes uint8"):
        feature_maps(encoder, images.float(), [0])


def test_what_is_refused(resnet):
    net, images = resnet
    for kwargs, error, says in [
        ({"layer": "layer9"}, InputError, 'no layer "layer9".*layer4'),
        ({"layer": "avgpool"}, InputError, '"avgpool" has no maps'),
        ({"layer": "layer3"}, InputError, 'layer "layer3", which|features and layer "layer3"'),
        ({"method": "lime"}, NotFound, 'unknown heatmap method "lime"'),
        ({"features": [512]}, InputError, "512 is outside"),
        ({"features": np.ones((2, 512), bool)}, InputError, r"expected a mask of \(16, 512\)"),
        ({"images": images[:0]}, InputError, "no images"),
        ({"images": images[0]}, InputError, r"expected float \[N, 3, H, W\]"),
        ({"method": "integrated_gradients", "layer": "layer4"}, InputError, "leave the layer out"),
    ]:
        with pytest.raises(error, match=says):
            explain(net, **{"images": images, "features": [1], **kwargs})
    with pytest.raises(InputError, match="expected an encoder"):
        explain("resnet18", images, [1])
    assert feature_maps(net, images, []).shape == (16, 0, 2, 2)


def test_hiding_where_it_is_hot_takes_it_all():
    images = torch.zeros(1, 3, 10, 10)
    images[0, 0, :2] = 1.0  # the red fifth
    heat = explain(Colours(), images, [0]).numpy()
    fall = fall_when_hidden(Colours(), images, heat, [0], share=0.2)
    assert_allclose(fall.hot, [1.0])
    assert 0 < fall.elsewhere[0] < 0.5
    cold = fall_when_hidden(Colours(), images, 1 - heat, [0], share=0.2)
    assert_allclose(cold.hot, [0.0])
    assert np.isnan(fall_when_hidden(Colours(), -images, heat, [0]).hot).all()


def test_threads_take_turns(small):
    net, images = small
    wanted = {k: explain(net, images[k : k + 1], [5, 9, 13]).numpy() for k in range(4)}

    def look(k):
        return all(np.allclose(explain(net, images[k : k + 1], [5, 9, 13]).numpy(), wanted[k], atol=1e-5) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(look, range(4)))
    assert not any(m._forward_hooks for m in net.modules())


def test_maps_that_only_look_exact_are_not_taken_for_it():
    class Clamped(Colours):
        def forward(self, x):
            return super().forward(x).clamp_min(0) * 2

    black = torch.zeros(2, 3, 8, 8)  # features and means of maps are 0 here
    with pytest.raises(InputError, match="use gradcam"):
        explain(Clamped(), black, [0])


def test_pictures_that_are_no_squares():
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    heat = explain(Colours(), images, [0])
    assert heat.shape == (2, 8, 12)
    assert_allclose(heat, images[:, 0] / images[:, 0].amax((1, 2), keepdim=True), rtol=1e-5)

    class Many(Colours):  # as many channels as rows: not to be taken for channels last
        def __init__(self):
            super().__init__()
            self.stage = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 1))

    assert feature_maps(Many(), images, [1], layer="stage").shape == (2, 1, 4, 6)


def test_numpy_pictures_of_any_kind():
    images = np.random.default_rng(0).random((2, 3, 8, 8))
    expected = explain(Colours(), images.astype(np.float32), [0])
    for given in (images, images.astype(np.float16)):
        assert_allclose(explain(Colours(), given, [0]), expected, atol=2e-3)
    turned = np.ascontiguousarray(images[:, ::-1])[:, ::-1]  # negative strides, as of BGR made RGB
    turned.setflags(write=False)
    assert_allclose(explain(Colours(), turned, [0]), expected, rtol=1e-5)


def test_integrated_gradients_of_a_steep_function_add_up():
    class Steep(Colours):
        def forward(self, x):
            return (4 * self.stage(x)).exp().mean((2, 3))

    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 1
    net = Steep()
    with Subject(net) as subject:
        inputs = subject.inputs(images)
        found = HEATMAPS["integrated_gradients"].maps(subject, inputs, torch.tensor([[1.0, 0, 0]] * 2), None)
        rise = (net(inputs) - net(torch.zeros_like(inputs)))[:, 0]
    assert_allclose(found.sum((1, 2)), rise.detach(), rtol=1e-3)


def test_the_patch_to_compare_with_lies_elsewhere():
    images = torch.zeros(1, 3, 2, 10)
    images[0, 0, 0] = 1.0
    heat = explain(Colours(), images, [0]).numpy()
    fall = fall_when_hidden(Colours(), images, heat, [0], share=0.5)
    assert_allclose([fall.hot, fall.elsewhere], [[1.0], [0.0]], atol=1e-6)  # the hot row, and the other one
