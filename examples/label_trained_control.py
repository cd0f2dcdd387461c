"""Train the demo's control: the demo encoders' network, on the same images, with labels.

    python examples/label_trained_control.py --workspace workspace --epochs 60 --name my-control

It answers "is it the set, or the training, that makes a Q-Score work here?" and is shown beside the self-supervised encoders.
"""

import argparse

import torch
import torch.nn.functional as F

from sslviz.data.dataset import load
from sslviz.data.loading import load_pixels
from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.encoders.store import save_encoder
from sslviz.methods import Views
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace
from sslviz.training.loop import Schedule, learning_rate
from sslviz.training.views import crop, draw_crops, recolour

ARCHITECTURE = {"width": 24, "blocks": 2, "stem_stride": 2, "feature_dim": 512}
VIEWS = Views(n_views=1, scale=(0.3, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))
SIZE, BATCH, LR, SEED = 64, 128, 0.1, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--name", required=True, help="of the encoder; one of that name is replaced")
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    dataset = load(workspace, arguments.dataset)
    train = dataset.samples[dataset.samples["split"] == "train"]
    images, _ = load_pixels(dataset.root, train["sample_id"].tolist(), SIZE, 2, Progress())
    labels = torch.tensor(train["label"].to_numpy())
    pixels = images.float().div(255)
    mean, std = ([round(float(v), 4) for v in stat] for stat in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))))

    torch.manual_seed(SEED)
    backbone = BACKBONES["small_resnet"].build(ARCHITECTURE).to(memory_format=torch.channels_last)
    classifier = torch.nn.Linear(ARCHITECTURE["feature_dim"], len(dataset.classes))
    parameters = [*backbone.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(images) // BATCH
    schedule = Schedule(arguments.epochs, BATCH, LR, 3, SEED)
    shift, scale = (torch.tensor(v)[:, None, None] for v in (mean, std))
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        total = 0.0
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            at = epoch * steps + step
            generator = torch.Generator().manual_seed(at)
            (cut,) = draw_crops(BATCH, VIEWS, SIZE, generator)
            (view,) = recolour([crop(images[rows].float().div(255), cut)], VIEWS, generator)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(at, steps, schedule)
            with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
                logits = classifier(backbone(((view - shift) / scale).contiguous(memory_format=torch.channels_last)))
            loss = F.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {arguments.epochs}: loss {total / steps:.3f}", flush=True)
    spec = EncoderSpec(
        name=arguments.name,
        backbone="small_resnet",
        architecture=ARCHITECTURE,
        feature_dim=ARCHITECTURE["feature_dim"],
        input=InputSpec(size=SIZE, resize=SIZE, mean=mean, std=std),
        method="supervised",
        network="backbone",
        source=f"examples/label_trained_control.py on {dataset.name} ({len(images):,} images, labels), {arguments.epochs} epochs",
    )
    save_encoder(workspace, spec, backbone.state_dict())


if __name__ == "__main__":
    main()
