"""What a published encoder's entry says. Each method lists its own (sslviz/methods); jobs/import_encoder.py joins the lists."""

from dataclasses import dataclass

from sslviz.encoders.spec import IMAGENET_STD

LIGHTLY = "https://lightly-ssl-checkpoints.s3.amazonaws.com/"
META = "https://dl.fbaipublicfiles.com/"
SWAV_STD = (0.228, 0.224, 0.225)
LAST_LIGHTLY = "/pretrain/version_0/checkpoints/epoch%3D99-step%3D500400.ckpt"

_META_LICENCE = "see the authors' repository; non-commercial unless checked"


@dataclass(frozen=True)
class Checkpoint:
    """One file that its authors offer: a ResNet-50 of 2048 features, pre-trained on ImageNet-1K."""

    name: str
    url: str
    recipe: str
    top1: float | None
    """Percent, linear probe on ImageNet-1K, as the source states it; None where it states none."""
    licence: str
    std: tuple[float, float, float] = IMAGENET_STD


def lightly(method: str, folder: str, top1: float, last: str = LAST_LIGHTLY) -> Checkpoint:
    """A checkpoint of lightly's ImageNet benchmarks: batch 256, 100 epochs."""
    recipe = "lightly: 100 epochs, batch 256"
    licence = "code MIT; weights: not stated"
    return Checkpoint(f"{method}-lightly", f"{LIGHTLY}imagenet_resnet50_{folder}{last}", recipe, top1, licence)


def authors(name: str, path: str, recipe: str, top1: float | None, std: tuple[float, float, float] = IMAGENET_STD) -> Checkpoint:
    """A checkpoint from the authors of the method."""
    return Checkpoint(name, META + path, f"authors: {recipe}", top1, _META_LICENCE, std)
