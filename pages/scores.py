"""Which images does this encoder represent badly?"""

import streamlit as st

from sslviz.ui import frame, reads, report, widgets

frame.open_page("Scores", "Which images does this encoder represent badly?")
here = frame.chosen()
_, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if scores.result is None:
    report.runs_of(here)
    st.info("No Q-Scores yet for this data set and encoder.")
    st.page_link("pages/overview.py", label="Make them on the overview", icon=":material/dashboard:")
    st.stop()

summary = reads.summary(scores)
if scores.state != "fresh":
    st.warning(
        f"These scores are **stale**: {widgets.plain(scores.why)}. The overview has the button.", icon=":material/history:"
    )
st.markdown(report.verdict(summary))
table = reads.scores(scores.result, probe.result, here.dataset)

grid, charts, rivals = st.tabs(["Images", "Charts", "Beside its rivals"])
with grid:
    report.grid(here, table, summary)
with charts:
    report.charts(table, summary)
with rivals:
    if summary["reports"]:
        st.dataframe(report.rivals_table(summary), hide_index=True, width="stretch", column_config=report.COLUMNS)
        st.caption(
            "Every score, higher = better, as a predictor of correct classification. A random score has AUROC 50 and "
            "AUPRC equal to the base rate. Only the probe's maximum softmax probability uses labels."
        )
    else:
        st.info("Scores can be compared only where there are labels and a probe.")
st.download_button(
    "Download all scores (CSV)", lambda: table.to_csv(index=False), file_name=f"{here.dataset.name}-{here.encoder}-scores.csv"
)
st.code(f"sslviz score --dataset {here.dataset.name} --encoder {here.encoder} --json", language="bash")
