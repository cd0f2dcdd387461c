"""A compressed encoder to take away: the network that gives only the features of a subset."""

import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sslviz.errors import InputError, RunFailed
from sslviz.jobs import Eps, Seed, Settings, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace, check_name

if TYPE_CHECKING:
    import torch

    from sslviz.encoders.run import Encoder

_ROUNDS = 7
_SAME = 1e-5
"""Largest difference that the kept features may have from the whole encoder's, relative to a row's maximum."""


class ExportSettings(Settings):
    dataset: str = Field(description="data set whose train images rank the features")
    encoder: str = Field(description="encoder in the workspace to cut")
    kind: Literal["discriminative", "random", "lower tail", "upper tail", "D"] = Field(
        "discriminative",
        description="which features stay, as on the compression page; D: the discriminative set at the default percentiles, "
        "whatever the reduction",
    )
    reduction: float = Field(0.4, gt=0, lt=1, description="share of the features that goes")
    eps: Eps = "auto"
    seed: Seed = Field(0, description="random seed of random features")
    name: str | None = Field(None, description="name of the new encoder; default ENCODER-KIND-PERCENT, of D ENCODER-D")

    @property
    def new_name(self) -> str:
        """Name of the encoder this makes."""
        kind = self.kind.replace(" ", "-") + (f"-{self.seed}" if self.kind == "random" else "")
        percent = "" if self.kind == "D" else f"-{100 * self.reduction:g}"
        return self.name or f"{self.encoder}-{kind}{percent}"


@job("export", ExportSettings, example="sslviz export --dataset photos --encoder simclr --reduction 0.4")
def export(settings: ExportSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Make a smaller encoder that outputs only a subset of the features (no labels needed)."""
    import pandas as pd
    import torch

    from sslviz.analysis.compression import subset
    from sslviz.encoders.cut import cut_encoder
    from sslviz.encoders.run import build_encoder
    from sslviz.encoders.spec import load_spec
    from sslviz.encoders.store import check_width, load_weights, save_encoder
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer, whole_file

    name = check_name("encoder", settings.new_name)
    workspace.check_new_encoder(name)
    spec = load_spec(workspace, settings.encoder)
    if spec.backbone == "arrays":
        raise InputError(f'encoder "{spec.name}" was imported as arrays ({spec.source}); there are no weights to cut.')
    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    chosen = embedded.selected(embedded.rows("train"), settings.eps, progress)
    every_d = settings.kind == "D"
    kept = chosen.features if every_d else subset(chosen.shares, settings.kind, settings.reduction, settings.seed)

    progress.stage("cutting the encoder")
    all_weights = load_weights(workspace, spec)
    cut, weights, fewer = cut_encoder(spec, all_weights, kept, name)
    check_width(cut)
    whole, small = build_encoder(spec, all_weights), build_encoder(cut, weights)
    size = spec.input.size
    images = torch.randint(0, 256, (32, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    every, got = whole.embed(images), small.embed(images)
    wanted = every[:, torch.from_numpy(kept)]
    difference = ((wanted - got).abs().amax(1) / every.abs().amax(1).clamp_min(1e-30)).max().item()
    if not difference <= _SAME:
        raise RunFailed(f"encoder {name} differs from {settings.encoder} by {difference:.1g} of a row's maximum; not to be used.")
    before, after = _images_per_second(whole, small, images)
    megabytes = [sum(w.numel() * w.element_size() for w in net.backbone.state_dict().values()) / 1e6 for net in (whole, small)]
    with only_writer(workspace.encoder(name), f"the encoder {name}"):
        workspace.check_new_encoder(name)  # another may have been made meanwhile
        with whole_file(workspace.encoder(name) / "features.csv") as beside:
            pd.DataFrame({"feature": kept, "share": chosen.shares[kept]}).to_csv(beside, index=False)
        save_encoder(workspace, cut, weights)

    how = "its last stage cut to" if fewer else "the whole network, its output cut to"
    words = (
        f"{how} {len(kept)} of {spec.feature_dim} features ({settings.kind}). Measured here: weights {megabytes[1]:.2f} MB "
        f"instead of {megabytes[0]:.2f}, {after / before:.2f} times the images a second, "
        f"{4 * len(kept):,} bytes an embedding instead of {4 * spec.feature_dim:,}."
    )
    return {
        "dataset": settings.dataset,
        "encoder": name,
        "cut_from": settings.encoder,
        "kind": settings.kind,
        "reduction": 1 - len(kept) / spec.feature_dim if every_d else settings.reduction,
        "eps": chosen.eps,
        "n_features": len(kept),
        "of_features": spec.feature_dim,
        "features": kept.tolist(),
        "weights_cut": fewer,
        "weights_mb": megabytes,
        "images_per_second": [before, after],
        "bytes_per_embedding": [4 * spec.feature_dim, 4 * len(kept)],
        "difference": difference,
        "words": words,
        "folder": str(workspace.encoder(name)),
    }


def _images_per_second(first: "Encoder", second: "Encoder", images: "torch.Tensor") -> tuple[float, float]:
    """Speed of two encoders on this machine, the fastest of rounds in turns."""
    best = [0.0, 0.0]
    for _ in range(_ROUNDS):
        for which, encoder in enumerate((first, second)):
            start = time.perf_counter()
            encoder.embed(images)
            best[which] = max(best[which], len(images) / (time.perf_counter() - start))
    return best[0], best[1]
