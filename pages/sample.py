"""Why did this image fail?"""

import streamlit as st

from sslviz.ui import frame, reads, sample, widgets

frame.open_page("Sample", "Why did this image fail?")
here = frame.chosen()
_, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if scores.result is None:
    st.info("No Q-Scores yet for this data set and encoder.")
    st.page_link("pages/overview.py", label="Make them on the overview", icon=":material/dashboard:")
    st.stop()

table = reads.scores(scores.result, probe.result, here.dataset)
summary = reads.summary(scores)
row = sample.current(table, summary)
if scores.state != "fresh":
    st.warning(f"These scores are **stale**: {widgets.plain(scores.why)}.", icon=":material/history:")
sample.step_buttons(row["sample_id"])
picture, facts = st.columns([2, 3], gap="large")
with picture:
    sample.show_picture(here, row)
with facts:
    sample.show_facts(here, row, table, summary)
    sample.show_probe(here, probe, row)
st.page_link("pages/scores.py", label="Back to all scores", icon=":material/bar_chart:")
