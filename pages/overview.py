"""How good is this encoder on this data set, at a glance?"""

import streamlit as st

from sslviz.ui import frame, reads, report, widgets

frame.open_page("Overview", "How good is this encoder on this data set, at a glance?")
here = frame.chosen()
stages = reads.stages(here.workspace, here.dataset, here.encoder)
scores, probe = stages[2], stages[1]

busy = report.runs_of(here)
if scores.result is None:
    report.states(here, stages, busy)
    if not busy:
        report.first_step(here)
    st.stop()

report.headline(scores, probe)
report.states(here, stages, busy)
report.further(here, stages, busy)
table = reads.scores(scores.result, probe.result, here.dataset)
judged = reads.summary(scores)["judged_on"]
table = table[table["split"] == judged]
st.subheader(f"The ten lowest Q-Scores of {judged}")
widgets.gallery(here.dataset, table.head(10), "q", key="worst", side=140)
report.left_out(here)
report.about(here)
st.page_link("pages/learn.py", label="Learn: what does all this mean?", icon=":material/school:")
st.page_link("pages/compare.py", label="Compare: which encoder should I take?", icon=":material/compare_arrows:")
st.page_link("pages/features.py", label="Features: what does the representation respond to?", icon=":material/category:")
st.page_link("pages/scores.py", label="All scores: which images score lowest?", icon=":material/bar_chart:")
