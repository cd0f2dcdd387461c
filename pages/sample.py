"""What does the encoder see in this image?"""

import streamlit as st

from sslviz.errors import SslvizError
from sslviz.ui import frame, heat, live, reads, report, sample, selection, whatif
from sslviz.ui.widgets import plain

frame.open_page("Sample", "What does the encoder see in this image?")
here = frame.chosen()
embeddings, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if scores.result is None:
    report.runs_of(here)
    report.no_scores()

table = reads.scores(scores.result, probe.result, here.dataset)
summary = reads.summary(scores)
report.say_stale(scores)
fitted = live.probe_of(scores.result, probe.result)
if sample.is_own():
    sample.own_picture(here, scores.result, fitted, table)
    st.stop()

chosen = selection.current(here.workspace, here.dataset.name)
selection.show(chosen)
row = sample.current(table, summary, chosen)
sample.step_buttons(row["sample_id"])
causes = reads.causes(here.dataset, row["sample_id"])
picture, facts = st.columns([2, 3], gap="large")
with picture:
    sample.show_picture(here, row)
    if causes:
        whatif.show_causes(causes)
with facts:
    sample.show_facts(here, row, table, summary)
    sample.show_probe(scores.result, fitted, row)
sample.show_links(here, row)
try:
    live.check_embeddings(here, scores.result)
    found = live.explain(live.stored(here, row["sample_id"]), live.discriminative(scores.result), fitted)
except SslvizError as error:
    st.warning(f"Its representation cannot be shown: {plain(str(error))}")
else:
    st.subheader("Where the encoder looks")
    heat.show(here, found, row["sample_id"])
    sample.show_expression(found, summary["eps"], key=f"h-{row['sample_id']}")
    sample.show_features(here, scores.result, found, table, key="sample-features")
sample.show_neighbours(here, sample.neighbours(scores.result, row["sample_id"]), table, key="sample-neighbours")
if causes and embeddings.state == "fresh":
    whatif.show(here, scores.result, fitted, row["sample_id"], int(row["row"]), causes)
