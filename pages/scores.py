"""Which images does this encoder represent badly?"""

import streamlit as st

from sslviz.ui import frame, reads, report, selection

frame.open_page("Scores", "Which images does this encoder represent badly?")
here = frame.chosen()
_, probe, scores = reads.stages(here.workspace, here.dataset, here.encoder)
if scores.result is None:
    report.runs_of(here)
    report.no_scores()

summary = reads.summary(scores)
report.say_stale(scores)
report.say_upside_down(summary)
st.markdown(report.verdict(summary))
table = reads.scores(scores.result, probe.result, here.dataset)
chosen = selection.current(here.workspace, here.dataset.name)
selection.show(chosen)

grid, charts, rivals, damage = st.tabs(["Images", "Charts", "Beside its rivals", "Damage check"])
with grid:
    report.grid(here, selection.of(table, chosen), summary)
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
with damage:
    report.damage(summary)
st.download_button(
    "Download all scores (CSV)", lambda: table.to_csv(index=False), file_name=f"{here.dataset.name}-{here.encoder}-scores.csv"
)
st.page_link("pages/features.py", label="What the representation responds to", icon=":material/category:")
st.code(f"sslviz score --dataset {here.dataset.name} --encoder {here.encoder} --json", language="bash")
