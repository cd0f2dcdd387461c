"""Runs: a live list, and one run whole."""

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from sslviz.errors import EXPECTED, said
from sslviz.jobs import JOBS, runner
from sslviz.store.workspace import Workspace
from sslviz.ui import report, widgets
from sslviz.ui.widgets import duration, plain


def show_active(workspace: Workspace, states: list[dict[str, Any]]) -> None:
    """A progress box for each run that is going on."""
    for state in states:
        if state["status"] in runner.ACTIVE:
            st.caption(plain(runner.works_on(state)))
            widgets.run_box(workspace, state["id"])


def choose(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of runs, newest first, and the one to look at."""
    table = pd.DataFrame(
        {
            "job": [s["job"] for s in states],
            "on": [runner.works_on(s) for s in states],
            "status": [s["status"] for s in states],
            "started": [datetime.fromtimestamp(s["created"]).strftime("%Y-%m-%d %H:%M") for s in states],
            "took": [duration(s["seconds"]) for s in states],
            "what happened": [s["error"] or (s["stage"] if s["status"] in runner.ACTIVE else "") for s in states],
            "images/s": [_speed(s["facts"]) for s in states],
            "device": [s["facts"].get("device", "") for s in states],
            "run": [s["id"] for s in states],
        }
    )
    st.dataframe(table, hide_index=True, width="stretch", alt="all runs, newest first")
    ids = [s["id"] for s in states]
    linked = st.query_params.get("run")
    if linked is not None and linked not in ids:
        st.warning(f"There is no run {plain(linked)} here.")
    picked = st.selectbox("Look at a run", ids, key="run", bind="query-params", persist_state="session")
    return next(s for s in states if s["id"] == picked)


def _speed(facts: dict[str, Any]) -> str:
    return runner.in_words(facts.get("images_per_second", facts.get("views_per_second", "")))


def show_one(workspace: Workspace, state: dict[str, Any]) -> None:
    """Its command, settings, warnings, what it returned, the end of its log; resume or delete."""
    run_id = state["id"]
    with st.container(horizontal=True):
        ended_badly = state["status"] in ("cancelled", "killed", "failed")
        if ended_badly and st.button(widgets.again_label(state), key="resume-one", icon=":material/play_arrow:"):
            _try(runner.resume, workspace, run_id)
        if state["status"] not in runner.ACTIVE:
            with st.popover("Delete", icon=":material/delete:"):
                st.caption("Removes the run's log, checkpoints and settings. Results and encoders it made stay.")
                if st.button("Delete this run", key="delete-one"):
                    _try(runner.delete, workspace, run_id)
    for line in state["warnings"]:
        st.caption(plain(line))
    if command := _command(state):
        report.show_command(workspace, command)
    left, right = st.columns(2)
    left.markdown("**Settings**")
    left.json(state["settings"])
    right.markdown("**Result**")
    right.json(state["result"] or {}, expanded=1)
    with st.expander("End of the log", expanded=state["status"] in ("failed", "killed")):
        st.code(runner.log_tail(workspace, run_id) or "(empty)", language=None)
    st.caption(plain(f"Files: {workspace.run(run_id)}"))


def _command(state: dict[str, Any]) -> str:
    """The command line that does the same; "" where a job has none with these flags, or its settings are another version's."""
    if state["job"] not in JOBS.names():  # its files are damaged
        return ""
    entry = JOBS[state["job"]]
    required = [f"--{name.replace('_', '-')}" for name, field in entry.settings.model_fields.items() if field.is_required()]
    words = entry.example.split()
    if words[1] != entry.name or not set(required) <= set(words):
        return ""
    return report.command_line(entry.name, state["settings"])


def _try(action: Any, workspace: Workspace, run_id: str) -> None:
    try:
        action(workspace, run_id)
        st.rerun()
    except EXPECTED as error:
        st.error(plain(said(error)))
