"""Heatmaps against masks: in words, as charts, feature by feature, and image by image."""

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from sslviz.analysis.mending import told
from sslviz.data.masks import mask_facts
from sslviz.heatmaps import HEATMAPS
from sslviz.jobs.interpret import InterpretSettings
from sslviz.store.results import Result
from sslviz.ui import reads, report, widgets
from sslviz.ui.figures import interpret as figures
from sslviz.ui.forms import settings_fields
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import plain

_SHOWN = 24
_AS = ["heat over the picture", "side by side"]
METRICS = {
    "iou": "IoU, weighted by heat",
    "area_iou": "IoU of areas",
    "pointing": "hottest point inside",
    "mass": "heat inside",
}


def no_masks(here: Frame) -> None:
    """How masks come in; heatmaps of single images need none."""
    st.info(
        "This data set has no masks, so nothing can say whether the encoder looks at the object. Heatmaps of single images need "
        "none: they are on the Sample page."
    )
    folder = shlex.quote(str(here.dataset.root or "FOLDER"))
    st.code(f"sslviz data add {here.dataset.name} {folder} --masks MASKS", language="bash", wrap_lines=True)
    st.caption(
        "MASKS holds core/ and spurious/ folders, or one tree like the images' own (then the rest of a picture counts as "
        "spurious), or Oxford-IIIT Pets trimaps, or Salient ImageNet."
    )
    st.page_link("pages/sample.py", label="Sample: where does it look in this image?", icon=":material/image:")


def groups(summary: dict[str, Any]) -> pd.DataFrame:
    """The summary's figures as a table: kind, group, metric, who, mean, low, high, n."""
    table = pd.DataFrame(summary["groups"])
    spans = table.pop("interval")
    return table.assign(low=[s and s[0] for s in spans], high=[s and s[1] for s in spans])


def headline(summary: dict[str, Any], table: pd.DataFrame) -> None:
    """What the heatmaps cover, beside a blob in the middle of the picture, and right beside wrong."""
    mean = table[table["metric"] == "iou"].set_index(["kind", "group", "who"])["mean"]
    core, blob, ceiling = (mean[("core", "all", who)] for who in ("map", "blob", "ceiling"))
    spurious, shuffled = (
        "–" if pd.isna(mean[key]) else f"{mean[key]:.2f}" for key in (("spurious", "all", "map"), ("core", "all", "shuffled"))
    )
    gaps = {(d["what"], d["of"]): d for d in summary["differences"]}
    span = gaps[("core - blob", "all")]["interval"] if ("core - blob", "all") in gaps else None
    beside = f"**{_how(span, 'as much as')} a blob in the middle of every picture would**" if span else "a blob in the middle"
    words = (
        f"Over {summary['n']:,} {summary['judged_on']} images the heatmaps overlap the object with a mean IoU of **{core:.2f}**, "
        f"{beside} ({blob:.2f}). Another image's heatmap reaches {shuffled}; the mask itself, reduced to the heatmaps' "
        f"{summary['map_size'][0]} x {summary['map_size'][1]} resolution, {ceiling:.2f}. IoU with the surroundings: {spurious}."
    )
    if ("core", "both masks", "map") in mean:
        n, alike = summary["n_with_spurious"], mean[("core", "both masks", "map")]
        words += f" They are marked in {n:,} images only, whose objects are covered to {alike:.2f}."
    if summary.get("neither") is not None:
        words += f" {100 * summary['neither']:.0f} % of the heat lies on neither: on other objects, or at edges."
    gap, beyond = (gaps.get((what, "core")) for what in ("correct - wrong", "correct - wrong, beyond the blob"))
    if gap and beyond and beyond["interval"] is None:
        words += " Of right or of wrong images there are fewer than ten: too few to compare them."
    elif gap and beyond:
        words += (
            f" Images the probe gets right less those it gets wrong: {_span(gap)} of IoU with the object. For a blob in the "
            f"middle this difference is {gap['mean'] - beyond['mean']:+z.2f}, by the objects' size and place alone. What is "
            f"left, {_span(beyond)}, is **{_how(beyond['interval'], 'not distinguishable from')} zero**."
        )
    st.markdown(words)
    widgets.facts(
        [
            (
                "Object",
                f"{core:.2f}",
                f"{len(summary['refused'])} image{'s' if len(summary['refused']) > 1 else ''} left out"
                if summary["refused"]
                else "mean IoU",
            ),
            ("Surroundings", spurious, "mean IoU"),
            ("Right", f"{summary['n_correct']:,}", "images"),
            ("Wrong", f"{summary['n_wrong']:,}", "images"),
            ("Zero maps", f"{summary['n_zero']:,}", "no positive evidence"),
        ]
    )
    title = HEATMAPS[summary["method"]].title
    signed = ", those far below their mean negated (signed, ours)" if summary.get("signed") else ""
    st.caption(plain(f"{title} of layer {summary['layer']}, features that fire in D at eps {summary['eps']:g}{signed}."))
    for note in summary["notes"]:
        st.caption(plain(note))


def _how(interval: list[float], same: str) -> str:
    return {"gain": "more than", "loss": "less than", "unclear": same}[told(*interval)]


def _span(difference: dict[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{difference['mean']:+z.2f} (95 % {low:+z.2f} to {high:+z.2f})"


def charts(table: pd.DataFrame, curve: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Overlap by right and wrong beside base rates, and the same over the heatmap's threshold."""
    metric = st.segmented_control(
        "Measure", list(METRICS), default="iou", required=True, format_func=METRICS.__getitem__, key="interpret-metric"
    )
    part = _told_apart(table[table["metric"] == metric])
    widgets.chart(
        figures.overlap(part, METRICS[str(metric)]),
        part,
        "interpret-overlap",
        f"{METRICS[str(metric)]} with core and spurious masks",
    )
    st.caption(
        "Core: the object. Spurious: its surroundings. Marks are base rates: a blob in the middle, a map that is equal "
        "everywhere, another image's map; and what the mask itself reaches as a map of their size. Spurious numbers "
        "are only to be compared with core ones."
    )
    st.markdown("**How the thresholds matter**")
    levels = sorted(curve["mask_threshold"].unique())
    own = min(levels, key=lambda level: abs(level - summary["mask_threshold"]))
    at = st.segmented_control(
        "Masks count from", levels, default=own, required=True, format_func="{:g}".format, key="interpret-mask-threshold"
    )
    shown = _told_apart(curve[curve["mask_threshold"] == (own if at is None else at)])
    widgets.chart(figures.thresholds(shown), curve, "interpret-thresholds", "Mean IoU over the heatmap's threshold")
    st.caption(
        f"The figures above use {summary['threshold']:g} for heatmaps and {summary['mask_threshold']:g} for masks (ours; the "
        "paper names none). Masks that people drew or voted for are soft; hard ones are the same from any threshold on."
    )


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Right and wrong where both are known, else all images together."""
    known = {"correct", "wrong"} <= set(table["group"])
    return table[table["group"].isin(["correct", "wrong"] if known else ["all"])]


def by_feature(table: pd.DataFrame) -> None:
    """Which features look at the object and which at its surroundings; a click on a row opens the feature."""
    if table.empty:
        return
    st.subheader("Feature by feature")
    table = table.assign(lift=table["core"] - table["core_area"])
    widgets.chart(figures.features(table), table, "interpret-features", "Share of each feature's map on the object")
    order = table.sort_values("lift", ascending=False, ignore_index=True)
    columns = {
        "feature": "feature",
        "n": "fires in",
        "core": "on the object",
        "core_area": "object's share",
        "lift": "difference",
    }
    if table["spurious"].notna().any():
        columns |= {"spurious": "on the surroundings", "spurious_area": "surroundings' share"}
    if order["name"].ne("").any():
        columns |= {"name": "workers' word", "overlap": "overlap", "support": "images"}
    shown = order[list(columns)].rename(columns=columns)
    numbers = {
        name: st.column_config.NumberColumn(format="%.2f")
        for name in shown.columns.difference(["feature", "fires in", "workers' word", "images"])
    }
    event: Any = st.dataframe(
        shown,
        hide_index=True,
        width="stretch",
        height=280,
        column_config=numbers,
        on_select="rerun",
        selection_mode="single-row",
        key="interpret-feature-table",
        alt="of each feature, the share of its heat that lies on the object",
    )
    st.caption("Over the images a feature fires in: the share of its own map that lies on the object. Choose a row to open it.")
    if event.selection.rows:
        widgets.go_to("features", feature=str(order["feature"].iat[event.selection.rows[0]]))


def otherwise(here: Frame, result: Result) -> None:
    """The form that makes the heatmaps again with other settings: method, thresholds, signed."""
    with st.expander("Make them in another way", icon=":material/tune:"):
        skip = {"dataset", "encoder", "workers", "device", "seed"}
        values = settings_fields(InterpretSettings, skip, prefix="interpret-set", columns=2)

        def start() -> None:
            settings = InterpretSettings(dataset=here.dataset.name, encoder=here.encoder, **(values or {}))
            widgets.start_job(here.workspace, "interpret", settings)

        busy = bool(widgets.active_runs(here.workspace, here.dataset.name, here.encoder))
        st.button("Make the heatmaps", on_click=start, disabled=busy or values is None, key="interpret-otherwise")
        made = {k: v for k, v in result.content["settings"].items() if k not in skip}
        st.caption(plain("Those above: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in made.items()) + "."))


def images(here: Frame, result: Result, looks: pd.DataFrame, scored: pd.DataFrame) -> None:
    """24 heatmaps a page, from the stored maps: alone, or beside picture, masks and another encoder's."""
    st.subheader("Image by image")
    judged = looks[["sample_id", "core_iou_map", "correct"]]  # `correct` as the job judged it: on train images out of fold
    table = judged.merge(scored.drop(columns="correct", errors="ignore"), on="sample_id", how="inner")
    table = table[table["row"].notna()]
    left, right = st.columns(2)
    shown = left.selectbox("Show", report.outcomes(table), key="interpret-show", bind="query-params", persist_state="session")
    order = right.selectbox(
        "Order", ["lowest overlap with the object first", "highest first"], key="interpret-order", persist_state="session"
    )
    table = report.of_outcome(table, shown)
    table = table.sort_values(["core_iou_map", "sample_id"], ascending=[order != "highest first", True])
    if table.empty:
        st.info("No image fits.")
        return
    left, right = st.columns(2)
    strip = (
        left.segmented_control("As", _AS, default=_AS[0], required=True, key="interpret-as", persist_state="session") == _AS[1]
    )
    beside, others = "", _others(here, result) if strip else {}
    if others:
        say = lambda encoder: encoder or "no other encoder"  # noqa: E731
        beside = right.selectbox("Beside", ["", *others], format_func=say, key="interpret-beside")
    panels = ["the picture", f"under the heat of {here.encoder}", "what counts as the object", "as its surroundings"]
    if beside:
        other = others[beside].table("looks").set_index("sample_id")["core_iou_map"]
        n = len(table)
        table = table[table["sample_id"].isin(other.index)].assign(beside=lambda t: t["sample_id"].map(other))
        if len(table) < n:
            st.caption(plain(f"{n - len(table):,} images have no heatmap by {beside} and are left out."))
        panels.append(f"under the heat of {beside}")
    if strip:
        st.caption(plain("From left: " + "; ".join(panels) + ". Grey: no such mask. Below: overlap with the object."))

    masks = mask_facts(here.dataset)

    def address(row: dict[str, Any]) -> str:
        key = result.key + (others[beside].key if beside else "") + (masks["fingerprint"] if masks else "")
        return widgets.heat_url(here.dataset, here.encoder, int(row["row"]), key, strip, beside)

    def overlaps(row: dict[str, Any]) -> str:
        return f"overlap {row['core_iou_map']:.3f}" + (f", {beside} {row['beside']:.3f}" if beside else "")

    look: dict[str, Any] = {"side": 150 * len(panels), "panels": len(panels)} if strip else {"side": 150}
    widgets.paged_gallery(here.dataset, table, "", "interpret", "images", most=_SHOWN, url=address, detail=overlaps, **look)


def _others(here: Frame, result: Result) -> dict[str, Result]:
    """Heatmaps of today that other encoders have over this data set, made in the same way."""
    others = [e for e in here.workspace.encoders() if e != here.encoder]
    found = {e: reads.stage(here.workspace, here.dataset, e, "heatmaps", "interpret") for e in others}
    fresh = {e: made.result for e, made in found.items() if made.state == "fresh" and made.result is not None}
    return {e: other for e, other in fresh.items() if _way(other) == _way(result)}


def _way(result: Result) -> list[Any]:
    return [result.content["summary"].get(k) for k in ("method", "threshold", "mask_threshold", "signed")]
