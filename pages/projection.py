"""How are the images arranged?"""

import streamlit as st

from sslviz.errors import SslvizError
from sslviz.ui import frame, projection, reads, report, selection

frame.open_page("Map", "How are the images arranged?")
here = frame.chosen()
embeddings, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
made = reads.stage(here.workspace, here.dataset, here.encoder, "map", "project")
offer = f"No map of these {len(here.dataset.samples):,} images yet. It takes about a minute for 10,000."
report.offer(here, embeddings, made, "map", offer)

table = projection.points(made.result, scores.result, probe.result, here)
width = reads.width(here.workspace, here.dataset.name, here.encoder)
colour = projection.choose_colour(table, width)
marked = projection.marked(table)
try:
    drawn = projection.coloured(table, here, colour)
except SslvizError as error:
    frame.stop_with(error)
picked = projection.show_map(table, drawn, marked, key=f"map-{colour.key}-{colour.feature}-{marked}")
clicked = selection.take(here.workspace, here.dataset.name, table, picked, f"drawn on the map of {here.encoder}")
st.caption(projection.facts(reads.summary(made)))
if clicked:
    projection.show_clicked(table, clicked, here)
chosen = selection.current(here.workspace, here.dataset.name)
selection.show(chosen)
selection.grid(here.dataset, table, chosen, key="map")
st.page_link("pages/scores.py", label="All scores: which images score lowest?", icon=":material/bar_chart:")
