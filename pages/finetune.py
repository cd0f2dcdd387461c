"""Can I mend it?"""

import streamlit as st

from sslviz.ui import finetune, frame, reads, report

frame.open_page("Fine-tune", "Can this encoder be improved, and did fine-tuning improve it?")
here = frame.chosen()
running = finetune.live(here, finetune.newest_run(here))
made = reads.stage(here.workspace, here.dataset, here.encoder, "fine-tuning", "finetune")
if made.result is not None:
    report.say_stale(made)
    finetune.headline(reads.summary(made))
    finetune.differences(reads.table(made.result, "differences"))
    images, panels = (reads.table(made.result, name) for name in ("images", "panels"))
    finetune.same_images(here, images, panels, reads.summary(made))
    st.subheader("How it went")
    finetune.charts(reads.table(made.result, "curves"), "made")
    report.command(here, "finetune", made.result.content["settings"])
finetune.form(here, running)
st.page_link(
    "pages/compare.py",
    label="Compare: base and fine-tuned encoders side by side",
    icon=":material/compare_arrows:",
    query_params={"dataset": here.dataset.name, "encoder": here.encoder, "finetuned": "true"},
)
