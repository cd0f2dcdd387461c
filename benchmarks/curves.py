"""Markdown tables for docs/results.md out of a workspace's compression curves.

python -m benchmarks.curves --workspace workspace --dataset demo --encoders simclr-demo vicreg-demo
"""

from benchmarks.record import asked_for, percent
from sslviz.analysis.compression import by_size


def signed(values: list[float]) -> str:
    value, low, high = (100 * v for v in values)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    found = {encoder: results[0] for encoder, results in asked_for("compress").items()}
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
        top1 = by_size(result.table("curve"))
        kinds = list(top1)
        print(f"\n| {encoder}, features left out | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
        for (reduction, _), line in top1.iterrows():
            print(f"| {100 * reduction:.0f} % | " + " | ".join(percent(line[kind]) for kind in kinds) + " |")


if __name__ == "__main__":
    main()
