"""What surrounds a page: navigation, and the choice of data set and encoder, which stands in the URL."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import streamlit as st

from sslviz.data.dataset import Dataset
from sslviz.errors import EXPECTED, SslvizError, said
from sslviz.jobs.demo import start_demo
from sslviz.jobs.runner import ACTIVE, list_runs
from sslviz.store.workspace import Workspace
from sslviz.ui import reads, widgets
from sslviz.ui.widgets import plain

_ICON = Path(__file__).parent / "icon.png"
"""Of our own: Streamlit fetches a page's named icon from another host."""
PAGES = {
    "overview": ("Overview", ":material/dashboard:"),
    "compare": ("Compare", ":material/compare_arrows:"),
    "features": ("Features", ":material/category:"),
    "scores": ("Scores", ":material/bar_chart:"),
    "sample": ("Sample", ":material/image:"),
    "compression": ("Compression", ":material/compress:"),
    "heatmaps": ("Heatmaps", ":material/local_fire_department:"),
    "projection": ("Map", ":material/scatter_plot:"),
    "finetune": ("Fine-tune", ":material/model_training:"),
    "learn": ("Learn", ":material/school:"),
    "data": ("Data", ":material/folder_open:"),
    "runs": ("Runs", ":material/play_circle:"),
}


@dataclass(frozen=True)
class Frame:
    """What a page works on."""

    workspace: Workspace
    dataset: Dataset
    encoder: str


def show() -> None:
    """app.py: the frame, then the page."""
    page = _frame()
    st.session_state["_framed"] = True
    try:
        page.run()
    except EXPECTED as error:  # a damaged or vanished file of the workspace: the page ends with what to do about it
        stop_with(error)


def open_page(title: str, question: str) -> None:
    """First line of every page: its title and the question it answers.

    On a fresh server, a link straight to a page runs the page without app.py: then the page makes the frame, once, and
    starts again inside it (widgets of a page that ran alone would not be the same ones in the next run).
    """
    if not st.session_state.pop("_framed", False):
        _frame()
        if "_alone" not in st.session_state:
            st.session_state["_alone"] = True
            st.rerun()
    st.title(title)
    st.caption(question)


def chosen() -> Frame:
    """The data set and encoder chosen in the sidebar, named on the page itself where that is hidden; stops with a hint when there
    is none."""
    workspace = Workspace()
    dataset, encoder = st.session_state.get("dataset"), st.session_state.get("encoder")
    if not dataset or not encoder:
        wait_for_demo(workspace)
        missing = "data set" if not dataset else "encoder"
        st.info(f"There is no {missing} in this workspace yet. Add a folder of images and a checkpoint on the Data page.")
        st.page_link("pages/data.py", label="Go to Data", icon=":material/folder_open:")
        start = widgets.quietly(start_demo, workspace)
        st.button("Or look at the demo", on_click=start, icon=":material/play_arrow:", key="start-demo")
        st.stop()
    try:
        here = Frame(workspace, reads.dataset(workspace, dataset), encoder)
    except SslvizError as error:
        stop_with(error)
    with st.container(key="narrow"):
        st.caption(plain(f"{dataset} · {encoder}"))
    st.html("<style>@media (min-width: 48rem) {.st-key-narrow {display: none}}</style>")
    return here


def wait_for_demo(workspace: Workspace) -> None:
    """While the demo is being unpacked: its progress, and the page again as soon as there is something to see."""
    running = [r for r in list_runs(workspace) if r["job"] == "demo"]
    if not running or running[0]["status"] == "done":
        return
    if running[0]["status"] in ACTIVE:
        st.info("The demo is being prepared: 6,500 rendered still lifes and the encoders trained on them.")
    widgets.run_box(workspace, running[0]["id"])
    before = (workspace.datasets(), workspace.encoders())

    def look() -> None:
        if (workspace.datasets(), workspace.encoders()) != before:
            st.rerun()

    widgets.keep_drawing(look, 1.0)
    st.stop()


def stop_with(error: SslvizError | OSError) -> NoReturn:
    """What went wrong, as a sentence; the page ends there."""
    st.error(plain(said(error)))
    st.stop()
    raise AssertionError


def _frame() -> Any:
    pages = [
        st.Page(f"pages/{name}.py", title=title, icon=icon, url_path=name, default=name == "overview")
        for name, (title, icon) in PAGES.items()
    ]
    st.set_page_config(page_icon=str(_ICON), layout="wide")  # before the navigation, which would make a page's icon the tab's
    page = st.navigation(pages)
    st.set_page_config(page_title=f"{page.title} · sslviz")
    try:
        _sidebar(Workspace().create())
    except SslvizError as error:
        stop_with(error)
    return page


def _sidebar(workspace: Workspace) -> None:
    """Choice of data set and encoder. The URL always names both, so that it can be handed on."""
    go = st.session_state.pop("_go", {})  # a form's wish: the data set and encoder to show next
    with st.sidebar:
        for key, label, options in (("dataset", "Data set", workspace.datasets()), ("encoder", "Encoder", workspace.encoders())):
            before = st.session_state.get(f"_url_{key}")
            if not options:
                st.session_state.pop(key, None)
                continue
            linked = st.query_params.get(key)
            wanted = go.get(key) or (linked if linked != st.session_state.get(f"_url_{key}") else None)
            if wanted in options:
                st.session_state[key] = wanted
            elif wanted:
                st.warning(f"There is no {label.lower()} {plain(wanted)} here.")
            if st.session_state.get(key) not in options:
                first = options[0]
                if key == "encoder":
                    first = reads.best_encoder(workspace, st.session_state.get("dataset"), options)
                st.session_state[key] = first
            value = st.selectbox(label, options, key=key, persist_state="session")
            if before not in (None, *options):
                st.session_state[f"_gone_{key}"] = (before, value)
            gone, instead = st.session_state.get(f"_gone_{key}", (None, None))
            if gone in (None, *options) or instead != value:  # said until something else is chosen
                st.session_state.pop(f"_gone_{key}", None)
            else:
                st.warning(f"{label} {plain(gone)} is no longer here; this is {plain(value)}.")
            st.session_state[f"_url_{key}"] = value
            widgets.set_param(key, value)
        st.caption(f"Workspace {plain(str(workspace.root))}")
