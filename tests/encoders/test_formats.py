"""A replica of each row of the table of published formats (docs/formats.md): right key names, small tensors, a decoy beside."""

import argparse
import sys
import types

import pytest
import torch
from torchvision.models import resnet50

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.doctor import inspect_file, read_encoder, report
from sslviz.encoders.run import Encoder
from sslviz.errors import Untrusted
from tests.encoders.test_doctor import assert_is, network, under

IMAGENET = (0.229, 0.224, 0.225)
SWAV = (0.228, 0.224, 0.225)


def mlp(lead, *widths, norms=()):
    """Linear layers under the given positions; `widths` are (position, in, out)."""
    state = {}
    for position, width_in, width_out in widths:
        state[f"{lead}{position}.weight"] = torch.ones(width_out, width_in)
    for position, width in norms:
        state |= {f"{lead}{position}.{k}": torch.ones(width) for k in ("weight", "bias", "running_mean", "running_var")}
    return state


def weight_norm(lead, width_in, width_out):
    return {f"{lead}weight_g": torch.ones(width_out, 1), f"{lead}weight_v": torch.ones(width_out, width_in)}


def lightning(state, **more):
    return {"pytorch-lightning_version": "1.6.4", "epoch": 99, "state_dict": state, **more}


THREE = ((0, 512, 16), (3, 16, 16), (6, 16, 8))
NORMS = ((1, 16), (4, 16), (7, 8))


def rows(a, b):
    """name -> (content, std, method, {head: layout})"""
    head3, head2 = "512 → 16 → 16 → 8", "512 → 16 → 8"
    solo = {**under("backbone.", a), **under("momentum_backbone.", b), "classifier.weight": torch.ones(10, 512)}
    two = mlp("projector.", (0, 512, 16), (2, 16, 8))
    bn_two = mlp("projector.", (0, 512, 16), (3, 16, 8), norms=[(1, 16)])
    method = lambda name: {"hyper_parameters": {"method": name}}  # noqa: E731
    moco = {**under("module.encoder_k.", b), **under("module.encoder_q.", a)}
    queue = {"queue": torch.ones(2, 8, 32), "queue_ptr": torch.zeros(2)}
    v3_heads = mlp("module.base_encoder.fc.", (0, 512, 16), (3, 16, 8), norms=[(1, 16), (4, 8)])
    swav = {**under("module.", a), "module.prototypes.weight": torch.ones(6, 8)}
    swav |= mlp("module.projection_head.", (0, 512, 16), (3, 16, 8), norms=[(1, 16)])
    dino = {"args": argparse.Namespace(arch="resnet18"), "epoch": 3}
    for name, net in (("student", b), ("teacher", a)):
        dino[name] = {**under("module.backbone.", net), **mlp("module.head.mlp.", (0, 512, 16), (2, 16, 8))}
        dino[name] |= weight_norm("module.head.last_layer.", 8, 20)
    full = {**under("module.backbone.", a), **mlp("module.projector.", *THREE, norms=[(1, 16), (4, 16)])}
    return {
        "solo-learn simclr": (lightning({**solo, **two}, **method("simclr")), SWAV, "simclr", {"projector": head2}),
        "solo-learn mocov2plus": (lightning({**solo, **two, **queue}, **method("mocov2plus")), SWAV, "mocov2plus", {}),
        "solo-learn swav": (
            lightning({**solo, **bn_two, **weight_norm("prototypes.", 8, 6)}, **method("swav")),
            SWAV,
            "swav",
            {"projector": head2, "prototypes": "8 → 6"},
        ),
        "solo-learn byol": (
            lightning({**solo, **bn_two, **mlp("predictor.", (0, 8, 16), (3, 16, 8), norms=[(1, 16)])}, **method("byol")),
            SWAV,
            "byol",
            {"projector": head2, "predictor": "8 → 16 → 8"},
        ),
        "solo-learn dino": (
            lightning({**solo, **mlp("head.mlp.", (0, 512, 16), (2, 16, 8)), **under("momentum_head.", b)}, **method("dino")),
            SWAV,
            "dino",
            {"head": head2},
        ),
        "lightly": (
            lightning({**under("backbone.", a), **mlp("projection_head.layers.", *THREE), "online_classifier.w": torch.ones(1)}),
            IMAGENET,
            "unknown",
            {"projection_head": head3},
        ),
        "SimSiam": (
            {
                "epoch": 100,
                "arch": "resnet18",
                "state_dict": {
                    **under("module.encoder.", a),
                    **mlp("module.encoder.fc.", *THREE, norms=NORMS),
                    **mlp("module.predictor.", (0, 8, 4), (3, 4, 8), norms=[(1, 4)]),
                },
            },
            IMAGENET,
            "simsiam",
            {"module.encoder.fc": head3, "module.predictor": "8 → 4 → 8"},
        ),
        "MoCo v2": (
            {"epoch": 200, "state_dict": {**moco, **mlp("module.encoder_q.fc.", (0, 512, 16), (2, 16, 8))}},
            IMAGENET,
            "moco",
            {"module.encoder_q.fc": head2},
        ),
        "MoCo v3": (
            {"state_dict": {**under("module.momentum_encoder.", b), **under("module.base_encoder.", a), **v3_heads}, "epoch": 1},
            IMAGENET,
            "moco",
            {"module.base_encoder.fc": head2},
        ),
        "SwAV flat": (swav, SWAV, "swav", {"module.projection_head": head2, "module.prototypes": "8 → 6"}),
        "SwAV nested": ({"epoch": 3, "state_dict": swav}, SWAV, "swav", {"module.projection_head": head2}),
        "DINO backbone": (a.state_dict(), IMAGENET, "unknown", {}),
        "DINO full": (dino, IMAGENET, "dino", {"module.head": "512 → 16 → 8 → 20"}),
        "VICReg full": ({"epoch": 9, "model": full}, IMAGENET, "vicreg", {"module.projector": head3}),
        "Barlow Twins full": (
            {"epoch": 9, "model": {**full, "module.bn.running_mean": torch.ones(8)}},
            IMAGENET,
            "barlow_twins",
            {"module.projector": head3},
        ),
        "BYOL converted": (
            {**a.state_dict(), "fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)},
            IMAGENET,
            "unknown",
            {},
        ),
    }


A, B = network(1), network(2)
ROWS = rows(A, B)


@pytest.mark.parametrize("name", list(ROWS))
def test_each_published_format_gives_its_backbone(tmp_path, name):
    content, std, method, heads = ROWS[name]
    torch.save(content, tmp_path / "x.pth")
    spec, found = assert_is(A, tmp_path / "x.pth")
    assert spec.input.std == std
    assert spec.method == method
    assert sum(found.left_out.values()) == found.n_tensors - 120
    for part, layout in heads.items():
        said = {k: v for k, v in report(found)["heads"].items() if k.endswith(part) and "momentum" not in k}
        assert set(said.values()) == {layout}
    if "queue" in content.get("state_dict", {}):
        assert "queue" in {part.split(".")[-1] for part in found.left_out}


def test_simclr_from_tensorflow_wants_inputs_in_0_to_1(tmp_path):
    content = {"state_dict": {**A.state_dict(), "fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}}
    torch.save(content, tmp_path / "x.pth")
    assert any("SimCLR converted from TensorFlow" in note for note in inspect_file(tmp_path / "x.pth").notes)
    spec, weights, _ = read_encoder(tmp_path / "x.pth", "x", input_spec={"mean": (0, 0, 0), "std": (1, 1, 1)})
    backbone = BACKBONES[spec.backbone].build(spec.architecture)
    backbone.load_state_dict(weights)
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(Encoder(spec, backbone).embed(images), A(images / 255), rtol=1e-4, atol=1e-5)
    torch.save({"epoch": 90, "arch": "resnet18", **content}, tmp_path / "y.pth")
    assert not any("TensorFlow" in note for note in inspect_file(tmp_path / "y.pth").notes)


def test_a_vicreg_training_file_with_its_function_is_refused_and_the_backbone_named(tmp_path, monkeypatch):
    module = types.ModuleType("main_vicreg")
    exec("def exclude_bias_and_norm(p):\n    return p.ndim == 1", module.__dict__)
    module.exclude_bias_and_norm.__module__ = "main_vicreg"
    monkeypatch.setitem(sys.modules, "main_vicreg", module)
    content = {"model": A.state_dict(), "optimizer": {"param_groups": [{"filter": module.exclude_bias_and_norm}]}}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(Untrusted, match=r"function of VICReg's or Barlow Twins'.*sslviz encoders add NAME vicreg"):
        inspect_file(tmp_path / "x.pth")


def test_a_published_resnet_50_embeds_as_torchvisions_own_bit_for_bit(tmp_path):
    """Same memory format, same batch; SimSiam's wrapping."""
    net = network(6, make=resnet50)
    heads = mlp("module.encoder.fc.", (0, 2048, 16), (3, 16, 8)) | mlp("module.predictor.", (0, 8, 4), (3, 4, 8))
    torch.save({"epoch": 100, "state_dict": {**under("module.encoder.", net), **heads}}, tmp_path / "x.pth.tar")
    spec, weights, _ = read_encoder(tmp_path / "x.pth.tar", "x")
    backbone = BACKBONES[spec.backbone].build(spec.architecture)
    backbone.load_state_dict(weights)
    images = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.input.mean, spec.input.std))
    x = images.float().div_(255).sub_(mean).mul_(1 / std).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        theirs = net.to(memory_format=torch.channels_last)(x)
    assert theirs.shape == (4, 2048)
    assert torch.equal(Encoder(spec, backbone).embed(images), theirs)
