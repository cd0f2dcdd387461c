"""An encoder judged for a before and after: the same images, figures and intervals for the base and for every arm."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from sslviz.jobs.inputs import Embedded
    from sslviz.training.regulariser import Selection

_REDUCTION = 0.4
_PANEL = 40


@dataclass(frozen=True)
class Judged:
    """images: of the judged split by sample_id, see `analysis.mending.figures`; also label, confidence (of the true class, where
    it is known) · H float[N, D] raw, in their order · l2: the probe's."""

    images: "pd.DataFrame"
    H: "np.ndarray"
    split: str
    l2: float | None
    rank_me: float
    eps: float
    notes: list[str]

    def figures(self) -> dict[str, Any]:
        from sslviz.analysis import mending

        return {**mending.figures(self.images), "rank_me": self.rank_me, "eps": self.eps}

    def changed(self, after: "Judged") -> dict[str, int]:
        """Images that the probe of the other gets right and this one's wrong, and the other way round."""
        from sslviz.analysis import mending

        if "correct" not in self.images:
            return {}
        mended, broken = mending.mended_and_broken(self.images["correct"], after.images["correct"])
        return {"mended": mended, "broken": broken}

    def sample(self, most: int) -> "pd.DataFrame":
        """A seeded sample of the images."""
        return self.images.sample(min(most, len(self.images)), random_state=0)

    def panel(self, fixed: "Selection") -> "pd.DataFrame":
        """Class-average representations on at most 40 of the features D, right and wrong images apart."""
        import numpy as np

        from sslviz.analysis import expression, mending

        features = np.asarray(fixed.features[:: max(1, len(fixed.features) // _PANEL)][:_PANEL], dtype=np.int64)
        known = self.images["label"].to_numpy() >= 0
        if "correct" not in self.images or not known.any():
            return mending.class_means(np.empty((0, 0)), np.empty(0), np.empty(0, bool), np.empty(0, np.int64))
        right = self.images["correct"].to_numpy(dtype=bool)[known]
        return mending.class_means(expression.unit_rows(self.H[known]), self.images["label"].to_numpy()[known], right, features)


def judge(
    workspace: Workspace,
    dataset_name: str,
    encoder: str,
    eps: float | Literal["auto"],
    fixed: "Selection | None",
    progress: Progress,
) -> Judged:
    """Judge an encoder on a data set; what is missing is computed first (embed, probe, score, heatmaps where there are masks).

    fixed: D and eps of the base encoder; None: this is the base.
    """
    import numpy as np

    from sslviz.analysis.rows import score_rows
    from sslviz.data import dataset as datasets
    from sslviz.data.masks import mask_facts
    from sslviz.jobs.analyze import AnalyzeSettings, analyze
    from sslviz.jobs.inputs import open_embedded, result_state
    from sslviz.jobs.interpret import InterpretSettings, interpret

    dataset, _ = datasets.refresh(workspace, dataset_name)
    names = {"dataset": dataset_name, "encoder": encoder}
    state, _, score = result_state(workspace, dataset, encoder, "score")
    if score is None or state != "fresh" or score.content["settings"]["eps"] != eps:
        analyze(AnalyzeSettings(**names, eps=eps), workspace, progress)
        dataset, _ = datasets.refresh(workspace, dataset_name)
        _, _, score = result_state(workspace, dataset, encoder, "score")
    assert score is not None
    if mask_facts(dataset) is not None and result_state(workspace, dataset, encoder, "interpret")[0] != "fresh":
        interpret(InterpretSettings(**names), workspace, progress)
    progress.stage("judging")
    embedded = open_embedded(workspace, dataset_name, encoder)
    split = embedded.judged_on or "train"
    scores = score.table("scores", ["sample_id", "q", "n_chosen"])
    images = embedded.samples[embedded.samples["split"] == split][["sample_id", "row", "label"]]
    images = images.merge(scores, on="sample_id").assign(empty=lambda t: t.pop("n_chosen") == 0)
    H = embedded.store.read(images["row"].to_numpy())
    notes: list[str] = []
    l2 = None
    _, _, probe = result_state(workspace, dataset, encoder, "probe")
    if probe is not None and embedded.dataset.has_labels:
        l2 = float(probe.content["summary"]["l2"])
        said = probe.table("predictions", ["sample_id", "correct", "confidence"])
        images = images.merge(said, on="sample_id", how="left")
        known = images["correct"].notna().to_numpy()
        if not known.all():
            notes.append(f"{(~known).sum():,} {split} images have no label that the probe knows and are left out")
        images, H = images[known].reset_index(drop=True), H[known]
        images["correct"] = images["correct"].astype(bool)
        smaller = _compressed(embedded, score.table("features", ["feature", "share"]), images, H, l2)
        if smaller is None:
            notes.append("the accuracy on 60 % of the features is left out: the embeddings do not fit into memory")
        else:
            images["correct_40"] = smaller
    images["q_fixed"] = images["q"] if fixed is None else score_rows(H, fixed.features, fixed.eps).q
    _, _, looks = result_state(workspace, dataset, encoder, "interpret")
    if looks is not None:
        table = looks.table("looks", ["sample_id", "core_iou_map", "spurious_iou_map"])
        table = table.rename(columns={"core_iou_map": "core", "spurious_iou_map": "spurious"})
        images = images.merge(table, on="sample_id", how="left")
    summary = score.content["summary"]
    return Judged(
        images=images.drop(columns="row").set_index("sample_id"),
        H=np.asarray(H),
        split=split,
        l2=l2,
        rank_me=float(summary["rank_me"]),
        eps=float(summary["eps"]),
        notes=notes,
    )


def _compressed(
    embedded: "Embedded", features: "pd.DataFrame", images: "pd.DataFrame", H: "np.ndarray", l2: float
) -> "np.ndarray | None":
    """Whether a probe on the 60 % of the features that are discriminative is right, bool[N]; None where memory does not do."""
    from sslviz.analysis.compression import subset
    from sslviz.analysis.probe import linear_probe

    train = embedded.samples[(embedded.samples["split"] == "train") & (embedded.samples["label"] >= 0)]
    if embedded.judged_on is None or embedded.too_large(train, copies=3):
        return None
    kept = subset(features.sort_values("feature")["share"].to_numpy(), "discriminative", _REDUCTION)
    H_train = embedded.store.read(train["row"].to_numpy())[:, kept]
    probe = linear_probe(H_train, train["label"].to_numpy(), H[:, kept], images["label"].to_numpy(), l2=l2)
    right: np.ndarray = probe.predictions == images["label"].to_numpy()
    return right
