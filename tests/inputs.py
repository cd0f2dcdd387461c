"""Small inputs that tests build for themselves: pictures, folders, encoders."""

import io

import numpy as np
import torch
from PIL import Image

from sslviz.encoders.backbones.small_resnet import SmallResNet
from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.encoders.store import save_encoder


def picture(seed=0, width=32, height=32, kind=0):
    """A noisy picture with a pattern of its kind (stripes, blob, ramp, checks); no symmetry."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = {
        0: np.sin(x * 0.8 + rng.uniform(0, 6)) > 0,
        1: np.hypot(x - width * 0.4, y - height * 0.6) < min(width, height) * 0.3,
        2: x * height > y * width,
        3: (x // 4 + y // 4) % 2 == 0,
    }[kind % 4]
    ink, paper = rng.uniform(0, 1, (2, 3))
    rgb = np.where(base[..., None], ink, paper) + rng.normal(0, 0.05, (height, width, 3))
    rgb[:4, : width // 3] = (0.9, 0.1, 0.1)  # a flag in one corner: shows every turn
    return Image.fromarray((rgb.clip(0, 1) * 255).astype(np.uint8))


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def folder(root, layout, side=32, seed=0):
    """layout {"train/cat": 5, ...}: that many PNG files below each folder."""
    for k, (place, count) in enumerate(layout.items()):
        (root / place).mkdir(parents=True, exist_ok=True)
        kind = sorted({p.rsplit("/", 1)[-1] for p in layout}).index(place.rsplit("/", 1)[-1])
        for i in range(count):
            picture(seed + 1000 * k + i, side, side, kind).save(root / place / f"{i:03d}.png")
    return root


def small_encoder(workspace, name="tiny", seed=0, width=8, feature_dim=32, size=32):
    """An untrained small ResNet with BatchNorm statistics of real pictures, stored in the workspace."""
    torch.manual_seed(seed)
    net = SmallResNet(width=width, blocks=1, feature_dim=feature_dim)
    images = torch.stack([pixels(picture(i, size, size, i)) for i in range(32)]).float() / 255
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics are those of the one batch that follows
    with torch.no_grad():
        net((images - 0.5) / 0.25)
    spec = EncoderSpec(
        name=name,
        backbone="small_resnet",
        architecture={"width": width, "blocks": 1, "stem_stride": 1, "feature_dim": feature_dim},
        feature_dim=feature_dim,
        input=InputSpec(size=size, resize=size, mean=(0.5,) * 3, std=(0.25,) * 3),
        source="test",
    )
    return save_encoder(workspace, spec, net.state_dict())


def pixels(image):
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def planted(n=240, d=64, classes=4, seed=0):
    """Sparse non-negative embeddings with one block of features a class, and their labels; some rows are dim (hard)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    H = np.maximum(rng.normal(0, 0.3, (n, d)), 0)
    strength = rng.uniform(0.2, 3, n)
    for i in range(n):
        block = np.arange(y[i] * 8, y[i] * 8 + 8)
        H[i, rng.choice(block, 3, replace=False)] += strength[i]
    return H.astype(np.float32), y


def photographs(root, n=12, side=96):
    """Real photographs: crops of the two that scikit-learn ships, as JPEG files below train/ and test/, one folder a class."""
    from sklearn.datasets import load_sample_images

    shipped = load_sample_images()
    rng = np.random.default_rng(0)
    for name, whole in zip(("china", "flower"), shipped.images, strict=True):
        for split, count in (("train", n), ("test", n // 2)):
            place = root / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                size = int(rng.integers(120, 240))
                y, x = rng.integers(0, whole.shape[0] - size), rng.integers(0, whole.shape[1] - size)
                crop = Image.fromarray(whole[y : y + size, x : x + size]).resize((side, side * 3 // 4 + int(rng.integers(24))))
                crop.save(place / f"{i:03d}.jpg", quality=90)
    return root


def demo_part(workspace, n_train=120, n_test=60, name="demo"):
    """The first pictures of the shipped demo set as a data set of this workspace, and the shipped SimCLR encoder."""
    import pyarrow.parquet as pq

    from sslviz.data.dataset import add_folder
    from sslviz.data.demo import files
    from sslviz.data.masks import save_packed
    from sslviz.encoders.add import add_encoder
    from sslviz.progress import Progress

    source = workspace.root / "part"
    source.mkdir()
    for file, n in (("train.parquet", n_train), ("test.parquet", n_test), ("counterfactuals.parquet", 5 * n_test)):
        pq.write_table(pq.read_table(files.shipped() / file).slice(0, n), source / file)
    folder = workspace.dataset(name)
    dataset, _ = add_folder(workspace, name, files.unpack(source, folder, Progress()))
    save_packed(dataset, files.packed_masks(source))
    add_encoder(workspace, str(files.shipped() / "encoders" / "simclr-demo" / "weights.safetensors"), "simclr-demo")
    return dataset


def embedded_photos(workspace, root, n_train, n_val):
    """Two classes of small pictures as data set "photos", embedded by an untrained small encoder "tiny"."""
    from sslviz.data.dataset import add_folder
    from sslviz.jobs.embed import EmbedSettings, embed
    from sslviz.progress import Progress

    add_folder(
        workspace,
        "photos",
        folder(root, {f"{s}/{c}": n for s, n in (("train", n_train), ("val", n_val)) for c in ("disc", "ring")}),
    )
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    return root
