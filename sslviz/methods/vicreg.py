"""VICReg: two views agree, every output varies over the batch, and no two outputs co-vary."""

from lightly.loss import VICRegLoss
from lightly.models.modules import BarlowTwinsProjectionHead

from sslviz.encoders.catalogue import authors, lightly
from sslviz.methods import METHODS, Compared, Options, Recipe, Views


@METHODS.register("vicreg")
class VICReg(Compared):
    """Published (ImageNet): expander three layers of 8192; weights 25, 25, 1 of the three terms, as here."""

    branch = "encoder"
    paper = "Bardes et al., ICLR 2022, arXiv 2105.04906"
    views = Views(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur=(0.5, 0.5), solarise=(0.1, 0.1))  # appendix C.1
    recipe = Recipe(
        base_lr=0.02,
        source="ours: SGD at a rate as much lower as the loss is larger (the paper: LARS, 0.2 per 256 images)",
    )
    options = Options(hidden_dim=512, output_dim=512)
    checkpoints = (
        lightly("vicreg", "vicreg_2023-09-11_10-53-08", 63.0),
        authors("vicreg", "vicreg/resnet50.pth", "1000 epochs; backbone only", 73.2),
    )

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = BarlowTwinsProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.criterion = VICRegLoss(*(options.terms or (25.0, 25.0, 1.0)), gather_distributed=True)
