"""The images a user has picked out, the same on every page: kept on disk under a short id that stands in the URL."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from sslviz.errors import SslvizError
from sslviz.store.files import read_json, write_json
from sslviz.store.fingerprints import fingerprint
from sslviz.store.workspace import Workspace
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
    set_param("selection", name)


def clear() -> None:
    st.session_state.pop("_selection", None)
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
    if not name.isalnum() or not path.exists():
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
