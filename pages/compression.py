"""How many features are enough?"""

import shlex

import streamlit as st

from sslviz.ui import compression, frame, reads, report
from sslviz.ui.widgets import plain

frame.open_page("Compression", "How many features are enough?")
here = frame.chosen()
embeddings, probe, _ = reads.stages(here.workspace, here.dataset, here.encoder)
made = reads.stage(here.workspace, here.dataset, here.encoder, "compression", "compress")
busy = report.runs_of(here)
if made.result is None:
    report.needs_embeddings(embeddings)
    if not here.dataset.has_labels:
        st.info("A compression curve compares linear probes, which need labels; this data set has none.")
        st.stop()
    st.info("No compression curve yet: 81 linear probes on fewer and fewer features. Half a minute for 5,000 train images.")
    compression.start_button(here, "Make the curve", busy)
    st.stop()
if made.state == "stale":
    st.warning(f"This curve is **stale**: {plain(made.why)}.", icon=":material/history:")
    compression.start_button(here, "Make it again", busy or embeddings.state != "fresh")

summary = reads.summary(made)
compression.headline(summary)
compression.chart(reads.table(made.result, "curve"), summary)
compression.warnings()
compression.beside(here)
compression.take_away(here, reads.table(made.result, "shares"))
st.page_link("pages/features.py", label="Features: what does the representation respond to?", icon=":material/category:")
where = shlex.quote(str(here.workspace.root))
command = f"sslviz compress --dataset {here.dataset.name} --encoder {here.encoder} --workspace {where} --json"
st.code(command, language="bash", wrap_lines=True)
