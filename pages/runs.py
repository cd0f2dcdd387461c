"""What is running, what happened?"""

import streamlit as st

from sslviz.jobs.runner import list_runs
from sslviz.store.workspace import Workspace
from sslviz.ui import frame, runs

frame.open_page("Runs", "What is running, what happened?")
workspace = Workspace()
states = list_runs(workspace)
if not states:
    st.info("Nothing has run in this workspace yet.")
    st.page_link("pages/data.py", label="Start with a folder and a checkpoint", icon=":material/folder_open:")
    st.stop()
runs.show_active(workspace, states)
run = runs.choose(states)
runs.show_one(workspace, run)
