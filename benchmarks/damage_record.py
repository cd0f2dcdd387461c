"""The damage check beside what labels say of the same scores: a Markdown table for docs/evidence.md.

python -m benchmarks.damage_record --workspace workspace demo/simclr-demo demo/supervised-demo
"""

import argparse

import pandas as pd
from scipy import stats

from benchmarks.record import cell
from sslviz.data import dataset as datasets
from sslviz.data.damages import DAMAGES
from sslviz.jobs.inputs import result_state
from sslviz.store.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("pairs", nargs="+", help="dataset/encoder")
    parser.add_argument("--score", default="q", help="q or a rival")
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    names = sorted(DAMAGES.names(), key=("covered", "shrunk", "darkened", "noised", "blurred").index)
    print("| data set, encoder | AUROC | " + " | ".join(names) + " | check says |\n|---|---|" + "---|" * (len(names) + 1))
    rows = []
    for pair in options.pairs:
        name, encoder = pair.split("/")
        state, why, result = result_state(workspace, datasets.load(workspace, name), encoder, "score")
        if result is None or state != "fresh":
            raise SystemExit(f"{pair}: {state} ({why})")
        summary = result.content["summary"]
        if not summary["damage"]:
            raise SystemExit(f"{pair}: no damage check. Make it: sslviz score --dataset {name} --encoder {encoder} --damage 300")
        table = pd.DataFrame(summary["damage"])
        falls = table[table["score"] == options.score].set_index("damage")["falls"]
        report = summary["reports"][options.score]
        rows.append({"auroc": report["auroc"], **falls})
        shares = " | ".join(f"{100 * falls[d]:.0f}" for d in names)
        says = "upside down" if falls[["covered", "shrunk"]].min() < 0.5 else "nothing"
        print(f"| {name}, {encoder} | {cell(report)} | {shares} | {says} |")
    if len(rows) > 2:
        table = pd.DataFrame(rows)
        found = [rank_correlation(table["auroc"], table[d]) for d in names]
        print("| rank correlation with the AUROC | | " + " | ".join(f"{r:+.2f}" for r, _ in found) + " | |")
        print("| p, two-sided, by permutations | | " + " | ".join(f"{p:.3f}" for _, p in found) + " | |")


def rank_correlation(a: pd.Series, b: pd.Series) -> tuple[float, float]:
    """(Spearman's, its two-sided p: twice the share of the pairings of a with b in which it is as high, or as low)."""
    test = stats.permutation_test(
        (a,), lambda x: stats.spearmanr(x, b).statistic, permutation_type="pairings", vectorized=False, rng=0
    )
    return float(test.statistic), float(test.pvalue)


if __name__ == "__main__":
    main()
