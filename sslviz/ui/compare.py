"""Encoders side by side: the table, who fails where, and two of them image by image."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis.agreement import agreement
from sslviz.analysis.rivals import RIVALS
from sslviz.data import dataset as datasets
from sslviz.encoders.store import is_finetuned
from sslviz.jobs.compare import CompareSettings, differing, fresh_results, judged, pair, row
from sslviz.jobs.inputs import result_state
from sslviz.jobs.runner import ACTIVE, list_runs
from sslviz.store.workspace import Workspace
from sslviz.ui import reads, selection, widgets
from sslviz.ui.figures import compare as figures
from sslviz.ui.figures import projection
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import interval, percent, plain

SCATTER = "Q against Q"
_FORMATS = {
    **dict.fromkeys(("top-1", "AUROC of Q", "AUROC of probe", "mean share", "empty"), "%.1f"),
    **dict.fromkeys(("RankMe",), "%.0f"),
    "eps": "%g",
}


def running(here: Frame) -> bool:
    """Progress of the comparison that runs on this data set, then True."""
    runs = [r for r in list_runs(here.workspace) if r["job"] == "compare" and r["settings"]["dataset"] == here.dataset.name]
    if runs and runs[0]["status"] != "done":
        widgets.run_box(here.workspace, runs[0]["id"])
    return bool(runs) and runs[0]["status"] in ACTIVE


def states(here: Frame) -> dict[str, str]:
    """What is wrong with each encoder's scores on this data set; "" where they are fresh. Embeddings that were imported as arrays
    stand for the data set they came with only."""
    out = {}
    for name in here.workspace.encoders():
        state, why, _ = result_state(here.workspace, here.dataset, name, "score")
        if state == "fresh" or not reads.is_arrays(here.workspace, name):
            out[name] = "" if state == "fresh" else f"{state}: {why}"
    return out


def without_finetuned(here: Frame, found: dict[str, str]) -> dict[str, str]:
    """`found` less the arms of fine-tunings, many and much alike, unless they are asked for; the chosen encoder stays."""
    arms = [name for name in found if name != here.encoder and is_finetuned(here.workspace, name)]
    label = f"Also {len(arms)} fine-tuned by sslviz"
    if not arms or st.toggle(label, key="finetuned", bind="query-params", persist_state="session"):
        return found
    return {name: why for name, why in found.items() if name not in arms}


def more(here: Frame, found: dict[str, str], busy: bool) -> None:
    """Encoders without fresh scores, and the controls, with the button that computes them; nothing where all is there."""
    waiting = [name for name, why in found.items() if why]
    controls = here.dataset.root is not None and not (
        "raw-pixels" in found and any(name.startswith("random-weights-") for name in found)
    )
    if not waiting and not controls:
        return
    with st.container(border=True):
        chosen = st.multiselect("Not compared yet", waiting, default=waiting, key="compare-more") if waiting else []
        for name in waiting:
            st.caption(plain(f"{name} is {found[name]}"))
        if controls:
            st.caption("Two controls come with it: the same network with random weights, and the bare pixels.")

        def start() -> None:
            names = chosen or [name for name, why in found.items() if not why]
            widgets.start_job(here.workspace, "compare", CompareSettings(dataset=here.dataset.name, encoders=names))

        label = "Compare these too" if waiting else "Add the controls"
        disabled = busy or not (chosen or controls)
        st.button(label, on_click=start, disabled=disabled, icon=":material/play_arrow:", key="compare-start")


def table(here: Frame, names: list[str]) -> list[str]:
    """A line an encoder, a click on a column sorts by it; the names in the order shown, best probe first."""
    rows = [row(here.workspace, here.dataset, name) for name in names]
    lines = pd.DataFrame([_line(one) for one in rows])
    lines = lines.sort_values("top-1", ascending=False, na_position="last", ignore_index=True)
    config = {c: st.column_config.NumberColumn(format=f) for c, f in _FORMATS.items()}
    st.dataframe(lines, hide_index=True, width="stretch", column_config=config, alt="encoders side by side")
    rivals = "; ".join(
        f"{best}: {RIVALS[best].title}" for best in sorted({one["best_rival"] for one in rows if one["best_rival"]})
    )
    st.caption(
        "top-1: of the linear probe. AUROC: how well a score separates images the probe gets right from those it gets "
        "wrong; 50 is chance. Best rival: the best simpler score without labels, with its AUROC"
        f"{f' ({rivals})' if rivals else ''}; the probe's own confidence uses labels. Empty: "
        "images in which no discriminative feature fires. Mean share: share of train images in which a feature fires, averaged "
        "over all features. In percent, except eps, RankMe (directions in use) and the number of features."
    )
    for note in differing(rows):
        st.caption(plain(note))
    return list(lines["encoder"])


def _line(found: dict[str, Any]) -> dict[str, Any]:
    reports, best = found["reports"], found["best_rival"]

    def auroc(name: str) -> float | None:
        value = reports[name]["auroc"] if name in reports else None
        return None if value is None else 100 * value

    return {
        "encoder": found["encoder"],
        "top-1": found["top1"] and 100 * found["top1"],
        "AUROC of Q": auroc("q"),
        "95 % interval": interval(reports["q"]["intervals"]["auroc"]) if reports else "–",
        "the Q-Score": found["verdict"] or "no labels",
        "best rival": f"{best} {auroc(best):.1f}" if best else "–",
        "AUROC of probe": auroc("msp"),
        "empty": found["empty_share"] and 100 * found["empty_share"],
        "RankMe": found["rank_me"],
        "eps": found["eps"],
        "mean share": found["mean_share"],
        "features": found["features"],
        "method": found["method"],
    }


def same_errors(here: Frame, names: list[str]) -> None:
    """Do they fail on the same images? Error consistency of every pair; nothing for fewer than three probes."""
    correct = pd.DataFrame({name: _judged(here, name)["correct"] for name in names}).dropna(axis=1, how="all").dropna()
    if len(correct.columns) < 3 or correct.empty:
        return
    square = pd.DataFrame(np.nan, index=correct.columns, columns=correct.columns)
    for a, b in combinations(correct.columns, 2):
        square.loc[a, b] = square.loc[b, a] = agreement(correct[a].to_numpy(bool), correct[b].to_numpy(bool)).consistency
    st.subheader("Do they fail on the same images?")
    st.caption(
        f"Error consistency over {len(correct):,} images: 1 where two probes get the same ones wrong, 0 where they agree only as "
        "often as chance makes them."
    )
    title = "Error consistency of each pair of encoders"
    widgets.chart(figures.consistency(square), square.reset_index(names="encoder"), key="consistency", alt=title)


def choose_other(here: Frame, names: list[str]) -> str | None:
    """The encoder beside the one of the sidebar; it stands in the URL."""
    others = [name for name in names if name != here.encoder]
    if here.encoder not in names or not others:
        st.caption(f"Once {plain(here.encoder)} and another of these are scored, they can be compared image by image here.")
        return None
    return st.selectbox(f"Beside {plain(here.encoder)}", others, key="beside", bind="query-params", persist_state="session")


def images(here: Frame, other: str) -> pd.DataFrame:
    """The images both encoders are judged on: `reads.scores` of the first, the second's columns ending in _other, and case."""
    tables = []
    for name in (here.encoder, other):
        _, probe, scores = reads.stages(here.workspace, here.dataset, name)
        assert scores.result is not None
        scored = reads.scores(scores.result, probe.result, here.dataset)
        scored = scored[scored["split"] == reads.summary(scores)["judged_on"]]
        tables.append(scored.assign(correct=scored.get("correct"), predicted=scored.get("predicted")))
    first, second = tables
    both: pd.DataFrame = first.merge(second[["sample_id", "q", "correct", "predicted"]], on="sample_id", suffixes=("", "_other"))
    both["case"] = figures.cases(both["correct"], both["correct_other"], (here.encoder, other))
    return both


def words(here: Frame, other: str) -> None:
    """What two encoders have in common, in sentences."""
    names = (here.encoder, other)
    keys = tuple(fresh_results(here.workspace, here.dataset, name)[0].key for name in names)
    found = _pair_by_keys(str(here.workspace.root), here.dataset.name, names, keys)
    a, b = plain(here.encoder), plain(other)
    said = []
    if probes := found["probes"]:
        low, high = (100 * v for v in probes["interval"])
        better = "" if probes["p_value"] >= 0.05 else f": **{a if probes['difference'] > 0 else b} is better**"
        said.append(
            f"Of {probes['n']:,} images both get {probes['both_right']:,} right and {probes['both_wrong']:,} wrong; "
            f"{probes['only_first']:,} only {a} gets right, {probes['only_second']:,} only {b}. "
            f"Difference in top-1: {100 * probes['difference']:+z.1f} points (95 % {low:+z.1f} to {high:+z.1f}){better}."
        )
        if probes["consistency"] is not None:
            said.append(f"Error consistency {probes['consistency']:z.2f}.")
    if found["shared_neighbours"] is not None:
        said.append(f"Of an image's nearest train images they share {percent(found['shared_neighbours'], 0)}.")
    if found["q_correlation"] is not None:
        said.append(f"Rank correlation of their Q-Scores: {found['q_correlation']:z.2f}.")
    st.markdown(" ".join(said))


def scatter(here: Frame, both: pd.DataFrame, other: str) -> str | None:
    """Every image by both Q-Scores; a lasso selects, a click gives the image."""
    names = (here.encoder, other)
    points = both.rename(columns={"q": "x", "q_other": "y"})
    drawn = points.iloc[projection.drawn_points(points["case"])].copy()
    label = drawn["title"].where(drawn["title"].notna(), "no label").astype(str)
    drawn["hover"] = label + " · " + drawn["sample_id"].str.rsplit("/", n=1).str[-1]
    numbers = both[["sample_id", "title", "q", "q_other", "case"]]
    event = widgets.chart(
        figures.matched(drawn, names).update_layout(dragmode="lasso"),
        numbers.rename(columns={"q": f"Q by {names[0]}", "q_other": f"Q by {names[1]}"}),
        key=f"matched-{names}",
        alt=f"Q-Scores of {len(both):,} images by {names[0]} and {names[1]}",
        on_select="rerun",
        selection_mode=["points", "lasso", "box"],
    )
    return selection.take(here.workspace, here.dataset.name, points, event.selection, f"drawn on Q of {names[0]} and {names[1]}")


def choose_view(cases: list[str]) -> str:
    """The images of one of these cases, or the chart of both scores."""
    views = [*cases, SCATTER]
    if st.session_state.get("compare-view") not in views:
        st.session_state["compare-view"] = views[0]
    chosen = st.segmented_control(
        "Show", views, required=True, key="compare-view", persist_state="session", label_visibility="collapsed"
    )
    return chosen or views[0]


def gallery(here: Frame, part: pd.DataFrame, key: str) -> None:
    """Images, lowest Q of the first encoder first; what a wrong probe says stands below each."""
    own = part["correct"].fillna(True).astype(bool)
    part = part.assign(
        predicted=part["predicted"].where(~own, part["predicted_other"]), correct=part["case"] == figures.BOTH_RIGHT
    )
    part = part.assign(correct=part["correct"].where(part["case"] != figures.UNKNOWN)).sort_values(["q", "sample_id"])
    widgets.paged_gallery(here.dataset, part, "", key, what="images")


def _judged(here: Frame, name: str) -> pd.DataFrame:
    score, _ = fresh_results(here.workspace, here.dataset, name)
    return _judged_by_key(str(here.workspace.root), here.dataset.name, name, score.key)


@st.cache_data(max_entries=64, show_spinner=False)
def _pair_by_keys(root: str, dataset: str, names: tuple[str, str], keys: tuple[str, ...]) -> dict[str, Any]:
    return pair(*(_judged_by_key(root, dataset, name, key) for name, key in zip(names, keys, strict=True)))


@st.cache_resource(max_entries=16, show_spinner=False)
def _judged_by_key(root: str, dataset: str, encoder: str, key: str) -> pd.DataFrame:
    workspace = Workspace(root)
    return judged(workspace, datasets.load(workspace, dataset), encoder)
