"""The whole way from images and an encoder to Q-Scores: embed, probe where there are labels, score."""

from typing import Any, Literal

from pydantic import Field

from sslviz.jobs import AnyDataset, Eps, Settings, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace


class AnalyzeSettings(Settings):
    dataset: AnyDataset
    encoder: str = Field(
        description="encoder in the workspace, a checkpoint file, a name of sslviz encoders, timm:NAME or hf:OWNER/REPO(/FILE)"
    )
    eps: Eps = "auto"
    batch_size: int = Field(64, ge=1, le=4096, description="images per forward pass")
    chunk_rows: int | None = Field(
        None, ge=1, description="rows per chunk on disk; default a twentieth of all, but at least 256 and at most 16 MB"
    )
    workers: int | None = Field(
        None, ge=1, le=128, description="threads that read and decode images; default as many as cores, 2 to 16"
    )
    project: bool = Field(False, description="also make the map")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto takes a GPU if there is one")


@job("analyze", AnalyzeSettings, example="sslviz analyze --images photos/ --encoder simclr.ckpt")
def analyze(settings: AnalyzeSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Register, embed, train a probe if there are labels, score, list the lowest scores; run again to resume."""
    from sslviz.data import dataset as datasets
    from sslviz.encoders.spec import load_spec
    from sslviz.jobs.embed import EmbedSettings, embed
    from sslviz.jobs.project import ProjectSettings, project
    from sslviz.jobs.score import ScoreSettings, score

    names = {"dataset": settings.dataset, "encoder": settings.encoder}
    workspace.existing_encoder(settings.encoder)
    has_weights = load_spec(workspace, settings.encoder).backbone != "arrays"
    if has_weights and datasets.load(workspace, settings.dataset).root is not None:
        passed = settings.model_dump(include={"batch_size", "chunk_rows", "workers", "device"})
        embedded: dict[str, Any] = embed(EmbedSettings(**names, **passed), workspace, progress)
    else:
        embedded = {}
    scored = score(ScoreSettings(**names, eps=settings.eps), workspace, progress)
    if settings.project:
        project(ProjectSettings(**names), workspace, progress)
    kept = {k: embedded[k] for k in ("computed", "kept", "bad", "images_per_second", "input") if k in embedded}
    return {**scored, "embed": kept}
