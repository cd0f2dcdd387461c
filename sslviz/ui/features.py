"""Features: the sorted activation shares with the discriminative band, and one feature whole."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis.features import EPS_GRID
from sslviz.arrays import check_percentiles
from sslviz.errors import InputError
from sslviz.jobs.score import ScoreSettings
from sslviz.store.results import Result
from sslviz.ui import heat, reads, widgets
from sslviz.ui.figures import features as figures
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import plain

_CARDS = 24
GRID = [float(e) for e in EPS_GRID]
"""Every eps whose activation shares are stored."""


def settings(here: Frame, summary: dict[str, Any]) -> tuple[float, float, float]:
    """eps and percentiles chosen with the sliders; they begin at what the scores were made with."""
    of = f"{here.dataset.name}-{here.encoder}"
    left, right = st.columns(2)
    eps = left.select_slider(
        "eps: a feature fires above mu + eps·sigma",
        GRID,
        on_grid(summary["eps"]),
        format_func=lambda e: f"{e:g}",
        key=f"features-eps-{of}",
        persist_state="session",
        help="mu, sigma: mean and standard deviation over all features of the same image.",
    )
    with right:
        band = percentiles(
            "Percentiles of the activation shares that bound D",
            summary,
            f"features-band-{of}",
            help="D: the discriminative features. Choosing eps or percentiles by the probe's accuracy would use labels: the "
            "score would no longer be label-free.",
        )
    if band is None:
        st.stop()
    return float(eps), *band


def percentiles(label: str, summary: dict[str, Any], key: str, **options: Any) -> tuple[float, float] | None:
    """The two percentiles of the activation shares that bound D, on a slider; None, and said, where they coincide."""
    scored_with = (float(summary["lower"]), float(summary["upper"]))
    low, high = st.slider(label, 0.0, 100.0, scored_with, step=1.0, format="%.0f", key=key, persist_state="session", **options)
    if high <= low:
        st.warning("The upper percentile must be above the lower one: move the two ends apart.")
        return None
    return low, high


def on_grid(eps: float) -> float:
    """The eps nearest to it whose activation shares are stored."""
    return min(GRID, key=lambda e: abs(e - eps))


def at(table: pd.DataFrame, summary: dict[str, Any], eps: float, low: float, high: float) -> tuple[pd.DataFrame, Any]:
    """(feature, share, chosen, the band's shares) for other settings; exact at every eps of the grid."""
    if (eps, low, high) == (summary["eps"], summary["lower"], summary["upper"]):
        shares = table["share"].to_numpy()
    else:
        shares = np.stack(table["grid_shares"].to_list())[:, int(np.flatnonzero(EPS_GRID == eps)[0])].astype(np.float64)
    band = np.percentile(shares, check_percentiles(low, high))
    chosen = (shares >= band[0]) & (shares <= band[1])
    return table[["feature"]].assign(share=shares, chosen=chosen), (float(band[0]), float(band[1]))


def band_words(table: pd.DataFrame, band: tuple[float, float]) -> None:
    """How many features are discriminative, and what the band is."""
    dead = int((table["share"] == 0).sum())
    words = (
        f"**{int(table['chosen'].sum()):,} of {len(table):,} features are discriminative**: they fire in "
        f"{band[0]:.2f} to {band[1]:.2f} % of the train images. "
    )
    words += f"{dead:,} never fire." if dead else "All fire somewhere."
    st.markdown(words)


def score_button(here: Frame, summary: dict[str, Any], eps: float, low: float, high: float, busy: bool) -> None:
    """Where the sliders differ from what the scores were made with: the button that scores with them."""
    if (eps, low, high) == (summary["eps"], summary["lower"], summary["upper"]):
        return

    def start() -> None:
        wanted = ScoreSettings(dataset=here.dataset.name, encoder=here.encoder, eps=eps, lower=low, upper=high)
        widgets.start_job(here.workspace, "score", wanted)

    st.caption(
        f"The scores were made with eps {summary['eps']:g} and percentiles {summary['lower']:g} to {summary['upper']:g}; "
        "the chart shows the sliders' settings."
    )
    st.button("Score with these settings", on_click=start, disabled=busy, icon=":material/play_arrow:")


def shares_chart(table: pd.DataFrame, band: tuple[float, float], marked: int | None) -> int | None:
    """The chart of sorted shares; the feature that was clicked."""
    ranked = figures.sorted_shares(table)
    figure = figures.shares(ranked, band, marked)
    alt = "Activation share of every feature, most often firing first; the discriminative band is shaded"
    event = widgets.chart(figure, ranked, f"features-shares-{marked}", alt, on_select="rerun", selection_mode="points")
    points = event.selection.points
    return int(points[0]["customdata"]) if points else None


def browse(here: Frame, result: Result, table: pd.DataFrame, scored: pd.DataFrame, eps: float) -> int | None:
    """Cards of the discriminative features, each with the image it is strongest in; the one that was clicked.

    `table`: of `at`, for this eps. Shares per class are known at the scores' eps only.
    """
    orders = ["fires most often", "fires least often", "most selective for a class"]
    order = st.segmented_control("Order", orders, default=orders[0], required=True, key="features-order")
    classes, summary = reads.table(result, "feature_classes"), result.content["summary"]
    titles, of_eps = summary["titles"], summary["eps"]
    if labelled := len(classes) > 0 and eps != of_eps:
        classes = classes.head(0)
    strongest: Any = classes.sort_values("share", ascending=False).drop_duplicates("feature").set_index("feature")
    part = table[table["chosen"]].copy()
    if len(classes):
        mean = classes.groupby("feature")["share"].mean()
        part["selective"] = part["feature"].map(strongest["share"] - mean)
    by, rising = {"fires least often": ("share", True), "most selective for a class": ("selective", False)}.get(
        str(order), ("share", False)
    )
    if by not in part:
        known = f"known at the scores' eps, {of_eps:g}: score with the new one first" if labelled else "unknown: no labels here"
        st.info(f"How selective features are is {known}.")
        by = "share"
    part = part.sort_values([by, "feature"], ascending=[rising, True])
    words = []
    for line in widgets.paged(part, _CARDS, "features-page").to_dict("records"):
        feature = int(line["feature"])
        best = ""
        if feature in strongest.index:
            found = strongest.loc[feature]
            best = f" · {titles[int(found['label'])]} {found['share']:.0f} %"
        words.append((feature, f"{line['share']:.1f} %{best}", f"fires in {line['share']:.1f} % of train images{best}"))
    of_class = "; the class it fires in most, and in how much of it" if len(strongest) else ""
    st.caption(f"Below each: the share of train images in which it fires{of_class}.")
    return cards(here, result, scored, words, key="features-cards")


def cards(here: Frame, result: Result, scored: pd.DataFrame, words: list[tuple[int, str, str]], key: str) -> int | None:
    """A card for each (feature, words below it, alt text) with the image it is strongest in; the one that was clicked."""
    examples = reads.table(result, "feature_examples")
    top = examples[(examples["kind"] == "top") & (examples["rank"] == 0)].set_index("feature")["sample_id"]
    rows = scored.set_index("sample_id")["row"]
    items = []
    for feature, detail, alt in words:
        row = rows.get(top.get(feature))
        items.append(
            {
                "id": str(feature),
                "url": "" if row is None or pd.isna(row) else widgets.thumb_url(here.dataset, int(row)),
                "title": f"feature {feature}",
                "detail": detail,
                "alt": f"feature {feature}, {alt}",
                "tone": "",
            }
        )
    clicked = widgets.cards(items, key=key, side=128)
    return None if clicked is None else int(clicked)


def wanted(n_features: int) -> int | None:
    """The feature of the URL (?feature=NUMBER); None without one or where it names none."""
    text = st.query_params.get("feature") or st.session_state.get("_feature")
    if text is None or text == "":
        return None
    try:
        feature = int(text)
        if not 0 <= feature < n_features:
            raise InputError("outside")
    except ValueError:
        st.warning(f"There is no feature {plain(str(text))}: they are numbered 0 to {n_features - 1}.")
        forget()
        return None
    open_feature(feature)
    return feature


def open_feature(feature: int) -> None:
    st.session_state["_feature"] = str(feature)
    widgets.set_param("feature", str(feature))


def forget() -> None:
    st.session_state.pop("_feature", None)
    st.query_params.pop("feature", None)


def _seen_or_not(seen: dict[str, str], row: dict[str, Any]) -> str | None:
    return seen.get(row["sample_id"])


def _where_it_looks(here: Frame, feature: int) -> None:
    """How much of its heatmaps lies on the object, and what workers called the part that they overlap most, if that is known."""
    looks = reads.stage(here.workspace, here.dataset, here.encoder, "heatmaps", "interpret")
    if looks.result is None or looks.state != "fresh":
        return
    table = reads.table(looks.result, "features")
    for line in table[table["feature"] == feature].to_dict("records"):
        if not pd.isna(line["core"]):
            images = "the image" if line["n"] == 1 else f"the {line['n']:,} images with a mask"
            st.markdown(
                f"**{100 * line['core']:.0f} %** of its heatmaps lies on the object, over {images} that it fires in; the object "
                f"fills {100 * line['core_area']:.0f} % of them."
            )
        if line["name"]:
            st.markdown(
                f"Annotators call the part of the picture that it overlaps most **{plain(line['name'])}** "
                f"({100 * line['overlap']:.0f} % of its heatmaps, over {line['support']} images)."
            )


def show_one(here: Frame, result: Result, feature: int, table: pd.DataFrame, scored: pd.DataFrame) -> None:
    """One feature whole: how often it fires, in which classes, its values, and its strongest, middling and weakest images."""
    line = table.set_index("feature").loc[feature]
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.subheader(f"Feature {feature}")
    right.button("All features", on_click=forget, icon=":material/arrow_back:", width="stretch")
    st.markdown(
        f"Fires in **{line['share']:.2f} %** of the train images; "
        + ("one of the **discriminative** features (D)." if line["chosen"] else "**not** among the discriminative features (D).")
    )
    _where_it_looks(here, feature)
    examples = reads.table(result, "feature_examples")
    mine = examples[examples["feature"] == feature]
    for kind, words in (("top", "Strongest in, with heatmaps"), ("middle", "Average in"), ("low", "Weakest in")):
        part = mine[mine["kind"] == kind].merge(scored, on="sample_id", how="inner").sort_values("rank")
        if part.empty:
            continue
        st.markdown(f"**{words}**")
        if here.dataset.root is None:
            st.dataframe(part[["sample_id", "title", "value"]], hide_index=True, width="stretch", alt=words)
        else:
            seen = heat.strongest(here, part, feature) if kind == "top" else {}
            address = partial(_seen_or_not, seen)
            widgets.gallery(here.dataset, part, "value", key=f"feature-{kind}", side=104, url=address)
    spread: Any = reads.table(result, "features").set_index("feature").loc[feature]
    histogram = figures.values(spread["low"], spread["high"], spread["counts"])
    classes = reads.table(result, "feature_classes")
    titles = result.content["summary"]["titles"]
    classes = classes[classes["feature"] == feature].assign(title=lambda t: [titles[k] for k in t["label"]])
    left, right = st.columns(2)
    with left:
        st.markdown("**Its values over the images**")
        widgets.chart(figures.value_histogram(histogram), histogram, "feature-values", "Histogram of the feature's values")
    with right:
        eps = result.content["summary"]["eps"]
        st.markdown(f"**In which classes it fires** at eps {eps:g}" + (", the 20 strongest" if len(classes) > 20 else ""))
        if classes.empty:
            st.info("No labels here.")
        else:
            numbers = classes[["title", "share"]].sort_values("share", ascending=False)
            widgets.chart(figures.class_bars(classes), numbers, "feature-classes", "Share of each class the feature fires in")
    st.page_link(
        "pages/projection.py",
        label="Where it fires on the map",
        icon=":material/scatter_plot:",
        query_params={
            "dataset": here.dataset.name,
            "encoder": here.encoder,
            "colour": "feature",
            "feature": str(feature),
        },
    )
