"""Give every image its Q-Score, its rivals' scores, and judge them against the probe where there are labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.errors import Busy, InputError, Stale
from sslviz.jobs import EmbeddedDataset, Eps, Seed, Settings, StoredEncoder, job, remade
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from sslviz.analysis.evaluation import ScoreReport
    from sslviz.analysis.examples import FeatureExamples
    from sslviz.analysis.features import FeatureSelection
    from sslviz.jobs.inputs import Embedded
    from sslviz.store.embeddings import EmbeddingStore
    from sslviz.store.results import Result

RIVALS_UP_TO = 100_000


class ScoreSettings(Settings):
    dataset: EmbeddedDataset
    encoder: StoredEncoder
    eps: Eps = "auto"
    lower: float = Field(50.0, ge=0, le=100, description="discriminative features: lower percentile of their activation shares")
    upper: float = Field(95.0, ge=0, le=100, description="discriminative features: upper percentile")
    rivals: bool | None = Field(None, description=f"also compute nearest-neighbour scores; default up to {RIVALS_UP_TO:,} images")
    damage: int = Field(
        0, ge=0, description="images for the damage check (do scores fall on damaged ones? shown on Scores and by --json)"
    )
    seed: Seed = Field(0, description="random seed of the bootstrap and of samples")


@job("score", ScoreSettings, example="sslviz score --dataset photos --encoder simclr --eps auto")
def score(settings: ScoreSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Give every image a label-free quality score; with labels, say whether it predicts the probe's errors."""
    import numpy as np
    import pandas as pd

    from sslviz.analysis.features import EPS, EPS_GRID, LOWER, UPPER
    from sslviz.arrays import check_eps, check_percentiles
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    lower, upper = check_percentiles(settings.lower, settings.upper)
    eps = settings.eps if settings.eps == "auto" else check_eps(settings.eps)
    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    samples, store = embedded.samples, embedded.store
    inputs = dict(embedded.inputs)
    probe, probe_note = _probe(settings, workspace, progress, embedded)
    if probe is not None:
        inputs["probe"] = probe.basis

    counts = embedded.counted(embedded.rows("train"), [EPS, *EPS_GRID, *([] if eps == "auto" else [eps])], progress)
    selection = counts.select(eps, lower, upper)
    paper = counts.select(EPS, LOWER, UPPER)

    progress.stage("scoring", len(samples))
    table, examples = _score_rows(embedded, selection, paper, settings.seed, progress)
    rivals = settings.rivals if settings.rivals is not None else len(samples) <= RIVALS_UP_TO
    near = _neighbours(embedded, settings.seed, progress) if rivals else None
    similarities, rival_note = (None, "") if near is None else (near.similarities, near.note)
    predictions = None if probe is None else probe.table("predictions")
    rival_names = _add_rivals(table, similarities, predictions)
    split = embedded.judged_on or "train"
    reports = {} if predictions is None else _judge(table, predictions, ["q", "q_paper", *rival_names], split, settings.seed)

    damage = _damage(settings, workspace, embedded, selection, near, probe, progress)

    empty = {str(k): float(v) for k, v in (table["n_chosen"] == 0).groupby(table["split"]).mean().items()}
    notes = [n for n in (probe_note, rival_note, *_warnings(selection, table, empty)) if n]
    for note in notes:
        progress.warn(note)
    summary = {
        "n": len(table),
        "titles": embedded.dataset.titles,
        "eps": selection.eps,
        "eps_auto": selection.auto,
        "eps_sparse": selection.sparse,
        "lower": lower,
        "upper": upper,
        "n_features": int(store.meta["width"]),
        "n_discriminative": len(selection.features),
        "n_dead_chosen": selection.n_dead,
        "mean_share": counts.mean_share(selection.eps),
        "mean_share_paper": counts.mean_share(EPS),
        "mean_firing": float(table["n_firing"].mean()),
        "mean_chosen": float(table["n_chosen"].mean()),
        "empty_share": empty,
        "empty_share_paper": float((table["q_paper"] == 0).mean()),
        "n_zero": int((table["norm"] == 0).sum()),
        "judged_on": split,
        "out_of_fold": split == "train",
        "reports": {name: {**report.as_dict(), "verdict": report.verdict} for name, report in reports.items()},
        "best_rival": _best_rival(reports),
        "damage": [] if damage is None else damage.to_dict("records"),
        **_rank(store, embedded.rows("train")),
        "notes": notes,
    }
    features = pd.DataFrame(
        {
            "feature": np.arange(len(selection.shares)),
            "share": selection.shares,
            "share_paper": paper.shares,
            "chosen": np.isin(np.arange(len(selection.shares)), selection.features),
            "chosen_paper": np.isin(np.arange(len(selection.shares)), paper.features),
            "grid_shares": list(np.stack([counts.shares(e) for e in EPS_GRID], axis=1).astype(np.float32)),
        }
    ).merge(examples.spread(), on="feature")
    shown = examples.examples()
    shown["sample_id"] = samples.set_index("row")["sample_id"].reindex(shown.pop("row")).to_numpy()
    tables = {"scores": table, "features": features, "feature_examples": shown, "feature_classes": examples.class_shares()}
    if near is not None:
        tables["neighbours"] = near.table(samples)
    folder = workspace.results(settings.dataset, settings.encoder, "score")
    with only_writer(folder, f"the scores of {settings.dataset} by {settings.encoder}"):
        plain = settings.model_dump(mode="json", exclude={"dataset", "encoder"})
        save_result(folder, plain, inputs, tables, summary)
    worst = worst_images(table, None if predictions is None else predictions, split, 10)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary, "worst": worst}


def worst_images(table: "pd.DataFrame", predictions: "pd.DataFrame | None", split: str, n: int) -> list[dict[str, Any]]:
    """The n samples of a split with the lowest Q-Score, lowest first; equal scores by id."""
    part = table[table["split"] == split].sort_values(["q", "sample_id"]).head(n)
    columns = ["sample_id", "q", "label"]
    if predictions is not None:
        part = part.merge(predictions[["sample_id", "prediction", "correct"]], on="sample_id", how="left")
        part["correct"] = part["correct"].astype(object).where(part["correct"].notna(), None)
        columns += ["prediction", "correct"]
    return [{str(k): v for k, v in row.items()} for row in part[columns].to_dict("records")]


def _probe(
    settings: ScoreSettings, workspace: Workspace, progress: Progress, embedded: "Embedded"
) -> "tuple[Result | None, str]":
    """The fresh probe, made first where it is missing or stale; (None, why) where there can be none."""
    from sslviz.jobs.inputs import result_state
    from sslviz.jobs.probe import ProbeSettings, probe

    if not embedded.dataset.has_labels:
        return None, "no labels: scores stand alone, nothing says whether they predict errors here"
    state, _, result = result_state(workspace, embedded.dataset, settings.encoder, "probe")
    note = ""
    if state != "fresh":
        names = {"dataset": settings.dataset, "encoder": settings.encoder}
        as_it_was = remade(ProbeSettings, result.content["settings"] if result else {}, **names)
        for wanted in dict.fromkeys((as_it_was, ProbeSettings(**names))):
            try:
                probe(wanted, workspace, progress)
                break
            except (Busy, Stale):
                raise
            except InputError as error:
                note = str(error)
        else:
            return None, note
        _, _, result = result_state(workspace, embedded.dataset, settings.encoder, "probe")
    return result, note and f"the probe could not be made again as it was and has the default settings now: {note}"


def _score_rows(
    embedded: "Embedded", selection: "FeatureSelection", paper: "FeatureSelection", seed: int, progress: Progress
) -> "tuple[pd.DataFrame, FeatureExamples]":
    """(scores of every sample, the accumulator of what each feature responds to), in one pass over the embeddings."""
    import numpy as np

    from sslviz.analysis.examples import MAX_SPREAD_ROWS, FeatureExamples
    from sslviz.analysis.rows import score_rows
    from sslviz.jobs.inputs import sampled

    samples, store = embedded.samples, embedded.store
    all_rows = samples["row"].to_numpy()
    labels, is_train = samples["label"].to_numpy(), (samples["split"] == "train").to_numpy()
    spread_rows = sampled(all_rows, MAX_SPREAD_ROWS, seed)
    examples = FeatureExamples(store.meta["width"], len(embedded.dataset.classes), selection.eps, spread_rows)
    columns: dict[str, list[Any]] = {k: [] for k in ("q", "q_paper", "n_firing", "n_chosen", "norm", "std")}
    at = 0
    for rows, block in store.blocks(all_rows):
        got = score_rows(block, selection.features, selection.eps)
        for name in ("q", "n_firing", "n_chosen", "norm", "std"):
            columns[name].append(getattr(got, name))
        columns["q_paper"].append(score_rows(block, paper.features, paper.eps).q)
        here = slice(at, at + len(rows))
        examples.update(block, rows, labels[here], is_train[here])
        at += len(rows)
        progress.advance(len(rows))
    table = samples[["sample_id", "split", "label"]].copy()
    for name, pieces in columns.items():
        table[name] = np.concatenate(pieces)
    return table, examples


@dataclass(frozen=True)
class _Near:
    """Nearest train samples of every sample; `train`: the rows of the embeddings they were looked for among, and these."""

    train: "np.ndarray"
    H_train: "np.ndarray"
    similarities: "np.ndarray"
    rows: "np.ndarray"
    note: str

    def table(self, samples: "pd.DataFrame") -> "pd.DataFrame":
        """sample_id, neighbours (list of sample ids, nearest first), similarities."""
        import numpy as np
        import pandas as pd

        ids = samples.set_index("row")["sample_id"].reindex(self.train).to_numpy()
        found = np.where(self.rows >= 0, ids[self.rows], None)
        return pd.DataFrame(
            {"sample_id": samples["sample_id"].to_numpy(), "neighbours": list(found), "similarities": list(self.similarities)}
        )


def _neighbours(embedded: "Embedded", seed: int, progress: Progress) -> _Near:
    import numpy as np

    from sslviz.analysis.rivals import MAX_TRAIN_ROWS, nearest_neighbours
    from sslviz.arrays import positions
    from sslviz.jobs.inputs import sampled

    train, note = sampled(embedded.rows("train"), MAX_TRAIN_ROWS, seed), ""
    if len(train) < len(embedded.rows("train")):
        note = f"neighbour rivals look at {MAX_TRAIN_ROWS:,} of the train images (seeded sample)"
    H_train = embedded.store.read(train)
    all_rows = embedded.samples["row"].to_numpy()
    progress.stage("comparing with train images", len(all_rows))
    similarities, places = [], []
    for rows, block in embedded.store.blocks(all_rows):
        found = nearest_neighbours(block, H_train, positions(rows, train))
        similarities.append(found.similarities)
        places.append(found.rows)
        progress.advance(len(rows))
    return _Near(train, H_train, np.concatenate(similarities), np.concatenate(places), note)


def _damage(
    settings: ScoreSettings,
    workspace: Workspace,
    embedded: "Embedded",
    selection: "FeatureSelection",
    near: _Near | None,
    probe: "Result | None",
    progress: Progress,
) -> "pd.DataFrame | None":
    """The damage check's table; None where it was not asked for, or there are no pixels or no weights."""
    from sslviz.encoders.spec import load_spec
    from sslviz.jobs.damage import check_damage

    has_weights = load_spec(workspace, settings.encoder).backbone != "arrays"
    if settings.damage == 0 or embedded.dataset.root is None or not has_weights:
        return None
    from sslviz.encoders.run import load_encoder, pick_device

    encoder = load_encoder(workspace, settings.encoder, pick_device("auto"))
    train = None if near is None else (near.train, near.H_train)
    return check_damage(embedded, encoder, selection, train, probe, settings.damage, settings.seed, progress)


def _add_rivals(table: "pd.DataFrame", similarities: "np.ndarray | None", predictions: "pd.DataFrame | None") -> list[str]:
    import numpy as np

    from sslviz.analysis.rivals import RIVALS, RivalInput
    from sslviz.analysis.rows import RowScores

    rows = RowScores(*(table[c].to_numpy() for c in ("q", "n_firing", "n_chosen", "norm", "std")))
    confidence = None
    if predictions is not None:
        confidence = table[["sample_id"]].merge(predictions, on="sample_id", how="left")["confidence"].to_numpy()
    names = []
    for name in RIVALS:
        values = RIVALS[name].score(RivalInput(rows, similarities, confidence))
        if values is not None:
            table[name] = np.asarray(values, dtype=np.float64)
            names.append(name)
    return names


def _judge(
    table: "pd.DataFrame", predictions: "pd.DataFrame", names: list[str], split: str, seed: int
) -> "dict[str, ScoreReport]":
    from sslviz.analysis.evaluation import evaluate_score

    known = predictions.loc[(predictions["split"] == split) & predictions["correct"].notna(), ["sample_id", "correct"]]
    joined = table.merge(known, on="sample_id", how="inner")
    if joined.empty:
        return {}
    correct = joined["correct"].astype(bool).to_numpy()
    return {name: evaluate_score(joined[name].to_numpy(), correct, seed=seed) for name in names}


def _best_rival(reports: "dict[str, ScoreReport]") -> dict[str, Any] | None:
    """The label-free rival with the highest AUROC above Q's, in words, and whether the intervals overlap; None where Q leads."""
    from sslviz.analysis.rivals import RIVALS, best_label_free

    best = best_label_free({n: r.auroc for n, r in reports.items()})
    if best is None:
        return None
    own, other = reports["q"].auroc, reports[best].auroc
    if own is None or other is None or other <= own:
        return None
    ours, theirs = reports["q"].intervals["auroc"], reports[best].intervals["auroc"]
    apart = bool(ours and theirs and theirs[0] > ours[1])
    how = "is better here" if apart else "is ahead here, within the intervals"
    words = f"A simpler label-free score {how}: {RIVALS[best].title}, AUROC {100 * other:.1f}."
    return {"name": best, "apart": apart, "words": words}


def _rank(store: "EmbeddingStore", train_rows: "np.ndarray") -> dict[str, Any]:
    from sslviz.analysis.rank import MAX_ROWS, alpha_req, rank_me
    from sslviz.jobs.inputs import sampled

    H = store.read(sampled(train_rows, MAX_ROWS, 0))
    try:
        alpha: float | None = alpha_req(H)
    except InputError:
        alpha = None
    return {"rank_me": rank_me(H), "alpha_req": alpha}


def _warnings(selection: "FeatureSelection", table: "pd.DataFrame", empty: dict[str, float]) -> list[str]:
    lines = []
    if selection.sparse:
        lines.append(
            "features hardly ever stand out from their sample: even at eps 0.25 the mean activation share is below 3.7 %"
        )
    if len(selection.features) == 0:
        lines.append("no feature lies between the two percentiles: D is empty and every Q-Score is 0")
    if selection.n_dead:
        lines.append(
            f"{selection.n_dead} of the {len(selection.features)} chosen features never fire (the lower percentile is 0)"
        )
    share = float((table["n_chosen"] == 0).mean())
    if share > 0.2:
        lines.append(f"{share:.0%} of the images have no firing discriminative feature; their Q-Score is 0")
    zero = int((table["norm"] == 0).sum())
    if zero:
        lines.append(f"{zero} embeddings have norm zero; their Q-Score is 0")
    return lines
