"""Memory of a step of the recipes in recipes/: what is kept for the backward pass, measured on a few images and scaled.

python -m benchmarks.recipes
"""

import json
from pathlib import Path

import torch
import torchvision

from sslviz.methods import METHODS
from sslviz.training.estimate import step_cost

RECIPES = {"imagenet100-resnet18": ("resnet18", "simclr"), "imagenet1k-resnet50": ("resnet50", "simclr")}


def main() -> None:
    print("| recipe | backbone | images a step | over | memory a process, float32 |")
    print("|---|---|---|---|---|")
    for name, (architecture, method_name) in RECIPES.items():
        settings = json.loads((Path("recipes") / f"{name}.json").read_text())["settings"]
        kind = METHODS[method_name]
        backbone = getattr(torchvision.models, architecture)()
        width = backbone.fc.in_features
        backbone.fc = torch.nn.Identity()
        method = kind(backbone, width, kind.options, 2)
        share = settings["batch_size"] // settings["processes"]
        cost = step_cost(method, kind.views, 224, share, torch.device("cpu"))
        print(
            f"| {name} | {architecture} | {settings['batch_size']:,} | {settings['processes']} processes | "
            f"{cost.bytes / 1e9:.1f} GB |"
        )


if __name__ == "__main__":
    main()
