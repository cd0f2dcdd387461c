"""Encoders side by side on one data set, with two controls: the same network with random weights, and the bare pixels."""

import time
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.errors import Busy, InputError
from sslviz.jobs import Settings, job, remade
from sslviz.progress import Prefixed, Progress
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from sslviz.data.dataset import Dataset
    from sslviz.store.results import Result

_PAUSE = 1.0  # seconds
_PIXELS = 16  # side: 768 features, as wide as the encoders beside it


class CompareSettings(Settings):
    dataset: str = Field(description="data set in the workspace")
    encoders: list[str] = Field([], description="encoders to compare; give it again for each; default all that are scored")
    controls: bool = Field(True, description="add the network with random weights, and raw pixels")
    project: bool = Field(False, description="also make the map of each encoder that is computed")


@job("compare", CompareSettings, example="sslviz compare --dataset demo --encoders simclr-demo --encoders byol-demo")
def compare(settings: CompareSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Compare encoders on a data set: probe, Q-Score and rivals, sparsity, rank; what is missing is computed first."""
    from sslviz.data import dataset as datasets
    from sslviz.jobs.analyze import analyzed
    from sslviz.jobs.inputs import result_state
    from sslviz.jobs.score import ScoreSettings

    dataset, _ = datasets.refresh(workspace, settings.dataset)
    names = list(settings.encoders) or scored(workspace, dataset)
    for name in names:
        workspace.existing_encoder(name)
    if not names:
        raise InputError(
            f'no encoder is scored on "{dataset.name}" yet. Name some: sslviz compare --dataset {dataset.name} --encoders NAME'
        )
    if settings.controls and dataset.root is not None:
        names += [name for name in controls(workspace, names[0]) if name not in names]
    for k, name in enumerate(names, start=1):
        prefixed = Prefixed(progress, f"{name} ({k} of {len(names)})")
        while (found := result_state(workspace, dataset, name, "score"))[0] != "fresh":
            both = {"dataset": dataset.name, "encoder": name}
            as_it_was = remade(ScoreSettings, found[2].content["settings"] if found[2] else {}, **both)
            try:
                analyzed(as_it_was, workspace, prefixed, settings.project)
            except Busy:  # another run is at it
                progress.stage(f"waiting for another run on {name}")
                time.sleep(_PAUSE)
                progress.check()
            dataset, _ = datasets.refresh(workspace, settings.dataset)  # its files may have changed meanwhile
    tables = {name: judged(workspace, dataset, name) for name in names}
    rows = [row(workspace, dataset, name) for name in names]
    for note in (notes := differing(rows)):
        progress.warn(note)
    return {
        "dataset": dataset.name,
        "notes": notes,
        "rows": rows,
        "pairs": [{"encoders": [a, b], **pair(tables[a], tables[b])} for a, b in combinations(names, 2)],
    }


def scored(workspace: Workspace, dataset: "Dataset") -> list[str]:
    """Encoders whose scores on this data set are there and fresh."""
    from sslviz.jobs.inputs import result_state

    return [name for name in workspace.encoders() if result_state(workspace, dataset, name, "score")[0] == "fresh"]


def fresh_results(workspace: Workspace, dataset: "Dataset", name: str) -> "tuple[Result, Result | None]":
    """An encoder's scores on a data set, and its probe (None without labels). Raises Stale where the scores are not fresh."""
    from sslviz.errors import Stale
    from sslviz.jobs.inputs import result_state

    state, why, score = result_state(workspace, dataset, name, "score")
    if score is None or state != "fresh":
        raise Stale(f"the scores of {dataset.name} by {name} are {state}: {why}. Run sslviz compare --dataset {dataset.name}")
    return score, result_state(workspace, dataset, name, "probe")[2] if "probe" in score.inputs else None


def differing(rows: list[dict[str, Any]]) -> list[str]:
    """A remark for each setting that not all encoders were scored and probed with (`row`)."""
    made: dict[str, dict[str, list[str]]] = {}
    for line in rows:
        for what, value in line["made_with"].items():
            made.setdefault(what, {}).setdefault(str(value), []).append(line["encoder"])
    return [
        f"not made alike, {what}: " + "; ".join(f"{value} for {', '.join(who)}" for value, who in values.items())
        for what, values in made.items()
        if len(values) > 1
    ]


def row(workspace: Workspace, dataset: "Dataset", name: str) -> dict[str, Any]:
    """One encoder's line; figures of the probe are None without labels. Raises Stale where its scores are not fresh."""
    from sslviz.analysis.rivals import best_label_free
    from sslviz.encoders.spec import load_spec

    score, probe = fresh_results(workspace, dataset, name)
    summary, spec = score.content["summary"], load_spec(workspace, name)
    reports = summary["reports"]
    made_with = {f"score {k}": score.content["settings"].get(k) for k in ("eps", "lower", "upper")}
    made_with["rivals by neighbours"] = "there" if (score.folder / "neighbours.parquet").exists() else "left out"
    if probe is not None:
        made_with |= {f"probe {k}": probe.content["settings"].get(k) for k in ("protocol", "l2")}
    return {
        "encoder": name,
        "method": spec.method,
        "features": summary["n_features"],
        "top1": None if probe is None else probe.content["summary"]["top1"],
        "judged_on": summary["judged_on"],
        "eps": summary["eps"],
        "mean_share": summary["mean_share"],
        "empty_share": summary["empty_share"].get(summary["judged_on"]),
        "rank_me": summary["rank_me"],
        "reports": reports,
        "best_rival": best_label_free({n: r["auroc"] for n, r in reports.items()}),
        "verdict": reports["q"]["verdict"] if reports else None,
        "made_with": made_with,
    }


def judged(workspace: Workspace, dataset: "Dataset", name: str) -> "pd.DataFrame":
    """What an encoder makes of the images it is judged on, by sample_id: q, correct (missing without a probe) and neighbours
    (ids; None where they were left out). Raises Stale where its scores are not fresh."""
    import pandas as pd

    score, probe = fresh_results(workspace, dataset, name)
    split = score.content["summary"]["judged_on"]
    table = score.table("scores", ["sample_id", "split", "q"])
    table = table[table["split"] == split].drop(columns="split")
    if probe is None:
        table["correct"] = None
    else:
        table = table.merge(probe.table("predictions", ["sample_id", "correct"]), on="sample_id", how="left")
    if (score.folder / "neighbours.parquet").exists():
        table = table.merge(score.table("neighbours", ["sample_id", "neighbours"]), on="sample_id", how="left")
    else:
        table["neighbours"] = None
    return pd.DataFrame(table.set_index("sample_id"))


def pair(first: "pd.DataFrame", second: "pd.DataFrame") -> dict[str, Any]:
    """Two encoders' `judged` tables against each other, on the images both have: do they fail on the same ones, order them
    alike, see the same neighbours? What cannot be known is None."""
    import numpy as np

    from sslviz.analysis.agreement import agreement, shared_neighbours

    both = first.merge(second, left_index=True, right_index=True, suffixes=("", "_other"))
    known = both[["correct", "correct_other"]].dropna().astype(bool).to_numpy()
    near = both.dropna(subset=["neighbours", "neighbours_other"])
    ranks = both[["q", "q_other"]].rank().to_numpy()
    return {
        "n": len(both),
        "probes": agreement(known[:, 0], known[:, 1]).as_dict() if len(known) else None,
        "q_correlation": float(np.corrcoef(ranks.T)[0, 1]) if (ranks.std(0) > 0).all() else None,
        "shared_neighbours": shared_neighbours(near["neighbours"], near["neighbours_other"]) if len(near) else None,
    }


def controls(workspace: Workspace, like: str) -> list[str]:
    """Names of the two controls of an encoder, stored where they are not yet: its network with random weights, raw pixels."""
    import torch

    from sslviz.encoders.backbones import BACKBONES
    from sslviz.encoders.spec import EncoderSpec, InputSpec, load_spec
    from sslviz.encoders.store import save_encoder

    spec = load_spec(workspace, like)
    made: list[tuple[EncoderSpec, Any]] = []
    if spec.backbone not in ("arrays", "pixels"):
        torch.manual_seed(0)
        net = BACKBONES[spec.backbone].build(spec.architecture)
        kind = spec.fingerprint_of("backbone", "architecture", "input")
        changes = {"name": f"random-weights-{kind[:6]}", "method": "random weights", "source": "never trained, seed 0"}
        made.append((spec.model_copy(update={**changes, "network": "", "licence": "", "notes": ()}), net.state_dict()))
    pixels = EncoderSpec(
        name="raw-pixels",
        backbone="pixels",
        architecture={"size": _PIXELS},
        feature_dim=3 * _PIXELS**2,
        input=InputSpec(size=_PIXELS, resize=_PIXELS, mean=(0, 0, 0), std=(1, 1, 1)),
        method="raw pixels",
        source="no network",
    )
    made.append((pixels, {}))
    for control, weights in made:
        if control.name not in workspace.encoders():
            save_encoder(workspace, control, weights)
    return [control.name for control, _ in made]
