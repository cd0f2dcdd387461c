"""An encoder judged for a before and after: the same images, figures and intervals for the base and for every arm."""

import math
import time
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from sslviz.analysis import expression, mending
from sslviz.analysis.compression import subset
from sslviz.analysis.probe import ProbeResult, linear_probe
from sslviz.analysis.rows import score_rows
from sslviz.data import dataset as datasets
from sslviz.data.dataset import Dataset
from sslviz.data.masks import mask_facts
from sslviz.errors import Busy, InputError, Stale
from sslviz.jobs import Settings, parse, remade
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.inputs import Embedded, embeddings_state, open_embedded, result_state
from sslviz.jobs.interpret import InterpretSettings, interpret
from sslviz.jobs.probe import ProbeSettings, probe
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress, while_checking
from sslviz.store.results import Result
from sslviz.store.workspace import Workspace
from sslviz.training.regulariser import Selection

_REDUCTION = 0.4
_PANEL = 40
_PAUSE = 1.0
_S = TypeVar("_S", bound=Settings)


@dataclass(frozen=True)
class Judged:
    """What is known of one encoder.

    images: of the judged split, by sample_id in order, see `analysis.mending.figures`; also label, what the probe said and how
    sure it was (prediction, confidence) · looks: of the images that have masks, correct, core, spurious · panel: class averages
    on features of D · fixed: D and eps of the base · l2: the probe's, None to choose it · l2_40: that of the probe on 60 % of the
    features, None where there is none · made_with: settings of embed, probe, score and interpret · made_from: keys of the results
    that all this was read from.
    """

    images: pd.DataFrame
    looks: pd.DataFrame
    panel: pd.DataFrame
    fixed: Selection
    split: str
    l2: float | None
    l2_40: float | None
    rank_me: float
    eps: float
    made_with: dict[str, dict[str, Any]]
    made_from: dict[str, str]
    notes: list[str]

    def figures(self) -> dict[str, Any]:
        seen = {k: v for k, v in mending.figures(self.looks).items() if not math.isnan(v) and k != "top1"}
        return {**mending.figures(self.images), **seen, "rank_me": self.rank_me, "eps": self.eps, "l2": self.l2}

    def changed(self, after: "Judged") -> dict[str, int]:
        """Images that the probe of the other gets right and this one's wrong, and the other way round."""
        if "correct" not in self.images or "correct" not in after.images:
            return {}
        mended, broken = mending.mended_and_broken(self.images["correct"], after.images["correct"])
        return {"mended": mended, "broken": broken}

    def sample(self, most: int) -> pd.DataFrame:
        """A seeded sample of the images."""
        return self.images.sample(min(most, len(self.images)), random_state=0)


def judge(
    workspace: Workspace,
    dataset_name: str,
    encoder: str,
    eps: float | Literal["auto"],
    base: Judged | None,
    progress: Progress,
    **machine: Any,
) -> Judged:
    """Judge an encoder on a data set; what is missing is computed first (embed, probe, score, heatmaps where there are masks).

    base: the encoder to compare with, whose settings and D count; None: this is it · machine: device and workers.
    """
    notes: list[str] = []
    while True:
        try:
            dataset = _computed(workspace, dataset_name, encoder, eps, base, progress, machine, notes)
            break
        except Busy:
            progress.stage(f"waiting for another run on {encoder}")
            time.sleep(_PAUSE)
            progress.check()
    progress.stage("judging")
    embedded = open_embedded(workspace, dataset_name, encoder)
    states = {job: result_state(workspace, dataset, encoder, job) for job in ("probe", "score", "interpret")}
    results = {job: result for job, (state, _, result) in states.items() if state == "fresh" and result is not None}
    score, interpreted = results["score"], results.get("interpret")
    features = score.table("features", ["feature", "share", "chosen"]).sort_values("feature")
    summary = score.content["summary"]
    fixed = base.fixed if base else Selection(features.loc[features["chosen"], "feature"].to_numpy(), float(summary["eps"]))

    split = embedded.judged_on or "train"
    images = embedded.samples[embedded.samples["split"] == split][["sample_id", "row", "label"]].sort_values("row")
    scores = score.table("scores", ["sample_id", "q", "n_chosen"])
    images = images.merge(scores, on="sample_id").assign(empty=lambda t: t.pop("n_chosen") == 0)
    H = embedded.store.read(images["row"].to_numpy())
    images["q_fixed"] = score_rows(H, fixed.features, fixed.eps).q
    l2 = l2_40 = None
    if (probed := results.get("probe")) is not None and embedded.dataset.has_labels:
        images, H = _told_apart(images, H, probed, split, notes)
        if "correct" in images:
            l2 = float(probed.content["summary"]["l2"]) if probed.content["settings"]["protocol"] == "lbfgs" else None
            alike = base.l2_40 if base else l2  # which L2 is best at full width says little here, and moves this by points
            smaller = _compressed(embedded, features["share"].to_numpy(), images, H, alike, progress)
            if isinstance(smaller, str):
                notes.append(f"the accuracy on 60 % of the features is left out: {smaller}")
            else:
                images["correct_40"], l2_40 = smaller.predictions == images["label"].to_numpy(), smaller.l2
    K = len(fixed.features)
    panel_of = fixed.features[np.linspace(0, K - 1, min(K, _PANEL)).round().astype(np.int64)]
    made_from = {"score": score.basis}
    if interpreted is not None:
        made_from["masks"] = interpreted.inputs["masks"]
    return Judged(
        images=images.drop(columns="row").set_index("sample_id").sort_index(),
        looks=_looks(interpreted),
        panel=_panel(images, expression.unit_rows(H), panel_of),
        fixed=fixed,
        split=split,
        l2=l2,
        l2_40=l2_40,
        rank_me=float(summary["rank_me"]),
        eps=float(summary["eps"]),
        made_with={**{job: dict(result.content["settings"]) for job, result in results.items()}, "embed": _embedded_as(embedded)},
        made_from=made_from,
        notes=notes,
    )


def _told_apart(
    images: pd.DataFrame, H: np.ndarray, probed: Result, split: str, notes: list[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The images whose label the probe knows, with what it said, and their embeddings; where it knows none, all as they are.

    `notes` gets what is left out.
    """
    said = probed.table("predictions", ["sample_id", "correct", "prediction", "confidence"])
    told = images.merge(said, on="sample_id", how="left")
    known = told["correct"].notna().to_numpy()
    if not known.any():
        notes.append(f"no {split} image has a label that the probe knows: right and wrong cannot be told apart")
        return images, H
    if not known.all():
        notes.append(f"{(~known).sum():,} {split} images have no label that the probe knows and are left out")
    return told[known].reset_index(drop=True).astype({"correct": bool}), H[known]


def _looks(interpreted: Result | None) -> pd.DataFrame:
    """Of the images that have masks, by sample_id: correct, and IoU of their heatmap with object (core) and surroundings."""
    if interpreted is None:
        return pd.DataFrame(index=pd.Index([], name="sample_id"))
    looks = interpreted.table("looks", ["sample_id", "correct", "core_iou_map", "spurious_iou_map"]).dropna(subset="correct")
    looks = looks.rename(columns={"core_iou_map": "core", "spurious_iou_map": "spurious"}).astype({"correct": bool})
    return looks.set_index("sample_id").sort_index()


def _computed(
    workspace: Workspace,
    dataset_name: str,
    encoder: str,
    eps: float | Literal["auto"],
    base: Judged | None,
    progress: Progress,
    machine: dict[str, Any],
    notes: list[str],
) -> Dataset:
    """Make what is missing or stale: for the base as it was, for an arm as the base's. `notes` gets what has to be said.

    Raises Busy while another run is at it.
    """
    names = {"dataset": dataset_name, "encoder": encoder}
    dataset, _ = datasets.refresh(workspace, dataset_name)
    like = base.made_with["embed"] if base else {}  # an own one is made again as it was by `embed` itself
    if embeddings_state(workspace, dataset, encoder)[0] != "fresh" or (
        base and _embedded_as(open_embedded(workspace, dataset_name, encoder)) != like
    ):
        embed(EmbedSettings(**names, **machine, **like), workspace, progress)
        dataset, _ = datasets.refresh(workspace, dataset_name)

    def asked(job: str, **changes: Any) -> tuple[dict[str, Any], bool]:
        """(settings to make it with, whether it is there so)."""
        state, _, result = result_state(workspace, dataset, encoder, job)
        was = dict(result.content["settings"]) if result else {}
        wanted = {**(base.made_with.get(job, {}) if base else was), **changes}
        if job == "score" and base is None and was.get("eps", eps) != eps:
            note = f"{encoder} had scores at eps {was['eps']}; they were made again at {eps}"
            if note not in notes:  # else one more try after Busy
                notes.append(note)
        return wanted, state == "fresh" and all(was.get(k) == v for k, v in wanted.items())

    def settings(kind: type[_S], wanted: dict[str, Any]) -> _S:
        """The base may have been made by another version; its arms are made as it is, or not at all."""
        return parse(kind, {**wanted, **names}) if base else remade(kind, wanted, **names)

    if base and "probe" in base.made_with:  # the base's own is made by `score`
        wanted, there = asked("probe")
        if not there:
            probe(settings(ProbeSettings, wanted), workspace, progress)
    wanted, there = asked("score", eps=eps, **({"damage": 0} if base else {}))  # an arm's figures do not need that check
    if not there:
        score(settings(ScoreSettings, wanted).model_copy(update={"eps": eps}), workspace, progress)
    if mask_facts(dataset) is not None:
        wanted, there = asked("interpret")
        if not there:
            try:
                interpret(settings(InterpretSettings, wanted).model_copy(update=machine), workspace, progress)
            except (Busy, Stale):
                raise
            except InputError as error:
                notes.append(f"no heatmaps: {error}")
    return dataset


def _embedded_as(embedded: Embedded) -> dict[str, Any]:
    depends = embedded.store.meta["depends"]
    return {"precision": depends["precision"], "store_dtype": depends["dtype"]}


def _panel(images: pd.DataFrame, unit: np.ndarray, features: np.ndarray) -> pd.DataFrame:
    """Class-average representations on these features, right and wrong images apart; empty where they are not known."""
    known = images["label"].to_numpy() >= 0
    if "correct" not in images or not known.any():
        return mending.class_means(np.empty((0, 0)), np.empty(0), np.empty(0, bool), np.empty(0, np.int64))
    right = images["correct"].to_numpy(dtype=bool)[known]
    return mending.class_means(unit[known], images["label"].to_numpy()[known], right, features)


def _compressed(
    embedded: Embedded, shares: np.ndarray, images: pd.DataFrame, H: np.ndarray, l2: float | None, progress: Progress
) -> ProbeResult | str:
    """A probe on the 60 % of the features that are discriminative; or why there is none."""
    train = embedded.samples[(embedded.samples["split"] == "train") & (embedded.samples["label"] >= 0)]
    if embedded.judged_on is None:
        return "there is no test split"
    if embedded.too_large(3 * len(train)):
        return "the embeddings do not fit into memory"
    kept = subset(shares, "discriminative", _REDUCTION)
    H_train, y, truth = (
        embedded.store.read(train["row"].to_numpy())[:, kept],
        train["label"].to_numpy(),
        images["label"].to_numpy(),
    )
    return while_checking(lambda: linear_probe(H_train, y, H[:, kept], truth, l2=l2), progress)
