"""What the labelled causes of the demo set say of a score: Markdown tables for docs/results.md.

python -m benchmarks.demo_record --workspace workspace --encoders simclr-demo supervised-demo

Per cause: the probe's accuracy, and each score's AUROC among the test images of that cause alone. Within class: pairs of a
right and a wrong image of the same class only, so that a score cannot win by telling easy classes from hard ones. Trouble:
the AUROC of telling images without trouble (higher) from those with it; no probe, no class labels.
"""

import argparse

import numpy as np
import pandas as pd

from benchmarks.record import cell, percent
from sslviz.analysis.evaluation import evaluate_score
from sslviz.data import dataset as datasets
from sslviz.jobs.inputs import result_state
from sslviz.store.files import read_table
from sslviz.store.workspace import Workspace

SCORES = ("q", "norm", "nn1", "nn10", "std", "msp")
CAUSES = ("none", "occluded", "far", "lying", "dark", "blurred")


def within_class(score: np.ndarray, correct: np.ndarray, label: np.ndarray) -> float:
    """Share of the pairs (right, wrong) of one class in which the right one scores higher; ties count half."""
    good = pairs = 0.0
    for k in np.unique(label):
        hits, misses = score[(label == k) & correct], score[(label == k) & ~correct]
        good += (hits[:, None] > misses).sum() + 0.5 * (hits[:, None] == misses).sum()
        pairs += len(hits) * len(misses)
    return good / pairs if pairs else np.nan


def within_class_cell(score: np.ndarray, correct: np.ndarray, label: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    draws = [within_class(score[i], correct[i], label[i]) for i in rng.integers(0, len(score), (300, len(score)))]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return f"{percent(within_class(score, correct, label))} ({percent(low)} to {percent(high)})"


def load(workspace: Workspace, dataset: datasets.Dataset, encoder: str) -> pd.DataFrame:
    """Test images with their scores, whether the probe is right, and their causes."""
    state, why, score = result_state(workspace, dataset, encoder, "score")
    _, _, probe = result_state(workspace, dataset, encoder, "probe")
    if score is None or probe is None or state != "fresh":
        raise SystemExit(f"{encoder}: {state} ({why})")
    table = score.table("scores").merge(probe.table("predictions")[["sample_id", "correct"]], on="sample_id")
    causes = read_table(dataset.folder / "causes.parquet").drop(columns="label")
    return table[table["split"] == "test"].merge(causes, on="sample_id").astype({"correct": bool})


def report(table: pd.DataFrame) -> None:
    groups = {name: table[table["trouble"] == name] for name in CAUSES}
    groups |= {"usual place": table[table["usual_place"]], "another place": table[~table["usual_place"]]}
    print("| images | n | top-1 | " + " | ".join(f"AUROC of {s}" for s in SCORES) + " |")
    print("|---|---|---|" + "---|" * len(SCORES))
    for name, part in {"all": table, **groups}.items():
        cells = [cell(evaluate_score(part[s], part["correct"]).as_dict()) for s in SCORES]
        print(f"| {name} | {len(part):,} | {percent(part['correct'].mean())} | " + " | ".join(cells) + " |")
    correct, label = table["correct"].to_numpy(), table["label"].to_numpy()
    cells = [within_class_cell(table[s].to_numpy(), correct, label) for s in SCORES]
    print("| pairs within a class | | | " + " | ".join(cells) + " |")
    cells = [cell(evaluate_score(table[s], table["trouble"] == "none").as_dict()) for s in SCORES]
    print("| no trouble against trouble | | | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--encoders", nargs="+", default=["simclr-demo", "supervised-demo"])
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    dataset = datasets.load(workspace, options.dataset)
    for encoder in options.encoders:
        print(f"\n{encoder}:\n")
        report(load(workspace, dataset, encoder))


if __name__ == "__main__":
    main()
