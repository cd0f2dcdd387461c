"""`embed` end to end against what it cannot beat: the bare forward pass on tensors in memory, and decoding alone.

python -m benchmarks.embed_speed
"""

import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe, timed
from sslviz.data.dataset import add_folder, load
from sslviz.data.demo import files
from sslviz.data.loading import ahead, read_picture
from sslviz.encoders.add import add_encoder
from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.encoders.store import save_encoder
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

RESNET18 = {"block": "basic", "layers": [2, 2, 2, 2], "width_per_group": 64, "stem": "7x7", "stem_padding": 3}
SMALL = {"width": 32, "blocks": 2, "stem_stride": 2, "feature_dim": 512}


def pictures(root: Path, n: int, width: int, height: int) -> None:
    """Smooth random pictures, about as compressible as photographs."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 255, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        (root / "train" / f"c{i % 4}").mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        (root / "train" / f"c{i % 4}" / f"{i:05d}.jpg").write_bytes(buffer.getvalue())


def compare(title: str, family: str, architecture: dict, size: int, resize: int, n: int, picture_size: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace").create()
        root = Path(folder) / "pictures"
        pictures(root, n, *picture_size)
        net = BACKBONES[family].build(architecture)
        dim = int(net.eval()(torch.zeros(1, 3, size, size)).shape[1])
        spec = EncoderSpec(
            name="e", backbone=family, architecture=architecture, feature_dim=dim, input=InputSpec(size=size, resize=resize)
        )
        save_encoder(workspace, spec, net.state_dict())
        add_folder(workspace, "p", root)
        measure(title, workspace, "p", "e")


def measure(title: str, workspace: Workspace, name: str, encoder_name: str) -> None:
    """Embed a data set that has not been embedded yet, beside the bare forward pass and the bare decoding of its pictures."""
    dataset, encoder = load(workspace, name), load_encoder(workspace, encoder_name)
    size, resize, root = encoder.spec.input.size, encoder.spec.input.resize, dataset.root
    batch = torch.randint(0, 255, (64, 3, size, size), dtype=torch.uint8)
    encoder.embed(batch)
    forward = min(timed(lambda: [encoder.embed(batch) for _ in range(3)]) for _ in range(3)) / (3 * 64)
    ids = dataset.samples["sample_id"].tolist()

    def decode_all() -> None:
        for _ in ahead(lambda s: read_picture(root / s, resize, size), ids, 2, 256):
            pass

    decode = min(timed(decode_all) for _ in range(2)) / len(ids)
    start = time.monotonic()
    embed(EmbedSettings(dataset=name, encoder=encoder_name), workspace, Progress())
    whole = (time.monotonic() - start) / len(ids)
    print(
        f"{title}: embed {1 / whole:.0f} images/s, forward alone {1 / forward:.0f}, decode alone {1 / decode:.0f}; "
        f"of forward {forward / whole:.2f}, of forward and decode apart {(forward + decode) / whole:.2f}"
    )


def demo() -> None:
    """The shipped demo set and its encoder."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder).create()
        add_folder(workspace, "demo", files.unpack(files.shipped(), workspace.dataset("demo"), Progress()))
        add_encoder(workspace, str(files.shipped() / "encoders" / "simclr-demo" / "weights.safetensors"), "simclr-demo")
        measure("the demo, its SimCLR encoder at 64, WebP of 96x96", workspace, "demo", "simclr-demo")


def main() -> None:
    print(describe())
    demo()
    compare("ResNet-18 at 224, pictures of 320x240", "resnet", RESNET18, 224, 256, 2048, (320, 240))
    compare("small ResNet at 32, pictures of 32x32", "small_resnet", SMALL, 32, 32, 60_000, (32, 32))


if __name__ == "__main__":
    main()
