"""The map: colour, lasso, and what lies in it."""

from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from sslviz.data.dataset import Dataset
from sslviz.store.results import Result
from sslviz.ui import reads, widgets
from sslviz.ui.figures import projection as figures
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import plain


def points(result: Result, scores: Result | None, probe: Result | None, here: Frame) -> pd.DataFrame:
    """One row an image with x and y, title, row of samples.parquet, and what `reads.scores` says of it; the cache is shared by
    sessions: do not change it."""
    keys = tuple("" if part is None else f"{part.folder}-{part.key}" for part in (result, scores, probe))
    return _points(keys, str(here.dataset.folder), here.dataset.fingerprint, result, scores, probe, here.dataset)


@st.cache_resource(max_entries=4, show_spinner=False)
def _points(
    keys: tuple[str, ...],
    folder: str,
    fingerprint: str,
    _result: Result,
    _scores: Result | None,
    _probe: Result | None,
    _dataset: Dataset,
) -> pd.DataFrame:
    placed = reads.table(_result, "map")
    samples = _dataset.samples[["sample_id", "label"]]
    rows = pd.Series(range(len(samples)), index=samples["sample_id"])
    table = placed.merge(samples, on="sample_id")  # an image that has gone is not on the map any more
    table = table.assign(title=table["label"].map(dict(enumerate(_dataset.titles))), row=table["sample_id"].map(rows))
    if _scores is None:
        return table
    scored = reads.scores(_scores, _probe, _dataset)
    return table.merge(scored.drop(columns=["split", "label", "title", "row"]), on="sample_id", how="left")


def marked(table: pd.DataFrame) -> str | None:
    """The image of the URL (?sample=ID) that is to be shown on the map."""
    wanted = st.query_params.get("sample")
    if wanted and not (table["sample_id"] == wanted).any():
        st.warning(f"Sample {plain(wanted)} is not on this map.")
        return None
    return wanted


def colours(table: pd.DataFrame) -> dict[str, str]:
    """What the points can be coloured by: key -> words."""
    out = {"class": "Class", "q": "Q-Score", "correct": "Right or wrong", "feature": "A feature", "split": "Split"}
    if not table["title"].notna().any():
        del out["class"]
    if "q" not in table:
        del out["q"]
    if "correct" not in table or table["correct"].isna().all():
        del out["correct"]
    return out


class Colour(NamedTuple):
    """What points are coloured by: its key; of "feature" which; of "class" those that stand out (none: the most frequent)."""

    key: str
    feature: int = 0
    classes: tuple[str, ...] = ()


def choose_colour(table: pd.DataFrame, n_features: int) -> Colour:
    """The choice; it stands in the URL."""
    known = colours(table)
    if not n_features:
        del known["feature"]
    if st.session_state.get("map-colour") not in known:
        st.session_state.pop("map-colour", None)
    _from_url("colour", list(known), str)
    left, right = st.columns(2)
    key = left.selectbox("Colour by", list(known), format_func=known.__getitem__, key="map-colour", persist_state="session")
    st.session_state["_url_colour"] = key
    widgets.set_param("colour", key)
    if key == "class":
        titles = sorted(table["title"].dropna().unique())
        classes = right.multiselect(
            "Classes",
            titles,
            max_selections=figures.MOST_CLASSES,
            placeholder="all" if len(titles) <= figures.MOST_CLASSES else f"the {figures.MOST_CLASSES - 1} most frequent",
            key="map-classes",
            bind="query-params",
            persist_state="session",
        )
        st.query_params.pop("feature", None)
        return Colour(key, classes=tuple(classes))
    if key != "feature":
        st.query_params.pop("feature", None)
        return Colour(key)
    _from_url("feature", range(n_features), int)
    feature = int(right.number_input("Feature", 0, n_features - 1, key="map-feature", persist_state="session"))
    st.session_state["_url_feature"] = str(feature)
    widgets.set_param("feature", str(feature))
    return Colour(key, feature)


def _from_url(name: str, allowed: Any, kind: Any) -> None:
    """Set the widget `map-<name>` from the URL when the URL brings another value than the page last wrote there."""
    linked = st.query_params.get(name)
    if linked is None or linked == st.session_state.get(f"_url_{name}"):
        return
    value = kind(linked) if kind is str or linked.isdecimal() else None
    if value in allowed:
        st.session_state[f"map-{name}"] = value
    else:
        st.warning(f"There is no {name} {plain(linked)} here.")


def coloured(table: pd.DataFrame, here: Frame, colour: Colour) -> pd.DataFrame:
    """The points to draw (at most 8,000, every class by its share) with the columns `shown` and `hover`."""
    groups = table["title"].fillna("")
    drawn = table.iloc[figures.drawn_points(groups)].copy()
    key = colour.key
    if key == "feature":
        made_of = reads.embeddings_fingerprint(here.workspace, here.dataset.name, here.encoder)
        unit = reads.unit_rows(str(here.workspace.root), here.dataset.name, here.encoder, made_of, tuple(drawn["sample_id"]))
        drawn["shown"] = unit[:, colour.feature]
    elif key == "correct":
        said = drawn["correct"].map({True: "correct", False: "misclassified"})
        drawn["shown"] = said.where(drawn["correct"].notna(), "not judged")
    elif key == "class":
        drawn["shown"] = figures.top_classes(drawn["title"], colour.classes)
    else:
        drawn["shown"] = drawn[key]
    label = drawn["title"].where(drawn["title"].notna(), "no label").astype(str)
    drawn["hover"] = label + " · " + drawn["sample_id"].str.rsplit("/", n=1).str[-1]
    if pd.api.types.is_numeric_dtype(drawn["shown"]):
        drawn["hover"] += " · " + drawn["shown"].map("{:.4f}".format)
    return drawn


def show_map(table: pd.DataFrame, drawn: pd.DataFrame, marked: str | None, key: str) -> Any:
    """The figure; what was selected in it."""
    ways = {"lasso": "Draw round images", "pan": "Click an image, drag and zoom"}
    st.session_state.setdefault("map-way", "lasso")
    way = st.segmented_control(
        "On the map", list(ways), required=True, format_func=ways.__getitem__, key="map-way", persist_state="session"
    )
    under = figures.density_image(table[["x", "y"]].to_numpy()) if len(drawn) < len(table) else None
    ring = table[table["sample_id"] == marked]
    figure = figures.scatter(drawn, "shown", ring, under).update_layout(dragmode=way)
    st.caption(
        "Near means similar to the encoder; distances between far groups, their sizes and their density mean little."
        + (f" {len(drawn):,} of {len(table):,} are drawn as points, all of them lie in the grey." if under else "")
    )
    event: Any = st.plotly_chart(
        figure,
        key=f"{key}-{way}",
        on_select="rerun",
        selection_mode=["points", "lasso", "box"],
        alt=f"Map of {len(table):,} images by their embeddings",
        config={**widgets.CHART, "scrollZoom": True},
    )
    return event.selection


def show_clicked(table: pd.DataFrame, sample_id: str, here: Frame) -> None:
    """The image of the point that was clicked, with the way to its page."""
    st.markdown("**The image you clicked**")
    widgets.gallery(here.dataset, table[table["sample_id"] == sample_id], _score(table), key="map-clicked", side=160)


def _score(table: pd.DataFrame) -> str:
    return "q" if "q" in table else ""


def facts(summary: dict[str, Any]) -> str:
    """How the map was made, in words."""
    if summary["method"] == "pca":
        return f"The two main directions (PCA): only {summary['n_different']} different embeddings, too few for UMAP."
    fitted = "" if summary["n_fitted"] == summary["n"] else f", fitted on {summary['n_fitted']:,} of them"
    return f"UMAP of {summary['n']:,} images{fitted}: {summary['neighbours']} neighbours, min_dist {summary['min_dist']:g}."
