"""One sample: its picture, its score among the others, and what the probe says of it."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis.rivals import RIVALS
from sslviz.errors import SslvizError
from sslviz.ui import reads
from sslviz.ui.frame import Frame
from sslviz.ui.pictures import picture_file
from sslviz.ui.widgets import percent, plain


def current(table: pd.DataFrame, summary: dict[str, Any]) -> pd.Series:
    """The sample of the URL (?sample=ID), else the lowest score of the judged split."""
    wanted = st.query_params.get("sample") or st.session_state.get("_sample")
    found = table[table["sample_id"] == wanted]
    if wanted and found.empty:
        st.warning(f"Sample {plain(wanted)} has no score here; this is the lowest one.")
    if found.empty:
        found = table[table["split"] == summary["judged_on"]].head(1)
    row = found.iloc[0]
    st.session_state["_sample"] = row["sample_id"]
    st.query_params["sample"] = row["sample_id"]
    if row["sample_id"] not in st.session_state.get("sequence", []):
        part = table[table["split"] == row["split"]]
        at = int(np.flatnonzero(part["sample_id"] == row["sample_id"])[0])
        start = max(0, at - 5_000)
        st.session_state["sequence"] = part["sample_id"].iloc[start : start + 10_000].tolist()
    return row


def step_buttons(sample_id: str) -> None:
    """Previous and next through the grid's order, also by the arrow keys."""
    sequence = st.session_state["sequence"]
    at = sequence.index(sample_id)

    def go(to: int) -> None:
        st.query_params["sample"] = st.session_state["_sample"] = sequence[to]

    left, right, where = st.columns([1, 1, 4], vertical_alignment="center")
    left.button("Previous", on_click=go, args=(at - 1,), disabled=at == 0, shortcut="ArrowLeft", width="stretch")
    right.button("Next", on_click=go, args=(at + 1,), disabled=at + 1 == len(sequence), shortcut="ArrowRight", width="stretch")
    where.caption(f"{at + 1:,} of {len(sequence):,} in the grid's order")


def show_picture(here: Frame, row: pd.Series) -> None:
    """The picture as the file shows it, upright."""
    label = row["title"] if isinstance(row["title"], str) else "no label"
    if here.dataset.root is None:
        st.info("This data set came in as arrays; there is no picture.")
    else:
        try:
            content, _ = picture_file(here.dataset.name, int(row["row"]))
            st.image(content, width="stretch", alt=f"{label}: {row['sample_id']}")
        except (SslvizError, OSError) as error:
            st.warning(f"The picture cannot be shown: {plain(str(error))}.")
    st.caption(plain(row["sample_id"]))


def show_facts(here: Frame, row: pd.Series, table: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Label, prediction, score with its percentile, and the rivals' scores with theirs."""
    label = row["title"] if isinstance(row["title"], str) else "no label"
    if "correct" in row and not pd.isna(row["correct"]):
        if row["correct"]:
            st.success(f"**{plain(label)}**: the probe gets it right ({percent(row['confidence'])} sure).")
        else:
            st.error(f"**{plain(label)}**: the probe says **{plain(row['predicted'])}** ({percent(row['confidence'])} sure).")
    else:
        st.info(f"**{plain(label)}**: not judged by the probe.")
    others = table[table["split"] == row["split"]]
    a, b, c = st.columns(3)
    a.metric("Q-Score", f"{row['q']:.4f}", help="Mean excess of the firing discriminative features over the sample's mean.")
    b.metric(
        "Below it", percent((others["q"] < row["q"]).mean(), 0), help=f"Share of {row['split']} images with a lower Q-Score."
    )
    c.metric("Firing", f"{row['n_chosen']} / {row['n_firing']}", help="Discriminative features that fire, of all that fire.")
    if row["n_chosen"] == 0:
        st.caption(f"No discriminative feature fires at eps {summary['eps']:g}: the Q-Score is 0 by definition.")
    names = {"q": "Q-Score", "q_paper": "Q-Score, paper's eps", **{n: RIVALS[n].title for n in RIVALS if n in row.index}}
    rows = [
        {"score": title, "value": row[n], "percentile": 100 * float((others[n] < row[n]).mean())}
        for n, title in names.items()
        if not pd.isna(row[n])
    ]
    columns = {
        "score": st.column_config.TextColumn(width="medium"),
        "value": st.column_config.NumberColumn(format="%.4f", width="small"),
        "percentile": st.column_config.ProgressColumn(format="%.0f", min_value=0, max_value=100, width="small"),
    }
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", column_config=columns)


def show_probe(here: Frame, probe: reads.Stage, row: pd.Series) -> None:
    """The probe's five most probable classes."""
    if probe.result is None:
        return
    predictions = reads.table(probe.result, "predictions")
    line = predictions[predictions["sample_id"] == row["sample_id"]]
    if line.empty:
        st.caption(
            "The probe was trained on this image, so its answer is not shown (probe --train-predictions judges train images)."
        )
        return
    titles = here.dataset.titles
    top = pd.DataFrame(
        {
            "class": [titles[k] for k in line["top5"].iat[0]],
            "probability": [100 * float(p) for p in line["top5_probability"].iat[0]],
        }
    )
    bar = st.column_config.ProgressColumn("probe's probability", format="%.1f %%", min_value=0, max_value=100)
    st.dataframe(top, hide_index=True, width="stretch", column_config={"probability": bar})
