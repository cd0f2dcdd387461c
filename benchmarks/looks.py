"""Markdown tables for docs/results.md out of a workspace's interpret results.

python -m benchmarks.looks --workspace workspace --dataset demo --encoders simclr-demo vicreg-demo
"""

from benchmarks.record import asked_for
from sslviz.analysis.looks import WHO


def main() -> None:
    found = {encoder: results[0].content["summary"] for encoder, results in asked_for("interpret").items()}
    print(f"| encoder | mask | images | {' | '.join(WHO.values())} |")
    print("|---|---|---|---|---|---|---|---|")
    for encoder, summary in found.items():
        cells = {(g["kind"], g["group"], g["who"]): g for g in summary["groups"] if g["metric"] == "iou"}
        for kind, group in dict.fromkeys((k, g) for k, g, _ in cells if g in ("correct", "wrong")):
            mine = cells[kind, group, "map"]
            low, high = mine["interval"] or (float("nan"), float("nan"))
            bases = " | ".join(f"{cells[kind, group, who]['mean']:.3f}" for who in WHO if who != "map")
            print(f"| {encoder} | {kind} | {group} ({mine['n']:,}) | {mine['mean']:.3f} ({low:.3f} to {high:.3f}) | {bases} |")
    compared = (
        "core above spurious | core above the blob | core: right above wrong | beyond the blob | spurious: right above wrong"
    )
    print(f"\n| encoder | {compared} | hottest point on the object |")
    print("|---|---|---|---|---|---|---|")
    for encoder, summary in found.items():
        gaps = {(d["what"], d["of"]): d for d in summary["differences"]}
        points = {
            g["who"]: g["mean"] for g in summary["groups"] if (g["metric"], g["kind"], g["group"]) == ("pointing", "core", "all")
        }
        shown = [
            "{mean:+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})".format(**gaps[key]) if key in gaps else "-"
            for key in (
                ("core - spurious", "all"),
                ("core - blob", "all"),
                ("correct - wrong", "core"),
                ("correct - wrong, beyond the blob", "core"),
                ("correct - wrong", "spurious"),
            )
        ]
        print(f"| {encoder} | {' | '.join(shown)} | {100 * points['map']:.1f} % (blob {100 * points['blob']:.1f} %) |")


if __name__ == "__main__":
    main()
