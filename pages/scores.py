"""Which images score lowest, and are they the probe's errors?"""

import streamlit as st

from sslviz.ui import frame, reads, report, selection

frame.open_page("Scores", "Which images score lowest, and are they the probe's errors?")
here = frame.chosen()
_, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if scores.result is None:
    report.runs_of(here)
    report.no_scores()

summary = reads.summary(scores)
report.say_stale(scores)
st.markdown(report.verdict(summary))
table = reads.scores(scores.result, probe.result, here.dataset)
chosen = selection.current(here.workspace, here.dataset.name)
selection.show(chosen)

names = ["Images", "Charts", "Classes", "Beside its rivals", "Damage check"]
grid, charts, classes, rivals, damage = st.tabs(names, key="tab", bind="query-params")
if grid.open:
    with grid:
        report.grid(here, selection.of(table, chosen), summary)
if charts.open:
    with charts:
        report.charts(table, summary)
if classes.open:
    with classes:
        report.classes(here, probe, table, summary)
if rivals.open:
    with rivals:
        report.rivals(summary)
if damage.open:
    with damage:
        report.damage(here, summary, scores.result.content["settings"])
st.download_button(
    "Download all scores (CSV)", lambda: table.to_csv(index=False), file_name=f"{here.dataset.name}-{here.encoder}-scores.csv"
)
st.page_link("pages/features.py", label="What the representation responds to", icon=":material/category:")
report.command(here, "score", scores.result.content["settings"])
