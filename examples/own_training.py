"""Monitor and regularise a self-supervised training loop of your own: SimCLR in Lightning, with lightly's parts.

    python examples/own_training.py ~/photos --epochs 20

The first half is plain SimCLR; then the discriminative features are chosen and the Q-Score regulariser joins the loss. After
every epoch the monitor logs, without labels, mean Q-Score, empty sets and RankMe of a fixed set of images.
"""

import argparse

import lightning.pytorch as pl
import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch.utils.data import DataLoader, Subset
from torchvision.models import resnet18
from torchvision.transforms import v2

import sslviz

SIZE, WATCHED = 64, 512


class SimCLR(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18()
        self.backbone.fc = torch.nn.Identity()
        self.head = SimCLRProjectionHead(512, 512, 128)
        self.criterion = NTXentLoss(temperature=0.5)
        self.regulariser: sslviz.Regulariser | None = None

    def training_step(self, batch: list, _: int) -> torch.Tensor:
        features = self.backbone(torch.cat(batch[0]))
        loss = self.criterion(*self.head(features).chunk(2))
        if self.regulariser is not None:
            terms = self.regulariser(features)
            loss = loss + terms.q_term + terms.l1_term
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)


class Printed(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        numbers = ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"epoch {trainer.current_epoch + 1}: {numbers}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    pl.seed_everything(0)

    normalised = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    plain = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalised])
    views = LightlyDataset(arguments.images, transform=SimCLRTransform(input_size=SIZE))
    whole = LightlyDataset(arguments.images, transform=plain)
    watched = DataLoader(Subset(whole, torch.randperm(len(whole))[:WATCHED].tolist()), batch_size=64)
    training = DataLoader(views, batch_size=min(arguments.batch_size, len(views)), shuffle=True, drop_last=True)

    model = SimCLR()
    monitor = sslviz.QScoreMonitor(watched)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    half = arguments.epochs // 2
    pl.Trainer(max_epochs=half, callbacks=[monitor, Printed()], **options).fit(model, training)

    model.eval()
    with torch.no_grad():
        H = torch.cat([model.backbone(images) for images, *_ in watched])
    model.regulariser = sslviz.Regulariser(sslviz.select_features(H, eps="auto"))
    print(f"{len(model.regulariser.selection.features)} of {H.shape[1]} features are discriminative")
    pl.Trainer(max_epochs=arguments.epochs - half, callbacks=[monitor, Printed()], **options).fit(model.train(), training)


if __name__ == "__main__":
    main()
