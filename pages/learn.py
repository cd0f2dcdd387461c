"""What does all this mean?"""

import streamlit as st

from sslviz.errors import SslvizError
from sslviz.ui import frame, learn, live, reads, report
from sslviz.ui.widgets import plain

frame.open_page("Learn", "What does all this mean?")
here = frame.chosen()
_, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if scores.result is None:
    report.runs_of(here)
    report.no_scores()
report.say_stale(scores)
step = learn.choose_step()
table = reads.scores(scores.result, probe.result, here.dataset)
row = learn.choose_picture(table, reads.summary(scores), step)
try:
    live.check_embeddings(here, scores.result)
    raw = live.stored(here, row["sample_id"])
except SslvizError as error:
    st.warning(plain(str(error)))
    st.stop()
fitted = live.probe_of(scores.result, probe.result)
found = live.explain(raw, live.discriminative(scores.result), fitted)
learn.show(learn.Class(here, scores, probe, table, row, found), step)
