"""The encoders that are had by name, against the authors' READMEs and against what is shipped."""

import json

import pytest
import torch
from safetensors import safe_open

from sslviz.data.demo import files
from sslviz.encoders.add import add_encoder
from sslviz.encoders.store import load_weights, read_head
from sslviz.jobs.import_encoder import published
from sslviz.methods import METHODS
from sslviz.methods.heads import put_together
from sslviz.store.fingerprints import file_digest

LIGHTLY = "https://lightly-ssl-checkpoints.s3.amazonaws.com/imagenet_resnet50_{}/pretrain/version_0/checkpoints/epoch%3D99-step%3D{}.ckpt"
FACEBOOK = "https://dl.fbaipublicfiles.com/{}"
USUAL, SWAV = (0.229, 0.224, 0.225), (0.228, 0.224, 0.225)
ROWS = {
    ("barlow_twins", LIGHTLY.format("barlowtwins_2023-08-18_00-11-03", 500400), 62.9, USUAL),
    ("byol", LIGHTLY.format("byol_2024-02-14_16-10-09", 500400), 62.5, USUAL),
    ("dino", LIGHTLY.format("dino_2023-06-06_13-59-48", 1000900), 68.2, USUAL),
    ("moco", LIGHTLY.format("mocov2_2024-02-18_10-29-14", 500400), 61.5, USUAL),
    ("simclr", LIGHTLY.format("simclr_2023-06-22_09-11-13", 500400), 63.2, USUAL),
    ("swav", LIGHTLY.format("swav_2023-05-25_08-29-14", 500400), 67.2, USUAL),
    ("vicreg", LIGHTLY.format("vicreg_2023-09-11_10-53-08", 500400), 63.0, USUAL),
    ("simsiam", FACEBOOK.format("simsiam/models/100ep/pretrain/checkpoint_0099.pth.tar"), 68.1, USUAL),
    ("simsiam", FACEBOOK.format("simsiam/models/100ep-256bs/pretrain/checkpoint_0099.pth.tar"), 68.3, USUAL),
    ("moco", FACEBOOK.format("moco/moco_checkpoints/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar"), 67.7, USUAL),
    ("moco", FACEBOOK.format("moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"), None, USUAL),
    ("swav", FACEBOOK.format("deepcluster/swav_800ep_pretrain.pth.tar"), 75.3, SWAV),
    ("swav", FACEBOOK.format("deepcluster/swav_400ep_2x224_pretrain.pth.tar"), 70.1, SWAV),
    ("dino", FACEBOOK.format("dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"), 75.3, USUAL),
    ("vicreg", FACEBOOK.format("vicreg/resnet50.pth"), 73.2, USUAL),
    ("barlow_twins", FACEBOOK.format("barlowtwins/ljng/resnet50.pth"), 73.5, USUAL),
}


def test_published_encoders_are_those_of_the_readmes():
    found = published()
    assert {(method, c.url, c.top1, tuple(c.std)) for method, c in found} == ROWS
    assert len({c.name for _, c in found}) == len(found) == 16
    for _, c in found:
        assert ("non-commercial" in c.licence) == ("fbaipublicfiles" in c.url)


def shipped(method):
    return files.shipped() / "encoders" / f"{method.replace('_', '-')}-demo"


@pytest.mark.parametrize("method", list(METHODS))
def test_each_method_ships_an_encoder_with_its_head_and_card(workspace, method):
    folder = shipped(method)
    assert sum((folder / f"{part}.safetensors").stat().st_size for part in ("weights", "head")) <= 3_000_000
    for part in ("weights", "head"):
        with safe_open(folder / f"{part}.safetensors", "pt") as handle:
            kinds = {handle.get_tensor(name).dtype for name in handle.keys()}  # noqa: SIM118 (not a dict)
        assert kinds <= {torch.float16, torch.int64}
    spec, _ = add_encoder(workspace, str(folder / "weights.safetensors"), folder.name)
    assert (spec.feature_dim, spec.input.size, spec.method) == (512, 64, method)
    head = read_head(workspace.encoder(spec.name) / "head.safetensors")
    trained, made, _ = put_together(spec, load_weights(workspace, spec), head)
    assert made.method == method
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.state_dict().values())

    card = json.loads((folder / "card.json").read_text())
    assert f"--method {method} " in card["command"] + " " or method == "simclr"  # the default
    assert "--epochs 220" in card["command"]
    assert len(card["curve"]["loss"]) == card["epochs"] == 220
    assert card["sha256"] == file_digest(folder / "weights.safetensors")
    assert card["rank_me"] > 20  # not collapsed
    assert 0 <= card["zeros"] < 1
    assert card.keys() >= {"top1", "eps", "mean_share", "empty_share", "verdict", "report"}
    assert card["report"].keys() >= {"q", "q_paper", "msp", "nn1", "nn10", "norm", "std"}


def test_all_that_is_shipped_is_small():
    parts = [path for path in (files.shipped() / "encoders").rglob("*") if path.is_file()]
    assert 8 * 500_000 < sum(path.stat().st_size for path in parts) <= 25_000_000
