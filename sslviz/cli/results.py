"""A job's result in words and tables; all of it is had with --json."""

from collections.abc import Callable
from typing import Any

from sslviz.cli.terminal import out, percent
from sslviz.store.workspace import Workspace


def print_result(job: str, result: dict[str, Any], workspace: Workspace) -> None:
    """Print what a run of this job gave, for people."""
    printed = _PRINTED.get(job)
    if printed is not None:
        printed(result, workspace)
        return
    from sslviz.jobs.runner import in_words

    for key, value in result.items():
        out.print(f"{key}: {in_words(value)}", markup=False)


def _print_embedded(result: dict[str, Any], _: Workspace) -> None:
    out.print(
        f"{result['n']:,} embeddings of {result['features']} features: {result['computed']:,} computed, "
        f"{result['kept']:,} kept, {len(result['bad'])} bad files; "
        f"{result['images_per_second']:g} images/s on {result['device']}."
    )


def _print_probe(result: dict[str, Any], _: Workspace) -> None:
    where = " (out of fold)" if result["out_of_fold"] else ""
    ended = f"{'converged' if result['converged'] else 'NOT converged'} in {result['iterations']} iterations"
    if result["converged"] is None:
        ended = f"{result['iterations']} epochs of SGD"
    out.print(
        f"top-1 {percent(result['top1'])} % on {result['n_judged']:,} {result['judged_on']} images{where}, "
        f"{result['n_classes']} classes; L2 {result['l2']:g}, {ended}."
    )
    knn = "" if result["knn_top1"] is None else f"kNN top-1 {percent(result['knn_top1'])} %; "
    out.print(f"{knn}expected calibration error {percent(result['ece'])} %.")


def _print_export(result: dict[str, Any], _: Workspace) -> None:
    out.print(f"encoder {result['encoder']}: {result['words']}", markup=False)
    out.print(f"{result['folder']}: encoder.json, weights.safetensors, features.csv", markup=False)


def _print_looks(result: dict[str, Any], _: Workspace) -> None:
    from rich.table import Table

    from sslviz.analysis.looks import WHO

    height, width = result["map_size"]
    out.print(
        f"Mean IoU of heatmaps ({result['method']}, layer {result['layer']}, {height} x {width}) with masks, {result['n']:,} "
        f"{result['judged_on']} images; thresholds {result['threshold']:g} and {result['mask_threshold']:g}"
        f"{'; signed (ours)' if result['signed'] else ''}:"
    )
    table = Table("mask", "images", *WHO.values())
    cells = {(g["kind"], g["group"], g["who"]): g for g in result["groups"] if g["metric"] == "iou"}
    for kind, group in dict.fromkeys((kind, group) for kind, group, _ in cells):
        mine = cells[(kind, group, "map")]
        if mine["mean"] is None:
            continue
        span = mine["interval"]
        others = [cells[(kind, group, who)]["mean"] for who in WHO if who != "map"]
        shown = ["-" if value is None else f"{value:.3f}" for value in others]
        beside = f" ({span[0]:.3f} to {span[1]:.3f})" if span else ""
        table.add_row(kind, f"{group} ({mine['n']:,})", f"{mine['mean']:.3f}{beside}", *shown)
    out.print(table)
    for gap in result["differences"]:
        span = gap["interval"]
        said = f"95 % {span[0]:+z.3f} to {span[1]:+z.3f}" if span else "too few images for an interval"
        out.print(f"{gap['what']}, {gap['of']}: {gap['mean']:+z.3f} ({said})", markup=False)


def _print_mending(result: dict[str, Any], _: Workspace) -> None:
    from rich.table import Table

    if result["verdict"]:
        out.print(result["verdict"], markup=False)
    out.print(
        f"{result['n']:,} {result['judged_on']} images; {result['method']}, {result['epochs']} epochs of "
        f"{result['images']:,} images, learning rate {result['lr']:g}; "
        f"D of the base: {result['n_discriminative']} features at eps {result['eps']:g}."
    )
    table = Table("arm", "seed", "top-1", "40 % fewer", "AUROC", "Q right", "Q wrong", "mended", "broken", padding=(0, 0))
    for row in result["arms"]:
        numbers = [percent(row[k]) for k in ("top1", "top1_40", "auroc")]
        q = ["-" if row[k] is None else f"{row[k]:.4f}" for k in ("q_correct_fixed", "q_wrong_fixed")]
        changed = ["-" if row.get(k) is None else str(row[k]) for k in ("mended", "broken")]
        seed = "-" if row["arm"] == "base" else str(row["seed"])
        table.add_row(row["arm"], seed, *numbers, *q, *changed)
    out.print(table)
    out.print(
        "40 % fewer: top-1 on 60 % of the features. Q with D and eps of the base. Mended / broken: images that only the arm's / "
        "only the base's probe gets right. All figures and curves: the Fine-tune page; --json."
    )


def _print_comparison(result: dict[str, Any], _: Workspace) -> None:
    from rich.table import Table

    rows = result["rows"]
    out.print(f"Encoders on {result['dataset']}, judged on {rows[0]['judged_on']}; AUROC for the probe being right:")
    table = Table("encoder", "top-1", "eps", "empty", "RankMe", "Q", "best rival", "probe")
    table.columns[0].no_wrap = True
    for row in rows:
        facts = [percent(row["top1"]), f"{row['eps']:g}", f"{percent(row['empty_share'])} %", f"{row['rank_me']:.0f}"]
        aurocs = {n: r["auroc"] for n, r in row["reports"].items()}
        best = row["best_rival"]
        shown = f"{best} {percent(aurocs[best])}" if best else "-"
        table.add_row(row["encoder"], *facts, percent(aurocs.get("q")), shown, percent(aurocs.get("msp")))
    out.print(table)
    out.print("Best rival: best label-free score other than Q. Probe: its confidence (uses labels). All, with intervals: --json.")
    first = rows[0]["encoder"]
    against = [p for p in result["pairs"] if p["encoders"][0] == first]
    if not against:
        return
    table = Table(f"beside {first}", f"only {first} right", "only this right", "same errors", "neighbours")
    table.columns[0].no_wrap = True
    for p in against:
        probes = p["probes"] or {"only_first": "-", "only_second": "-", "consistency": None}
        consistency = probes["consistency"]
        near = "-" if p["shared_neighbours"] is None else f"{percent(p['shared_neighbours'])} %"
        same = "-" if consistency is None else f"{consistency:z.2f}"
        table.add_row(p["encoders"][1], str(probes["only_first"]), str(probes["only_second"]), same, near)
    out.print(table)
    out.print(
        "Same errors: error consistency (0: as expected by chance, 1: identical). Neighbours: share of an image's nearest train "
        "images that the two encoders have in common. All pairs: --json."
    )


def _print_curve(result: dict[str, Any], workspace: Workspace) -> None:
    from rich.table import Table

    from sslviz.analysis.compression import by_size
    from sslviz.store.results import latest_result

    found = latest_result(workspace.results(result["dataset"], result["encoder"], "compress"))
    assert found is not None
    top1 = by_size(found.table("curve"))
    kinds = [str(kind) for kind in top1]
    out.print(
        f"top-1 of linear probes on fewer features, {result['n_judged']:,} {result['judged_on']} images; full width "
        f"({result['n_features']}) {percent(result['top1'])}; eps {result['eps']:g}, L2 {result['l2']:g}:"
    )
    table = Table("less by", "features", *kinds, padding=(0, 0))
    for line in top1.reset_index().to_dict("records"):
        table.add_row(f"{100 * line['reduction']:.0f} %", str(line["n_features"]), *(percent(line[kind]) for kind in kinds))
    out.print(table)
    for kind, at in result["at_40"].items():
        low, high = at["interval"]
        said = f"{kind}: {percent(at['drop'])} points lost at 40 % (95 % {percent(low)} to {percent(high)})"
        if at["above_random"]:
            more, low, high = at["above_random"]
            said += f", {100 * more:+z.1f} beside random ones ({100 * low:+z.1f} to {100 * high:+z.1f})"
        first = [f"first more than {points} at {100 * r:.0f} %" for points, r in result["enough"][kind].items() if r is not None]
        out.print(said + (f"; {', '.join(first)}." if first else "."))


def _print_scores(result: dict[str, Any], workspace: Workspace) -> None:
    from rich.table import Table

    from sslviz.analysis.rivals import score_titles
    from sslviz.data import dataset as datasets

    titles = datasets.load(workspace, result["dataset"]).titles
    rule = "auto" if result["eps_auto"] else "given"
    out.print(
        f"{result['n']:,} images scored at eps {result['eps']:g} ({rule}; mean activation share {result['mean_share']:.1f} %), "
        f"{result['n_discriminative']} of {result['n_features']} features discriminative, "
        f"RankMe {result['rank_me']:.1f}."
    )
    reports = result["reports"]
    if reports:
        q = reports["q"]
        fold = ", out of fold" if result["out_of_fold"] else ""
        out.print(f"Against the linear probe on {result['judged_on']} ({q['n']:,} images{fold}), verdict on Q: {q['verdict']}.")
        table = Table("score", "AUROC", "95 %", "AUPRC", "base rate", "lift")
        for name, title in score_titles(reports).items():
            r, span = reports[name], reports[name]["intervals"]["auroc"]
            table.add_row(
                title,
                percent(r["auroc"]),
                "-" if span is None else f"{percent(span[0])} – {percent(span[1])}",
                percent(r["auprc"]),
                percent(r["base_rate"]),
                "-" if r["lift"] is None else f"{r['lift']:.3f}",
            )
        out.print(table)
        if q["reason"]:
            out.print(q["reason"], markup=False)
        if result["best_rival"]:
            out.print(result["best_rival"]["words"], markup=False)
    out.print(f"The {len(result['worst'])} lowest Q-Scores of {result['judged_on']}:")
    for row in result["worst"]:
        label = titles[row["label"]] if row["label"] >= 0 else "no label"
        said = f", probe says {titles[int(row['prediction'])]}" if row.get("correct") is False else ""
        out.print(f"  {row['q']:.4f}  {row['sample_id']}  ({label}{said})", markup=False)
    out.print(f"Look at them: {_app_url(workspace, result)}", markup=False)


def _app_url(workspace: Workspace, result: dict[str, Any]) -> str:
    from urllib.parse import urlencode

    from sslviz.ui.server import running_url

    query = urlencode({"dataset": result["dataset"], "encoder": result["encoder"]})
    base = running_url(workspace)
    return f"{base}/scores?{query}" if base else f"sslviz app --workspace {workspace.root}, then /scores?{query}"


_PRINTED: dict[str, Callable[[dict[str, Any], Workspace], None]] = {
    "analyze": _print_scores,
    "compare": _print_comparison,
    "compress": _print_curve,
    "demo": _print_scores,
    "embed": _print_embedded,
    "export": _print_export,
    "finetune": _print_mending,
    "interpret": _print_looks,
    "probe": _print_probe,
    "score": _print_scores,
}
