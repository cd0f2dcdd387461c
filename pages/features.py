"""What does the representation respond to?"""

import streamlit as st

from sslviz.ui import features, frame, reads, report

frame.open_page("Features", "What does the representation respond to?")
here = frame.chosen()
_, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
busy = report.runs_of(here)
if scores.result is None:
    report.no_scores()

summary = reads.summary(scores)
report.say_stale(scores)
stored = reads.table(scores.result, "features")
images = reads.scores(scores.result, probe.result, here.dataset)
eps, low, high = features.settings(here, summary)
table, band = features.at(stored, summary, eps, low, high)
features.score_button(here, summary, eps, low, high, busy)
features.band_words(table, band)
feature = features.wanted(len(table))
clicked = features.shares_chart(table, band, feature)
if clicked is None and feature is None:
    st.subheader("What the discriminative features are strongest in")
    clicked = features.browse(here, scores.result, table, images, eps)
if clicked is not None and clicked != feature:
    features.open_feature(clicked)
    st.rerun()
if feature is not None:
    features.show_one(here, scores.result, feature, table, images)
st.page_link("pages/projection.py", label="The map: how are the images arranged?", icon=":material/scatter_plot:")
