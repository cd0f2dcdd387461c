import pytest
import torch

from sslviz.encoders.run import load_encoder, pick_device
from sslviz.encoders.spec import load_spec
from sslviz.errors import InputError, NotFound
from tests.inputs import picture, pixels, small_encoder


@pytest.fixture
def encoder(workspace):
    small_encoder(workspace)
    return load_encoder(workspace, "tiny")


IMAGES = torch.stack([pixels(picture(s, kind=s)) for s in (140, 141, 140, 142, 143, 140, 144)])


def test_the_batch_does_not_matter(encoder):
    whole = encoder.embed(IMAGES)
    for size in (1, 2, 3):
        pieces = torch.cat([encoder.embed(part) for part in IMAGES.split(size)])
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5 * float(whole.max()))
    channels_last = encoder.embed(IMAGES.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, whole, rtol=1e-5, atol=1e-5 * float(whole.max()))
    assert torch.equal(whole[0], whole[2])


def test_it_stays_frozen_whatever_is_called(encoder):
    before = {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    first = encoder.embed(IMAGES)
    encoder.train()
    encoder.train(True)
    assert not any(m.training for m in encoder.modules())
    assert torch.equal(encoder.embed(IMAGES), first)
    assert not first.requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in encoder.backbone.state_dict().items())


def test_features_are_those_of_the_plain_module(encoder):
    x = (IMAGES.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(IMAGES), encoder.backbone(x), rtol=1e-4, atol=1e-4)


def test_other_shapes_and_types_are_refused(encoder):
    for images in (IMAGES.float(), IMAGES[:, :, :16], IMAGES[0]):
        with pytest.raises(InputError, match=r"takes uint8 \[B, 3, 32, 32\]"):
            encoder.embed(images)


def test_whoever_may_read_an_encoders_description_may_read_its_weights(workspace):
    small_encoder(workspace)
    modes = {(workspace.encoder("tiny") / name).stat().st_mode for name in ("encoder.json", "weights.safetensors")}
    assert len(modes) == 1


def test_changed_weights_are_not_loaded(workspace):
    small_encoder(workspace)
    path = workspace.encoder("tiny") / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="digest differs"):
        load_encoder(workspace, "tiny")
    with pytest.raises(NotFound, match='unknown encoder "tinny". Did you mean "tiny"'):
        load_spec(workspace, "tinny")


def test_devices():
    assert pick_device("auto") == "cpu"  # the tests hide any GPU
    with pytest.raises(InputError, match='device "cuda" is not available'):
        pick_device("cuda")


def test_a_head_does_not_stay_beside_other_weights(workspace):
    from sslviz.encoders.store import Head, load_weights, read_head, save_encoder

    spec = small_encoder(workspace)
    weights = load_weights(workspace, spec)
    path = workspace.encoder("tiny") / "head.safetensors"
    save_encoder(workspace, spec, weights, Head({"projector.weight": torch.ones(2)}, {"method": "byol"}))
    head = read_head(path)
    assert head is not None
    assert head.facts == {"method": "byol"}
    save_encoder(workspace, spec, {name: w + 1 if w.is_floating_point() else w for name, w in weights.items()})
    assert read_head(path) is None
