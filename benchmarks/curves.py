"""Markdown tables for docs/results.md out of a workspace's compression curves.

python -m benchmarks.curves --workspace workspace --dataset demo --encoders simclr-demo vicreg-demo
"""

import argparse

from benchmarks.record import percent
from sslviz.data import dataset as datasets
from sslviz.jobs.inputs import result_state
from sslviz.store.workspace import Workspace


def signed(values: list[float]) -> str:
    value, low, high = (100 * v for v in values)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--encoders", nargs="+", required=True)
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    dataset = datasets.load(workspace, options.dataset)
    found = {}
    for encoder in options.encoders:
        state, why, result = result_state(workspace, dataset, encoder, "compress")
        if result is None or state != "fresh":
            raise SystemExit(f"{encoder}: {state} ({why})")
        found[encoder] = result
    lost = "lost at 40 %: discriminative | random (seeds) | discriminative beside random | lower tail | upper tail | pca"
    print(f"| encoder | top-1 | {lost} |")
    print("|---|---|---|---|---|---|---|---|")
    for encoder, result in found.items():
        s = result.content["summary"]
        at = s["at_40"]
        seeds = at["random"]["by_seed"]
        cells = [
            encoder,
            percent(s["top1"]),
            f"{percent(at['discriminative']['drop'])} ({' to '.join(percent(v) for v in at['discriminative']['interval'])})",
            f"{percent(at['random']['drop'])} ({percent(min(seeds))} to {percent(max(seeds))})",
            signed(at["discriminative"]["above_random"]),
            *(percent(at[kind]["drop"]) for kind in ("lower tail", "upper tail", "pca")),
        ]
        print("| " + " | ".join(cells) + " |")
    for encoder, result in found.items():
        top1 = result.table("curve").groupby(["reduction", "kind"], sort=False)["top1"].mean().unstack("kind").drop(0.0)
        kinds = [kind for kind in top1 if kind != "full"]
        print(f"\n| {encoder}, features left out | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
        for reduction, line in top1.sort_index().iterrows():
            print(f"| {100 * reduction:.0f} % | " + " | ".join(percent(line[kind]) for kind in kinds) + " |")


if __name__ == "__main__":
    main()
