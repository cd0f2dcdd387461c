"""Maps of K features of 64 pictures by ResNet-18 at 224 pixels, upsampled: ours from one forward pass, against Captum's
LayerGradCam, one forward and backward pass a feature (measured on a few features and scaled).

python -m benchmarks.heatmaps [--device cuda]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn
from torchvision.models import resnet18

from benchmarks.machine import describe
from sslviz import feature_maps
from sslviz.heatmaps import enlarge

N, SIZE, MEASURED = 64, 224, 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    net = resnet18().eval().to(device)
    net.fc = nn.Identity()
    images = torch.randn(N, 3, SIZE, SIZE, device=device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def captum(features: range) -> None:
        cam = LayerGradCam(net, net.layer4)
        for j in features:
            maps = cam.attribute(images, target=j).detach()
            F.interpolate(maps, size=(SIZE, SIZE), mode="bilinear", align_corners=False)

    def ours(features: range) -> None:
        maps = feature_maps(net, images, list(features))
        for part in maps.split(2, 1):  # 500 maps of 64 pictures at full size would be 6.4 GB
            enlarge(part, (SIZE, SIZE))

    def timed(work, features: range) -> float:
        wait()
        start = time.perf_counter()
        work(features)
        wait()
        return time.perf_counter() - start

    print(describe(), f"device {device.type}")
    captum(range(1))
    ours(range(1))
    for k in (50, 500):
        rounds = [(timed(captum, range(MEASURED)) / MEASURED, timed(ours, range(k))) for _ in range(4)]  # in turns
        a_feature, mine = (min(seconds) for seconds in zip(*rounds, strict=True))
        ratio = a_feature * k / mine
        print(
            f"{k} features: ours {mine:.2f} s, Captum {a_feature * k:.0f} s ({MEASURED} measured, scaled): ratio {ratio:.0f}, "
            f"{ratio / k:.2f} K"
        )


if __name__ == "__main__":
    main()
