"""Markdown tables for docs/results.md out of a workspace's score results.

python -m benchmarks.record --workspace workspace --dataset cifar10 --encoders simclr-cifar10-e020 simclr-cifar10
"""

import argparse

from sslviz.data import dataset as datasets
from sslviz.jobs.inputs import result_state
from sslviz.store.results import Result
from sslviz.store.workspace import Workspace


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:z.1f}"


def cell(report: dict) -> str:
    span = report["intervals"]["auroc"]
    return percent(report["auroc"]) + (f" ({percent(span[0])} to {percent(span[1])})" if span else "")


def asked_for(*jobs: str) -> dict[str, list[Result]]:
    """The fresh results of these jobs, of each encoder named on the command line; ends with a line where one is not fresh."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--encoders", nargs="+", required=True)
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    dataset = datasets.load(workspace, options.dataset)
    found: dict[str, list[Result]] = {}
    for encoder in options.encoders:
        for job in jobs:
            state, why, result = result_state(workspace, dataset, encoder, job)
            if result is None or state != "fresh":
                raise SystemExit(f"{encoder}: {state} ({why})")
            found.setdefault(encoder, []).append(result)
    return found


def main() -> None:
    results = asked_for("score", "probe")
    print(
        "| encoder | top-1 | eps | mean share | empty sets | empty at eps 4 | RankMe | AUPRC of Q | base rate | lift | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    found = {}
    for encoder, (score, probe) in results.items():
        s = found[encoder] = score.content["summary"]
        q = s["reports"]["q"]
        low, high = q["intervals"]["auprc"]
        row = [
            encoder,
            percent(probe.content["summary"]["top1"]),
            f"{s['eps']:g}",
            f"{s['mean_share']:.1f} %",
            percent(s["empty_share"][s["judged_on"]]) + " %",
            percent(s["empty_share_paper"]) + " %",
            f"{s['rank_me']:.0f}",
            f"{percent(q['auprc'])} ({percent(low)} to {percent(high)})",
            percent(q["base_rate"]),
            f"{q['lift']:.3f}",
            q["verdict"],
        ]
        print("| " + " | ".join(row) + " |")
    names = list(next(iter(found.values()))["reports"])
    print("\n| AUROC of | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for name in names:
        print(f"| {name} | " + " | ".join(cell(s["reports"][name]) for s in found.values()) + " |")


if __name__ == "__main__":
    main()
