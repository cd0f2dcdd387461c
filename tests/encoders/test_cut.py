"""Compressed encoders: the same features, fewer of them."""

import numpy as np
import pytest
import torch

from sslviz.encoders.add import add_encoder
from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.cut import cut_encoder
from sslviz.encoders.doctor import read_encoder
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import EncoderSpec, InputSpec, load_spec
from sslviz.encoders.store import load_weights, save_encoder
from sslviz.errors import InputError
from tests.inputs import picture, pixels, small_encoder

KEPT = np.array([0, 3, 4, 9, 17, 18, 30, 31])


def pictures(size):
    return torch.stack([pixels(picture(i, size, size, i)) for i in range(6)])


def resnet(workspace, name="wide"):
    architecture = {"block": "basic", "layers": [1, 1, 1, 1], "width_per_group": 64, "stem": "3x3", "stem_padding": 1}
    torch.manual_seed(0)
    net = BACKBONES["resnet"].build(architecture)
    spec = EncoderSpec(
        name=name,
        backbone="resnet",
        architecture=architecture,
        feature_dim=512,
        input=InputSpec(size=32, resize=32),
        source="test",
    )
    return save_encoder(workspace, spec, net.state_dict())


def cut(workspace, name, kept, as_name):
    spec = load_spec(workspace, name)
    made, weights, fewer = cut_encoder(spec, load_weights(workspace, spec), kept, as_name)
    save_encoder(workspace, made, weights)
    return load_encoder(workspace, as_name), fewer


@pytest.mark.parametrize(("make", "shorter"), [(small_encoder, True), (resnet, False)])
def test_the_features_are_those_of_the_whole_encoder(workspace, make, shorter):
    spec = make(workspace)
    whole = load_encoder(workspace, spec.name)
    before = {k: v.clone() for k, v in whole.backbone.state_dict().items()}
    small, fewer = cut(workspace, spec.name, KEPT, "small")
    assert fewer == shorter
    images = pictures(32)
    wanted = whole.embed(images)[:, KEPT]
    assert small.embed(images).shape == (6, len(KEPT))
    assert (wanted.amax(1) > 0).all()
    torch.testing.assert_close(small.embed(images), wanted, rtol=1e-5, atol=1e-5 * float(wanted.max()))
    assert small.spec.fingerprint() != whole.spec.fingerprint()
    weights = [sum(p.numel() for p in net.backbone.parameters()) for net in (whole, small)]
    less = (spec.feature_dim - len(KEPT)) * (4 * 8 + 2)  # rows of the 1x1 convolution (4 x width inputs), scale and shift
    assert weights[0] - weights[1] == (less if shorter else 0)
    assert all(torch.equal(v, before[k]) for k, v in whole.backbone.state_dict().items())


@pytest.mark.parametrize("make", [small_encoder, resnet])
def test_cut_again_and_carried_to_another_workspace_as_a_file(workspace, make, tmp_path):
    from sslviz.store.workspace import Workspace

    name = make(workspace).name
    images = pictures(32)
    wanted = load_encoder(workspace, name).embed(images)[:, KEPT[[1, 2, 3, 5, 6, 7, 4, 0]].tolist()]
    cut(workspace, name, np.arange(0, 32), "first")
    twice, _ = cut(workspace, "first", KEPT, "twice")
    torch.testing.assert_close(twice.embed(images)[:, [1, 2, 3, 5, 6, 7, 4, 0]], wanted, rtol=1e-4, atol=1e-5)
    other = Workspace(tmp_path / "other")
    spec, notes = add_encoder(other, str(workspace.encoder("twice") / "weights.safetensors"), "mine")
    assert spec.feature_dim == len(KEPT)
    assert any("8 features" in note for note in notes)
    assert torch.equal(load_encoder(other, "mine").embed(images), twice.embed(images))


@pytest.mark.parametrize(
    "outputs", [[0, 1, 2, 3, 4, 5, 6, 512], [1, 0, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6], [-1, 1, 2, 3, 4, 5, 6, 7]]
)
def test_outputs_that_a_file_claims_wrongly_are_not_believed(workspace, outputs):
    import json

    from safetensors.torch import load_file, save_file

    resnet(workspace)
    cut(workspace, "wide", KEPT, "small")
    path = workspace.encoder("small") / "weights.safetensors"
    spec = json.loads((workspace.encoder("small") / "encoder.json").read_text())
    spec["outputs"] = outputs
    save_file(load_file(path), path, {"sslviz": json.dumps(spec)})
    read, _, found = read_encoder(path, "again")
    assert found.writer != "sslviz"
    assert (read.feature_dim, read.outputs) == (512, ())  # what its tensors are, without what it says


@pytest.mark.parametrize("features", [[], [3, 1], [1, 1], [-1, 4], [4, 32]])
def test_features_that_cannot_be_kept(workspace, features):
    spec = small_encoder(workspace)
    with pytest.raises(InputError, match="ascending indices within 0 and 31"):
        cut_encoder(spec, {}, np.array(features, int), "small")
