"""Train a linear probe on the embeddings: which images does the encoder let a linear classifier get right?"""

from typing import Any

from pydantic import Field

from sslviz.errors import InputError, shown
from sslviz.jobs import Settings, job
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace


class ProbeSettings(Settings):
    dataset: str = Field(description="data set in the workspace, or a folder of images")
    encoder: str = Field(description="encoder in the workspace, or a checkpoint file")
    l2: float | None = Field(None, ge=0, description="L2 strength on standardised features; default chosen on a fifth of train")
    train_predictions: bool = Field(False, description="also judge train images, by 5-fold out-of-fold predictions")
    seed: int = Field(0, ge=0, description="of folds")


@job("probe", ProbeSettings, example="sslviz probe --dataset photos --encoder simclr")
def probe(settings: ProbeSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Fit a linear probe on the train embeddings and say which images it gets right (needs labels)."""
    import numpy as np
    import pandas as pd

    from sslviz.analysis.probe import linear_probe, out_of_fold
    from sslviz.jobs.inputs import available_memory, open_embedded
    from sslviz.store.files import only_writer, whole_file
    from sslviz.store.results import save_result

    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    samples = embedded.samples
    train = samples[samples["split"] == "train"]
    counts = train.loc[train["label"] >= 0, "label"].value_counts()
    if len(counts) < 2:
        there = f"has {len(counts)}" if embedded.dataset.has_labels else "has no labels"
        raise InputError(f'a probe needs two classes with train images; data set "{settings.dataset}" {there}.')
    need = len(train) * int(embedded.store.meta["width"]) * 16  # float32 rows, their float64 moments, standardised rows
    if need > available_memory():
        raise InputError(
            f"a probe on {len(train):,} train rows needs about {need / 1e9:.1f} GB of memory, more than is free. "
            f"Take fewer classes (--classes) or a larger machine."
        )
    notes = []
    lonely = [embedded.dataset.titles[k] for k, n in zip(counts.index.tolist(), counts, strict=True) if n == 1]
    if lonely:
        notes.append(f"{len(lonely)} classes have one train image only: {shown(lonely)}")
    others = samples[samples["split"] != "train"]
    progress.stage("reading embeddings")
    H, y = embedded.store.read(train["row"].to_numpy()), train["label"].to_numpy()
    H_other = embedded.store.read(others["row"].to_numpy()) if len(others) else H[:1]
    y_other = others["label"].to_numpy() if len(others) else y[:1]
    progress.stage("fitting the probe")
    fit = while_checking(lambda: linear_probe(H, y, H_other, y_other, settings.l2, seed=settings.seed), progress)
    tables = []
    if len(others):
        tables.append(_predictions(others, fit.predictions, fit.probabilities, fit.classes))
    folds = settings.train_predictions or embedded.judged_on is None
    if folds:
        progress.stage("predicting train images out of fold")
        if counts.min() < 5:
            few = [embedded.dataset.titles[k] for k, n in zip(counts.index.tolist(), counts, strict=True) if n < 5]
            notes.append(f"{len(few)} classes have fewer than 5 train images, so not every fold has them: {shown(few)}")
        predictions, probabilities = while_checking(lambda: out_of_fold(H, y, fit.l2, seed=settings.seed), progress)
        tables.append(_predictions(train, predictions, probabilities, np.unique(y[y >= 0])))
    table = pd.concat(tables, ignore_index=True)
    split = embedded.judged_on or "train"
    judged = table[(table["split"] == split) & table["correct"].notna()]
    n_unknown = int(((table["split"] == split) & table["correct"].isna()).sum())
    if n_unknown:
        notes.append(f"{n_unknown} {split} images have no label that the probe knows and are left out of its accuracy")
    if not fit.converged:
        notes.append(f"the solver stopped after {fit.iterations} iterations without converging")
    for note in notes:
        progress.warn(note)
    summary = {
        "top1": float(judged["correct"].astype(bool).mean()) if len(judged) else None,
        "judged_on": split,
        "out_of_fold": split == "train",
        "n_judged": len(judged),
        "n_unknown": n_unknown,
        "n_classes": len(fit.classes),
        "l2": fit.l2,
        "converged": fit.converged,
        "iterations": fit.iterations,
        "n_constant": fit.n_constant,
        "notes": notes,
    }
    folder = workspace.results(settings.dataset, settings.encoder, "probe")
    with only_writer(folder, f"the probe of {settings.dataset} on {settings.encoder}"):
        plain = settings.model_dump(mode="json", exclude={"dataset", "encoder"})
        result = save_result(folder, plain, embedded.inputs, {"predictions": table}, summary)
        with whole_file(result.folder / "weights.npz") as beside, beside.open("wb") as handle:
            np.savez(handle, weights=fit.weights, bias=fit.bias, classes=fit.classes)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}


def _predictions(samples: Any, predictions: Any, probabilities: Any, classes: Any) -> Any:
    """sample_id, split, label, prediction, correct (missing where the class is unknown), confidence, top-5 classes and shares."""
    import numpy as np

    k = min(5, len(classes))
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    table = samples[["sample_id", "split", "label"]].reset_index(drop=True)
    table["prediction"] = predictions
    known = table["label"].isin(classes)
    table["correct"] = (table["prediction"] == table["label"]).astype("boolean").mask(~known)
    table["confidence"] = probabilities.max(1)
    table["top5"] = list(classes[top])
    table["top5_probability"] = list(np.take_along_axis(probabilities, top, 1))
    return table
