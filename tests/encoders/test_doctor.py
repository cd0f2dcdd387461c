"""The wrappings people publish (docs/formats.md): network A is to be found, B is the decoy."""

import argparse
import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet50

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.doctor import inspect_file, read_encoder
from sslviz.encoders.run import Encoder
from sslviz.errors import InputError, NotFound, Untrusted
from tests.inputs import encoded, picture, pixels

IMAGE = pixels(picture(3, 64, 64))


def network(seed, cifar_padding=None, make=resnet18):
    torch.manual_seed(seed)
    net = make()
    net.fc = torch.nn.Identity()
    if cifar_padding is not None:
        net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, cifar_padding, bias=False)
        net.maxpool = torch.nn.Identity()
    net.train()
    with torch.no_grad():  # statistics of a picture, so that features are alive
        net(torch.randn(8, 3, 64, 64))
    return net.eval()


@pytest.fixture(scope="module")
def nets():
    return {"A": network(1), "B": network(2)}


def under(prefix, net):
    return {prefix + k: v for k, v in net.state_dict().items()}


def features_of(path, **options):
    spec, weights, found = read_encoder(path, "x", input_spec={"size": 64, "resize": 64}, **options)
    backbone = BACKBONES[spec.backbone].build(spec.architecture)
    backbone.load_state_dict(weights)
    return Encoder(spec, backbone).embed(IMAGE[None])[0], spec, found


def expected(net, spec):
    x = (IMAGE[None].float() / 255 - torch.tensor(spec.input.mean)[:, None, None]) / torch.tensor(spec.input.std)[:, None, None]
    with torch.no_grad():
        return net(x)[0]


def assert_is(net, path, **options):
    got, spec, found = features_of(path, **options)
    want = expected(net, spec)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    return spec, found


HEAD = {"fc.0.weight": torch.ones(8, 512), "fc.0.bias": torch.ones(8)}


def test_moco_query_not_key_with_and_without_module(tmp_path, nets):
    for lead in ("module.", ""):
        state = {**under(f"{lead}encoder_k.", nets["B"]), **under(f"{lead}encoder_q.", nets["A"])}
        state |= {f"{lead}encoder_q.{k}": v for k, v in HEAD.items()} | {f"{lead}queue": torch.ones(2, 4)}
        torch.save({"epoch": 200, "state_dict": state}, tmp_path / "moco.pth.tar")
        spec, found = assert_is(nets["A"], tmp_path / "moco.pth.tar")
        assert "MoCo query encoder" in spec.network
        assert found.left_out == {
            f"state_dict.{lead}encoder_q.fc": 2,
            f"state_dict.{lead}encoder_k": 120,
            f"state_dict.{lead}queue": 1,
        }
        assert (found.method, found.epoch) == ("moco", 200)


def test_moco_v3(tmp_path, nets):
    state = {**under("module.momentum_encoder.", nets["B"]), **under("module.base_encoder.", nets["A"])}
    torch.save({"state_dict": state}, tmp_path / "m.pth.tar")
    assert_is(nets["A"], tmp_path / "m.pth.tar")


def test_swav_flat_with_module(tmp_path, nets):
    heads = {"module.projection_head.0.weight": torch.ones(4, 512), "module.prototypes.weight": torch.ones(3, 4)}
    torch.save({**under("module.", nets["A"]), **heads}, tmp_path / "swav.pth.tar")
    spec, _ = assert_is(nets["A"], tmp_path / "swav.pth.tar")
    assert spec.input.std == (0.228, 0.224, 0.225)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("foreign", r"0 of 120 tensors have a name of a known backbone; first unknown: tower.stage0"),
        ("layer4", r"90 of 120 backbone tensors match \(ResNet-18, 7x7 stem\); layer4.\* missing \(30\)"),
        ("shape", r"119 of 120 .*layer3.1.conv2.weight is 256x256x1x1, expected 256x256x3x3"),
        ("none", r"holds no weights \(only: epoch, optimizer\)"),
        ("probe", r"a classifier for 1536 features and no backbone"),
    ],
)
def test_a_partly_random_network_is_never_used(tmp_path, nets, change, words):
    state = nets["A"].state_dict()
    content = {
        "foreign": {f"tower.stage{i}.kernel": v for i, v in enumerate(state.values())},
        "layer4": {k: v for k, v in state.items() if not k.startswith("layer4")},
        "shape": {**state, "layer3.1.conv2.weight": torch.ones(256, 256, 1, 1)},
        "none": {"epoch": 3, "optimizer": {}},
        "probe": {"state_dict": {"module.linear.weight": torch.ones(10, 1536), "module.linear.bias": torch.ones(10)}},
    }[change]
    torch.save(content, tmp_path / "x.pth")
    assert inspect_file(tmp_path / "x.pth").refusal
    with pytest.raises(InputError, match=words):
        read_encoder(tmp_path / "x.pth", "x")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("conv1.weight", lambda t: t.to(torch.int8), "conv1.weight holds int8, expected floating-point weights"),
        ("conv1.weight", lambda t: t.to(torch.complex64), "conv1.weight holds complex64"),
        ("fc.weight", lambda t: t.to_sparse(), "fc.weight is not a plain tensor"),
        ("conv1.weight", lambda t: t.to("meta"), "conv1.weight is not a plain tensor"),
        ("bn1.bias", lambda t: t.double() + 1e100, "bn1.bias holds NaN or infinity"),
        ("bn1.running_var", lambda t: t - 1.5, "bn1.running_var holds variances below zero"),
    ],
)
def test_tensors_that_give_no_features_are_refused_by_name(tmp_path, nets, name, change, words):
    state = dict(nets["A"].state_dict())
    torch.save(state | {name: change(state.get(name, torch.ones(3, 512)))}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=words):
        read_encoder(tmp_path / "x.pth", "x")


def test_a_classifier_in_a_lightning_file_is_no_sign_of_solo_learn(tmp_path):
    net = network(4, cifar_padding=1)
    state = {**under("backbone.", net), "classifier.weight": torch.ones(10, 512)}
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state}, tmp_path / "own.ckpt")
    spec, found = assert_is(net, tmp_path / "own.ckpt")
    assert (found.writer, spec.input.std) == ("PyTorch Lightning", (0.229, 0.224, 0.225))


@pytest.mark.parametrize("lead", ["backbone.", "encoder."])
def test_solo_learn_cifar_stem_has_padding_2(tmp_path, lead):
    net = network(3, cifar_padding=2)
    state = {**under(lead, net), "projector.0.weight": torch.ones(4, 512), "classifier.weight": torch.ones(10, 512)}
    wrap = {"pytorch-lightning_version": "1.6.4", "hyper_parameters": {"method": "simclr"}, "epoch": 999, "state_dict": state}
    torch.save(wrap, tmp_path / "s.ckpt")
    spec, found = assert_is(net, tmp_path / "s.ckpt")
    assert (found.writer, found.method, spec.architecture["stem_padding"]) == ("solo-learn", "simclr", 2)
    assert any("padding 2 because solo-learn" in note for note in found.notes)
    other = network(3, cifar_padding=1)
    other.load_state_dict(net.state_dict())
    assert_is(other, tmp_path / "s.ckpt", stem_padding=1)


def test_other_cifar_stems_have_padding_1(tmp_path):
    net = network(4, cifar_padding=1)
    torch.save(net.state_dict(), tmp_path / "s.pth")
    assert_is(net, tmp_path / "s.pth")


def test_lightning_byol_momentum_network_is_left_out(tmp_path, nets):
    state = {**under("momentum_backbone.", nets["B"]), **under("backbone.", nets["A"])}
    torch.save({"pytorch-lightning_version": "1.6.4", "state_dict": state}, tmp_path / "b.ckpt")
    assert_is(nets["A"], tmp_path / "b.ckpt")


def test_heads_are_not_the_feature(tmp_path, nets):
    torch.save({**nets["A"].state_dict(), "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}, tmp_path / "a.pth")
    spec, _ = assert_is(nets["A"], tmp_path / "a.pth")
    assert spec.feature_dim == 512


def test_online_not_target_student_on_request(tmp_path, nets):
    torch.save({"target_backbone": nets["B"].state_dict(), "online_backbone": nets["A"].state_dict()}, tmp_path / "byol.pth")
    spec, _ = assert_is(nets["A"], tmp_path / "byol.pth")
    assert spec.method == "byol"
    assert_is(nets["B"], tmp_path / "byol.pth", network="target")
    full = {"student": under("module.backbone.", nets["B"]), "teacher": under("backbone.", nets["A"]), "epoch": 100}
    torch.save(full, tmp_path / "dino.pth")
    _, found = assert_is(nets["A"], tmp_path / "dino.pth")
    assert found.method == "dino"
    assert "student" in found.why
    assert_is(nets["B"], tmp_path / "dino.pth", network="student")
    with pytest.raises(InputError, match='no network "queue"; there is: student.module.backbone, teacher.backbone'):
        read_encoder(tmp_path / "dino.pth", "x", network="queue")
    with pytest.raises(InputError, match="holds several networks: student.module.backbone, teacher.backbone. Say which"):
        read_encoder(tmp_path / "dino.pth", "x", network="backbone")


def test_two_networks_of_equal_rank_are_not_guessed(tmp_path, nets):
    torch.save({"one": nets["A"].state_dict(), "two": nets["B"].state_dict()}, tmp_path / "t.pth")
    with pytest.raises(InputError, match="several networks: one, two. Say which: --network"):
        read_encoder(tmp_path / "t.pth", "x")
    assert_is(nets["B"], tmp_path / "t.pth", network="two")


def test_resnet_50_and_safetensors(tmp_path):
    net = network(5, make=resnet50)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "r.safetensors")
    spec, _ = assert_is(net, tmp_path / "r.safetensors")
    assert (spec.feature_dim, spec.architecture["block"]) == (2048, "bottleneck")


def test_vision_transformer_gives_timms_class_token(tmp_path):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
    torch.save({"teacher": under("backbone.", net)}, tmp_path / "v.pth")
    assert_is(net, tmp_path / "v.pth")


def test_a_vision_transformer_with_registers_as_dinov2_writes_it(tmp_path):
    """Its position of the class token stands in the file; timm adds it to the token beforehand."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    options = {
        "img_size": 64,
        "patch_size": 16,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 1,
        "init_values": 0.5,
        "num_classes": 0,
    }
    net = VisionTransformer(**options, reg_tokens=4, no_embed_class=True).eval()
    torch.nn.init.normal_(net.reg_token)
    state, place = dict(net.state_dict()), torch.randn(1, 1, 64)
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - place
    state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "d.pth")
    spec, _ = assert_is(net, tmp_path / "d.pth")
    assert (spec.architecture["registers"], spec.architecture["image_size"]) == (4, 64)


# ---- what a file may be and hold

MARKER = Path("sslviz-code-was-run")


class RunsCode:
    def __reduce__(self):
        return (open, (str(MARKER), "w"))


def test_weights_that_share_their_values_are_laid_out(tmp_path):
    net = network(7)
    block = 0.03 * torch.randn(1 << 14)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data = block.as_strided(module.weight.shape, (17, 5, 3, 1), 11)  # windows that overlap
    net.train()(torch.randn(8, 3, 64, 64))
    net.eval()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "tied.pth")
    assert (tmp_path / "tied.pth").stat().st_size < 1 << 19
    assert_is(net, tmp_path / "tied.pth")


def test_harmless_records_are_read(tmp_path, nets):
    state = nets["A"].state_dict()
    content = {
        "args": argparse.Namespace(arch="resnet18", path=Path("/data")),
        "epoch": np.int64(90),
        "best": np.float64(71.3),
        "stats": np.array([0.5, 0.25]),
        "state_dict": state,
    }
    torch.save(content, tmp_path / "h.pth")
    assert_is(nets["A"], tmp_path / "h.pth")


def test_code_is_refused_named_and_not_run(tmp_path, nets, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": nets["A"].state_dict(), "note": RunsCode()}, tmp_path / "evil.pth")
    with pytest.raises(Untrusted, match=r"holds Python code \(io.open\), not only tensors, and was not loaded"):
        read_encoder(tmp_path / "evil.pth", "x")
    (tmp_path / "legacy.pth").write_bytes(pickle.dumps({"note": RunsCode()}, protocol=2))
    with pytest.raises(InputError):
        read_encoder(tmp_path / "legacy.pth", "x")
    assert not MARKER.exists()


def test_a_whole_module_is_refused_with_advice(tmp_path):
    module = types.ModuleType("foreign_models")
    exec("import torch\nclass Net(torch.nn.Sequential): pass", module.__dict__)
    module.Net.__module__ = "foreign_models"
    sys.modules["foreign_models"] = module
    try:
        torch.save(module.Net(torch.nn.Linear(2, 2)), tmp_path / "m.pth")
    finally:
        del sys.modules["foreign_models"]
    with pytest.raises(Untrusted, match=r"whole pickled module \(foreign_models.Net\).*save model.state_dict\(\)"):
        read_encoder(tmp_path / "m.pth", "x")


def test_what_is_no_checkpoint_is_named(tmp_path, nets):
    buffer = io.BytesIO()
    torch.save(nets["A"].state_dict(), buffer)
    whole = buffer.getvalue()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 0xFF
    other_zip = io.BytesIO()
    with zipfile.ZipFile(other_zip, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    cases = {
        "cut off": whole[: len(whole) * 6 // 10],
        "empty": b"",
        "an HTML page, probably a failed download": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a picture": encoded(picture(1)),
        "a zip archive without weights": other_zip.getvalue(),
        "damaged: the checksum": bytes(changed),
        "is a text file": "# Notes \N{EM DASH} of mine\n".encode() * 40,
        "not a checkpoint": b"hello world, this is no text\x00\x07" * 20,
    }
    for words, content in cases.items():
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_encoder(tmp_path / "x.pth", "x")
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="not a complete safetensors file"):
        read_encoder(tmp_path / "x.safetensors", "x")
    with pytest.raises(InputError, match="is a folder"):
        read_encoder(tmp_path, "x")
    with pytest.raises(NotFound, match="no file"):
        read_encoder(tmp_path / "missing.pth", "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, nets, value):
    state = dict(nets["A"].state_dict())
    state["layer2.0.bn1.bias"] = torch.full((128,), value)
    torch.save(state, tmp_path / "n.pth")
    assert "layer2.0.bn1.bias" in inspect_file(tmp_path / "n.pth").refusal
    with pytest.raises(InputError, match="layer2.0.bn1.bias holds NaN or infinity"):
        read_encoder(tmp_path / "n.pth", "x")


def test_input_is_settable_and_part_of_the_fingerprint(tmp_path, nets):
    torch.save(nets["A"].state_dict(), tmp_path / "a.pth")
    plain, _, _ = read_encoder(tmp_path / "a.pth", "x")
    raw, _, _ = read_encoder(tmp_path / "a.pth", "x", input_spec={"mean": (0, 0, 0), "std": (1, 1, 1)})
    assert plain.input.mean == (0.485, 0.456, 0.406)
    assert raw.input.std == (1, 1, 1)
    assert plain.fingerprint() != raw.fingerprint()
    small, _, _ = read_encoder(tmp_path / "a.pth", "x", input_spec={"size": 96})
    assert (plain.input.size, plain.input.resize) == (224, 256)
    assert (small.input.size, small.input.resize) == (96, 110)  # 96 x 256 / 224
    with pytest.raises(InputError, match="std.*greater than 0"):
        read_encoder(tmp_path / "a.pth", "x", input_spec={"std": (0, 1, 1)})


def test_the_allow_list_is_fixed():
    from sslviz.encoders.files import _harmless

    names = {entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}" for entry in _harmless()}
    kinds = {n for n in names if not n.startswith("numpy.dtypes.")}
    paths = {f"{m}.{k}Path" for m in ("pathlib", "pathlib._local") for k in ("Posix", "Windows", "PurePosix", "PureWindows")}
    numpy_names = {f"numpy.{m}.multiarray.{f}" for m in ("core", "_core") for f in ("scalar", "_reconstruct")}
    assert kinds == {"argparse.Namespace", "numpy.ndarray", "numpy.dtype", *paths, *numpy_names}


def test_layers_of_another_architecture_are_not_left_out(tmp_path, nets):
    extra = {f"layer1.{i}.se.fc1.weight": torch.ones(4, 64) for i in range(2)}
    torch.save({**nets["A"].state_dict(), **extra}, tmp_path / "se.pth")
    with pytest.raises(InputError, match="2 tensors of its layers are unknown .*another architecture"):
        read_encoder(tmp_path / "se.pth", "x")


@pytest.mark.parametrize(
    "spec",
    [
        {"backbone": "resnet", "architecture": {}},
        {"backbone": "resnet", "architecture": {"block": 3}},
        {"backbone": "timm", "architecture": {"model": "hf-hub:evil/x"}},
        {"backbone": "nothing", "architecture": {}},
    ],
)
def test_what_a_file_says_of_itself_is_not_believed_blindly(tmp_path, spec):
    said = json.dumps({"name": "x", "feature_dim": 8, "input": {}, **spec})
    save_file(
        {"conv1.weight": torch.tensor(1.0), "layer1.0.conv1.weight": torch.ones(2)}, tmp_path / "x.safetensors", {"sslviz": said}
    )
    with pytest.raises(InputError, match="0 of 2 tensors have a name of a known backbone"):
        read_encoder(tmp_path / "x.safetensors", "x")


def test_names_of_a_backbone_with_shapes_of_none(tmp_path):
    state = {"conv1.weight": torch.tensor(1.0), "layer1.0.conv1.weight": torch.ones(2), "layer2.0.conv1.weight": torch.ones(2)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError):
        read_encoder(tmp_path / "x.pth", "x")


@pytest.mark.parametrize("epoch", [float("nan"), float("inf"), torch.ones(3), [1, 2], "many"])
def test_an_epoch_that_is_no_number_is_none(tmp_path, nets, epoch):
    torch.save({"state_dict": nets["A"].state_dict(), "epoch": epoch}, tmp_path / "a.pth")
    assert inspect_file(tmp_path / "a.pth").epoch is None


def test_zips_that_are_broken_inside_are_one_line(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "garbage.pth", "w") as garbage:
        for name in whole.namelist():
            garbage.writestr(name, b"\x80\x02garbage" if name.endswith("data.pkl") else whole.read(name))
    raw = bytearray((tmp_path / "whole.pth").read_bytes())
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + flag] |= 1  # says that it is encrypted
    (tmp_path / "locked.pth").write_bytes(raw)
    for name, words in (
        ("garbage", "is damaged: its list of tensors cannot be read"),
        ("locked", "a zip archive with a password"),
    ):
        with pytest.raises(InputError, match=words):
            read_encoder(tmp_path / f"{name}.pth", "x")


def test_a_network_that_a_file_only_promises_is_not_built(tmp_path, workspace):
    from sslviz.encoders.spec import load_spec
    from tests.inputs import small_encoder

    small_encoder(workspace)
    spec = load_spec(workspace, "tiny")
    told = spec.model_copy(update={"architecture": {**spec.architecture, "blocks": 10**9}})
    save_file({"conv1.weight": torch.ones(8, 3, 3, 3)}, tmp_path / "a.safetensors", {"sslviz": told.model_dump_json()})
    with pytest.raises(InputError, match="0 of 1 tensors"):
        read_encoder(tmp_path / "a.safetensors", "x")
