"""The whole way from images and an encoder to Q-Scores: embed, probe where there are labels, score."""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.jobs import AnyDataset, BatchSize, ChunkRows, Device, Eps, Settings, Workers, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from sslviz.jobs.score import ScoreSettings


class AnalyzeSettings(Settings):
    dataset: AnyDataset
    encoder: str = Field(
        description="encoder in the workspace, a checkpoint file, a name of sslviz encoders, timm:NAME or hf:OWNER/REPO(/FILE)"
    )
    eps: Eps = "auto"
    batch_size: BatchSize = 64
    chunk_rows: ChunkRows = None
    workers: Workers = None
    project: bool = Field(False, description="also make the map")
    device: Device = "auto"


@job("analyze", AnalyzeSettings, example="sslviz analyze --images photos/ --encoder simclr.ckpt")
def analyze(settings: AnalyzeSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Register, embed, train a probe if there are labels, score, list the lowest scores; run again to resume."""
    from sslviz.jobs.score import ScoreSettings

    scoring = ScoreSettings(dataset=settings.dataset, encoder=settings.encoder, eps=settings.eps)
    embedding = settings.model_dump(include={"batch_size", "chunk_rows", "workers", "device"})
    return analyzed(scoring, workspace, progress, settings.project, **embedding)


def analyzed(
    scoring: "ScoreSettings", workspace: Workspace, progress: Progress, with_map: bool, **embedding: Any
) -> dict[str, Any]:
    """Embed with these settings, probe, score, and make the map where it is wanted."""
    from sslviz.data import dataset as datasets
    from sslviz.encoders.spec import load_spec
    from sslviz.jobs.embed import EmbedSettings, embed
    from sslviz.jobs.project import ProjectSettings, project
    from sslviz.jobs.score import score

    names = {"dataset": scoring.dataset, "encoder": scoring.encoder}
    workspace.existing_encoder(scoring.encoder)
    has_weights = load_spec(workspace, scoring.encoder).backbone != "arrays"
    if has_weights and datasets.load(workspace, scoring.dataset).root is not None:
        embedded: dict[str, Any] = embed(EmbedSettings(**names, **embedding), workspace, progress)
    else:
        embedded = {}
    scored = score(scoring, workspace, progress)
    if with_map:
        project(ProjectSettings(**names), workspace, progress)
    kept = {k: embedded[k] for k in ("computed", "kept", "bad", "images_per_second", "input") if k in embedded}
    return {**scored, "embed": kept}
