"""Where does it look, at the object or at its surroundings?"""

import streamlit as st

from sslviz.data.masks import mask_facts
from sslviz.ui import frame, interpret, reads, report

frame.open_page("Heatmaps", "Where does it look, at the object or at its surroundings?")
here = frame.chosen()
embeddings, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if why := report.no_maps(here):
    st.info(f"This encoder {why}.")
    st.stop()
if mask_facts(here.dataset) is None:
    interpret.no_masks(here)
    st.stop()
if scores.result is None:
    report.runs_of(here)
    report.no_scores()
made = reads.stage(here.workspace, here.dataset, here.encoder, "heatmaps", "interpret")
report.offer(here, embeddings, made, "heatmaps", "No heatmaps yet: one pass over the images that have masks.")

summary = reads.summary(made)
table = interpret.groups(summary)
interpret.headline(summary, table)
interpret.charts(table, reads.table(made.result, "curve"), summary)
interpret.images(here, made.result, reads.table(made.result, "looks"), reads.scores(scores.result, probe.result, here.dataset))
interpret.by_feature(reads.table(made.result, "features"))
interpret.otherwise(here, made.result)
st.page_link("pages/features.py", label="Features: what does the representation respond to?", icon=":material/category:")
report.command(here, "interpret", made.result.content["settings"])
