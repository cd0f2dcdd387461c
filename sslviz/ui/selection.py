"""The images a user has picked out, the same on every page: kept on disk under a short id that stands in the URL."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from sslviz.data.dataset import Dataset
from sslviz.errors import SslvizError
from sslviz.store.files import read_json, write_json
from sslviz.store.fingerprints import fingerprint
from sslviz.store.workspace import Workspace
from sslviz.ui import widgets
from sslviz.ui.figures import projection as figures
from sslviz.ui.widgets import plain, set_param


@dataclass(frozen=True)
class Selection:
    """Samples of one data set, and where they were picked."""

    id: str
    dataset: str
    sample_ids: list[str]
    origin: str


def select(workspace: Workspace, dataset: str, sample_ids: list[str], origin: str) -> None:
    """Make these samples the selection of this browser session; equal samples have one id."""
    content = {"dataset": dataset, "sample_ids": sample_ids, "origin": origin}
    name = fingerprint(content)[:16]
    path = workspace.root / "selections" / f"{name}.json"
    if not path.exists():
        write_json(path, content)
    st.session_state["_selection"] = name
    st.session_state.pop("sequence", None)  # the sample page steps through the selection until a grid is opened
    set_param("selection", name)


def clear() -> None:
    st.session_state.pop("_selection", None)
    st.session_state.pop("sequence", None)
    st.query_params.pop("selection", None)


def current(workspace: Workspace, dataset: str) -> Selection | None:
    """The selection of the URL (?selection=ID), else of this session; None for another data set's or an unknown one."""
    name = st.query_params.get("selection") or st.session_state.get("_selection")
    if not name:
        return None
    found = _read(workspace, name)
    if found is None or found.dataset != dataset:
        if st.query_params.get("selection"):
            st.warning(f"There is no selection {plain(name)} for this data set.")
        clear()
        return None
    st.session_state["_selection"] = found.id
    set_param("selection", found.id)
    return found


def _read(workspace: Workspace, name: str) -> Selection | None:
    path = workspace.root / "selections" / f"{name}.json"
    if not name.isalnum() or len(name) > 64 or not path.exists():
        return None
    try:
        content = read_json(path)
        return Selection(name, str(content["dataset"]), [str(s) for s in content["sample_ids"]], str(content["origin"]))
    except (SslvizError, KeyError, TypeError):
        return None


def of(table: pd.DataFrame, chosen: Selection | None) -> pd.DataFrame:
    """The rows of the selected samples; all of them where nothing is selected."""
    return table if chosen is None else table[table["sample_id"].isin(chosen.sample_ids)]


def show(chosen: Selection | None) -> None:
    """What is selected, with the way to save it and to let go of it; nothing where nothing is selected."""
    if chosen is None:
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/select_all: **{len(chosen.sample_ids):,} images selected** ({plain(chosen.origin)})")
        st.download_button(
            "Save as CSV",
            lambda: pd.DataFrame({"sample_id": chosen.sample_ids}).to_csv(index=False),
            file_name=f"{chosen.dataset}-selection-{chosen.id}.csv",
            key="selection-csv",
            icon=":material/download:",
        )
        st.button("Clear the selection", on_click=clear, key="selection-clear", icon=":material/close:")


def take(workspace: Workspace, dataset: str, points: pd.DataFrame, picked: Any, origin: str) -> str | None:
    """What was picked in a chart of points (sample_id, x, y): a lasso or box becomes the selection, of all points inside it,
    drawn or not; a click gives the one image."""
    outline = figures.polygon_of(picked)
    if outline is not None:
        if outline.tolist() == st.session_state.get("_outline"):
            return None
        st.session_state["_outline"] = outline.tolist()
        ids = points.loc[figures.inside(outline, points[["x", "y"]].to_numpy()), "sample_id"].tolist()
        if ids:
            select(workspace, dataset, ids, origin)
        return None
    st.session_state.pop("_outline", None)
    chosen = [p for p in picked.get("points", []) if p.get("customdata")]
    return str(chosen[0]["customdata"][0]) if len(chosen) == 1 else None


def grid(dataset: Dataset, table: pd.DataFrame, chosen: Selection | None, key: str) -> None:
    """The selected images of `table` (rows of `reads.scores`), lowest Q-Scores first; nothing where nothing is selected."""
    if chosen is None:
        return
    part = of(table, chosen)
    by = "q" if "q" in part else ""
    part = part.sort_values([by, "sample_id"]) if by else part
    wrong = part["correct"].dropna() if "correct" in part else pd.Series(dtype=bool)
    words = f"**{len(part):,} images**"
    if len(wrong):
        words += f", {int((~wrong.astype(bool)).sum()):,} of {len(wrong):,} judged ones misclassified"
    common = part["title"].value_counts().head(3)
    if len(common):
        words += "; mostly " + ", ".join(f"{plain(str(t))} ({n:,})" for t, n in common.items())
    st.markdown(words + (". Lowest Q-Score first." if by else "."))
    widgets.paged_gallery(dataset, part, by, key)
