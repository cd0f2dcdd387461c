"""Which encoder should I take, and do they fail on the same images?"""

import shlex

import streamlit as st

from sslviz.ui import compare, frame, selection
from sslviz.ui.figures.compare import BOTH_WRONG
from sslviz.ui.widgets import plain

frame.open_page("Compare", "Which encoder should I take, and do they fail on the same images?")
here = frame.chosen()
busy = compare.running(here)
found = compare.without_finetuned(here, compare.states(here))
scored = [name for name, why in found.items() if not why]
if scored:
    scored = compare.table(here, scored)
else:
    st.info(f"None of these encoders is scored on {plain(here.dataset.name)} yet.")
compare.more(here, found, busy)
if scored:
    compare.same_errors(here, scored)

other = compare.choose_other(here, scored)
if other is None:
    st.stop()
st.subheader(f"{plain(here.encoder)} beside {plain(other)}")
both = compare.images(here, other)
compare.words(here, other)
cases = [f"only {here.encoder} right", f"only {other} right", BOTH_WRONG]
shown = compare.choose_view([case for case in cases if (both["case"] == case).any()])
if shown == compare.SCATTER:
    clicked = compare.scatter(here, both, other)
    if clicked:
        compare.gallery(here, both[both["sample_id"] == clicked], key="clicked")
    chosen = selection.current(here.workspace, here.dataset.name)
    selection.show(chosen)
    selection.grid(here.dataset, both, chosen, key="matched")
else:
    compare.gallery(here, both[both["case"] == shown], key="case")
st.page_link("pages/scores.py", label="All scores of one encoder: which images score lowest?", icon=":material/bar_chart:")
where = shlex.quote(str(here.workspace.root))
names = " ".join(f"--encoders {shlex.quote(name)}" for name in scored)
st.code(f"sslviz compare --dataset {here.dataset.name} {names} --workspace {where} --json", language="bash", wrap_lines=True)
