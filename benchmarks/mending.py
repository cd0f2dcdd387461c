"""Markdown tables for docs/results.md out of a workspace's fine-tunings.

python -m benchmarks.mending --workspace workspace --dataset demo --encoders simclr-demo byol-demo
"""

from benchmarks.record import asked_for, percent

SHOWN = {
    "top1": "top-1",
    "top1_40": "top-1, 40 % fewer",
    "auroc": "AUROC of Q",
    "auprc": "AUPRC of Q",
    "q_correct_fixed": "Q right, D fixed",
    "q_wrong_fixed": "Q wrong, D fixed",
    "q_correct": "Q right, D anew",
    "q_wrong": "Q wrong, D anew",
    "core_correct": "IoU object, right",
    "core_wrong": "IoU object, wrong",
    "spurious_correct": "IoU surroundings, right",
    "spurious_wrong": "IoU surroundings, wrong",
}
SHARES = {"top1", "top1_40", "auroc", "auprc"}


def main() -> None:
    for encoder, (result,) in asked_for("finetune").items():
        summary, arms = result.content["summary"], result.table("arms")
        pace = f"{summary['epochs']} epochs, learning rate {summary['lr']:g}"
        print(f"\n**{encoder}**: {summary['method']}, {pace}, {summary['n']:,} images. {summary['verdict']}\n")
        print("| arm | seeds | lambda1 | " + " | ".join(SHOWN.values()) + " | mended | broken |")
        print("|---|---|---|" + "---|" * (len(SHOWN) + 2))
        for arm, part in arms.groupby("arm", sort=False):
            means = part.mean(numeric_only=True)
            cells = [percent(means[k]) if k in SHARES else f"{means[k]:.4f}" for k in SHOWN]
            changed = ["-" if arm == "base" else f"{means[k]:.0f}" for k in ("mended", "broken")]
            seeds = "-" if arm == "base" else str(len(part))
            weight = "-" if arm == "base" else f"{means['lambda1']:.3g}"
            print(f"| {arm} | {seeds} | {weight} | " + " | ".join([*cells, *changed]) + " |")
        table = result.table("differences")
        table = table[table["figure"].isin(SHOWN) & table["mean"].notna()]
        for against, part in table.groupby("against", sort=False):
            wide = part.set_index(["arm", "figure"])
            known = [k for k in SHOWN if k in set(part["figure"])]
            print(f"\n| less {against} | " + " | ".join(SHOWN[k] for k in known) + " |")
            print("|---|" + "---|" * len(known))
            for arm in dict.fromkeys(part["arm"]):
                cells = []
                for k in known:
                    row, factor, digits = wide.loc[(arm, k)], 100 if k in SHARES else 1, 1 if k in SHARES else 4
                    mean, low, high = (f"{factor * row[v]:+.{digits}f}" for v in ("mean", "low", "high"))
                    cells.append(f"{mean} ({low} to {high})")
                print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
