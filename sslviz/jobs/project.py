"""Arrange the images of a data set on a map, by their embeddings."""

from typing import Any

from pydantic import Field

from sslviz.jobs import EmbeddedDataset, Seed, Settings, StoredEncoder, job
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace


class ProjectSettings(Settings):
    dataset: EmbeddedDataset
    encoder: StoredEncoder
    neighbours: int = Field(15, ge=2, le=200, description="UMAP: few show small groups, many the whole")
    min_dist: float = Field(0.1, ge=0, le=1, description="UMAP: how close points may lie")
    seed: Seed = Field(0, description="random seed of sample, PCA and UMAP")


@job("project", ProjectSettings, example="sslviz project --dataset photos --encoder simclr")
def project(settings: ProjectSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Arrange all images on a map by their embeddings: PCA, then UMAP."""
    import numpy as np

    from sslviz.analysis.projection import MAX_FIT_ROWS, Projection
    from sslviz.jobs.inputs import open_embedded, sampled
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    samples, store, inputs = embedded.samples, embedded.store, embedded.inputs
    rows = samples["row"].to_numpy()
    fitted = sampled(rows, MAX_FIT_ROWS, settings.seed)
    if len(fitted) < len(rows):
        progress.warn(f"the map is fitted on {MAX_FIT_ROWS:,} images (seeded sample); the others are placed on it")
    xy = np.full((int(rows.max()) + 1, 2), np.nan, np.float32)
    projection = Projection(settings.neighbours, settings.min_dist, settings.seed)
    progress.stage("arranging", len(rows))
    xy[fitted] = while_checking(lambda: projection.fit(store.read(fitted)), progress)
    progress.advance(len(fitted))
    if len(fitted) < len(rows):
        for at, block in store.blocks(np.setdiff1d(rows, fitted)):
            xy[at] = while_checking(lambda block=block: projection.transform(block), progress)  # type: ignore[misc]
            progress.advance(len(at))
    if projection.method == "pca":
        progress.warn(
            f"only {projection.n_different} different embeddings: the two main directions (PCA) stand in for UMAP, "
            "which needs at least 16"
        )
    table = samples[["sample_id", "split"]].assign(x=xy[rows, 0], y=xy[rows, 1])
    summary = {
        "n": len(rows),
        "n_fitted": len(fitted),
        "method": projection.method,
        "n_different": projection.n_different,
        "neighbours": settings.neighbours,
        "min_dist": settings.min_dist,
    }
    folder = workspace.results(settings.dataset, settings.encoder, "project")
    with only_writer(folder, f"the map of {settings.dataset} by {settings.encoder}"):
        plain = settings.model_dump(mode="json", exclude={"dataset", "encoder"})
        save_result(folder, plain, inputs, {"map": table}, summary)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}
