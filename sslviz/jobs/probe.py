"""Train a linear probe on the embeddings: which images does the encoder let a linear classifier get right?"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sslviz.errors import InputError, shown
from sslviz.jobs import EmbeddedDataset, Seed, Settings, StoredEncoder, job
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from sslviz.analysis.softmax import Design, Fit
    from sslviz.jobs.inputs import Embedded

_MOST_PROBABILITIES = 20_000_000


class ProbeSettings(Settings):
    dataset: EmbeddedDataset
    encoder: StoredEncoder
    protocol: Literal["lbfgs", "sgd100"] = Field(
        "lbfgs", description="lbfgs: to convergence; sgd100: 100 epochs, as in the paper; the newer result replaces the older"
    )
    l2: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="L2 strength on standardised features; default chosen on a fifth of train"
    )
    knn: int = Field(20, ge=0, le=1000, description="neighbours that vote in the kNN probe beside it; 0 leaves it out")
    train_predictions: bool = Field(False, description="also judge train images, by 5-fold out-of-fold predictions")
    seed: Seed = Field(0, description="random seed of folds")


@job("probe", ProbeSettings, example="sslviz probe --dataset photos --encoder simclr")
def probe(settings: ProbeSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Fit a linear probe on the train embeddings and say which images it gets right (needs labels)."""
    import pandas as pd

    from sslviz.analysis.evaluation import calibration_error
    from sslviz.analysis.probe import at_an_end, out_of_fold
    from sslviz.analysis.rivals import MAX_TRAIN_ROWS
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    samples = embedded.samples
    train = samples[samples["split"] == "train"]
    counts = embedded.class_counts()
    notes = embedded.lonely(counts)
    others = samples[samples["split"] != "train"]
    folds = settings.train_predictions or embedded.judged_on is None
    if settings.protocol == "sgd100" and (folds or settings.l2 is not None):
        raise InputError(
            "sgd100 has no L2 and judges test or val images only: leave --l2 and --train-predictions out, and take lbfgs where "
            "there is no such split."
        )
    too_large = embedded.too_large((4 if folds else 2) * len(train))  # rows, standardised rows; of four folds again
    if too_large and (folds or settings.protocol == "sgd100"):
        raise InputError(
            f"out-of-fold predictions and sgd100 need all embeddings in memory ({too_large}). "
            "Leave --train-predictions and --protocol out, add fewer classes (data add --classes) or take a larger machine."
        )
    notes += [too_large] if too_large else []
    progress.stage("reading embeddings")
    design = embedded.design(train, held=not too_large)
    progress.stage("fitting the probe")
    fit, l2 = while_checking(lambda: _fit(design, settings), progress)
    if settings.protocol == "lbfgs" and settings.l2 is None and (words := at_an_end(l2)):
        notes.append(words)
    whole = (len(others) + folds * len(train)) * len(design.classes) <= _MOST_PROBABILITIES
    parts = []
    if len(others):
        progress.stage("judging")
        shares = design.probabilities(fit, (block for _, block in embedded.store.blocks(others["row"].to_numpy())))
        parts.append(_predictions(others, design.classes[shares.argmax(1)], shares, design.classes, whole))
    if folds:
        progress.stage("predicting train images out of fold")
        if few := embedded.titles(counts.index[counts < 5]):
            notes.append(f"{len(few)} classes have fewer than 5 train images, so not every fold has them: {shown(few)}")
        H, y = embedded.store.read(train["row"].to_numpy()), train["label"].to_numpy()
        predictions, shares, slow = while_checking(lambda: out_of_fold(H, y, l2, seed=settings.seed), progress)
        if slow:
            notes.append(f"{slow} of the five folds' probes stopped without converging")
        parts.append(_predictions(train, predictions, shares, design.classes, whole))
    if not whole:
        notes.append("the five likeliest classes of each image are kept, not the probabilities of all: there are too many")
    table = pd.concat(parts, ignore_index=True)
    split = embedded.judged_on or "train"
    judged = table[(table["split"] == split) & table["correct"].notna()]
    n_unknown = int(((table["split"] == split) & table["correct"].isna()).sum())
    if n_unknown:
        notes.append(f"{n_unknown} {split} images have no label that the probe knows and are left out of its accuracy")
    knn = None
    if settings.knn and split != "train" and len(judged):
        progress.stage("voting among neighbours")
        knn = _knn(embedded, settings, judged, progress)
        if counts.sum() > MAX_TRAIN_ROWS:
            notes.append(
                f"nearest neighbours vote among {MAX_TRAIN_ROWS:,} of the {counts.sum():,} train images, drawn with the seed"
            )
    if fit.converged is False:
        notes.append(f"the solver stopped after {fit.iterations} iterations without converging")
    for note in notes:
        progress.warn(note)
    summary = {
        "top1": float(judged["correct"].astype(bool).mean()) if len(judged) else None,
        "judged_on": split,
        "out_of_fold": split == "train",
        "n_judged": len(judged),
        "n_unknown": n_unknown,
        "n_classes": len(design.classes),
        "knn_top1": knn,
        "ece": calibration_error(judged["confidence"].to_numpy(), judged["correct"].to_numpy(dtype=bool)),
        "protocol": settings.protocol,
        "l2": l2,
        "converged": fit.converged,
        "iterations": fit.iterations,
        "n_constant": design.n_features - len(design.columns),
        "notes": notes,
    }
    folder = workspace.results(settings.dataset, settings.encoder, "probe")
    with only_writer(folder, f"the probe of {settings.dataset} on {settings.encoder}"):
        plain = settings.model_dump(mode="json", exclude={"dataset", "encoder"})
        tables = {"predictions": table, "classes": _by_class(judged), "confusion": _confusion(judged)}
        weights, bias = design.on_raw_features(fit)
        arrays = {"weights": {"weights": weights, "bias": bias, "classes": design.classes}}
        save_result(folder, plain, embedded.inputs, tables, summary, arrays)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}


def _fit(design: "Design", settings: ProbeSettings) -> "tuple[Fit, float]":
    from sslviz.analysis.probe import choose_l2
    from sslviz.analysis.softmax import fit_lbfgs, fit_sgd

    if settings.protocol == "sgd100":
        return fit_sgd(design, seed=settings.seed), 0.0
    l2 = choose_l2(design, settings.seed) if settings.l2 is None else settings.l2
    return fit_lbfgs(design, l2), l2


def _knn(embedded: "Embedded", settings: ProbeSettings, judged: Any, progress: Progress) -> float:
    """Share of the judged samples that their nearest train samples (at most 50,000, seeded) vote right."""
    from sslviz.analysis.probe import knn_probe
    from sslviz.analysis.rivals import MAX_TRAIN_ROWS
    from sslviz.jobs.inputs import sampled

    samples = embedded.samples
    known = samples[(samples["split"] == "train") & (samples["label"] >= 0)].set_index("row")["label"]
    rows = sampled(known.index.to_numpy(), MAX_TRAIN_ROWS, settings.seed)
    H, y = embedded.store.read(rows), known.loc[rows].to_numpy()
    truth = samples[samples["sample_id"].isin(judged["sample_id"])].set_index("row")["label"]
    right = 0
    for at, block in embedded.store.blocks(truth.index.to_numpy()):
        right += int((knn_probe(H, y, block, settings.knn) == truth.loc[at].to_numpy()).sum())
        progress.check()
    return right / len(truth)


def _by_class(judged: Any) -> Any:
    """label, n, top1 of the classes that were judged."""
    right = judged.assign(correct=judged["correct"].astype(bool)).groupby("label")["correct"]
    return right.agg(n="size", top1="mean").reset_index()


def _confusion(judged: Any) -> Any:
    """label, prediction, n: the pairs that occur."""
    return judged.groupby(["label", "prediction"]).size().rename("n").reset_index()


def _predictions(samples: Any, predictions: Any, probabilities: Any, classes: Any, whole: bool) -> Any:
    """sample_id, split, label, prediction, correct (missing where the class is unknown), confidence, top-5 classes and shares,
    and, where `whole`, the shares of all classes, in their order."""
    import numpy as np
    import torch

    top5 = torch.from_numpy(probabilities).topk(min(5, len(classes)), dim=1)
    table = samples[["sample_id", "split", "label"]].reset_index(drop=True)
    table["prediction"] = predictions
    known = table["label"].isin(classes)
    table["correct"] = (table["prediction"] == table["label"]).astype("boolean").mask(~known)
    table["confidence"] = probabilities.max(1)
    table["top5"] = list(classes[top5.indices.numpy()])
    table["top5_probability"] = list(top5.values.numpy())
    if whole:
        table["probabilities"] = list(probabilities.astype(np.float32))
    return table
