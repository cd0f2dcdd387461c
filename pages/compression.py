"""How many features are enough?"""

import streamlit as st

from sslviz.analysis.compression import n_probes
from sslviz.ui import compression, frame, reads, report

frame.open_page("Compression", "How many features are enough?")
here = frame.chosen()
embeddings, probe, _ = reads.stages(here.workspace, here.dataset, here.encoder)
made = reads.stage(here.workspace, here.dataset, here.encoder, "compression", "compress")
if made.result is None and not here.dataset.has_labels:
    st.info("A compression curve compares linear probes, which need labels; this data set has none.")
    st.stop()
offer = f"No compression curve yet: {n_probes()} linear probes on fewer and fewer features. Half a minute for 5,000 train images."
report.offer(here, embeddings, made, "curve", offer)

summary = reads.summary(made)
compression.headline(summary)
compression.chart(reads.table(made.result, "curve"), summary)
compression.caveats()
compression.beside(here)
compression.take_away(here, reads.table(made.result, "shares"), summary["eps"], made.state == "fresh")
st.page_link("pages/features.py", label="Features: what does the representation respond to?", icon=":material/category:")
report.command(here, "compress", made.result.content["settings"])
