"""One sample: its picture, its score among the others, and what the probe says of it."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis.rivals import score_titles
from sslviz.errors import EXPECTED, said
from sslviz.store.results import Result
from sslviz.ui import features, live, reads, selection, widgets
from sslviz.ui.figures import features as figures
from sslviz.ui.frame import Frame
from sslviz.ui.pictures import picture_file, upright
from sslviz.ui.widgets import percent, plain


def is_own() -> bool:
    """The choice between the data set's pictures and one of the user's own."""
    options = ["From the data set", "Your own"]
    linked = st.query_params.get("sample")
    opened = st.session_state.pop("_opened", False) or (linked and linked != st.session_state.get("_sample"))
    if opened or "sample-of" not in st.session_state:
        st.session_state["sample-of"] = options[0]
    return st.segmented_control("Picture", options, required=True, key="sample-of", persist_state="session") == options[1]


def current(table: pd.DataFrame, summary: dict[str, Any], chosen: selection.Selection | None) -> pd.Series:
    """The sample of the URL (?sample=ID), else the lowest misclassified one of the selection, else of the judged split.

    Previous and next go through the grid it was opened from; without one through the selection where the sample is in it.
    """
    wanted = st.query_params.get("sample") or st.session_state.get("_sample")
    found = table[table["sample_id"] == wanted]
    if wanted and found.empty:
        st.warning(f"Sample {plain(wanted)} has no score here; this is the lowest one.")
    if found.empty:
        part = selection.of(table, chosen) if chosen else table[table["split"] == summary["judged_on"]]
        part = table if part.empty else part
        wrong = part[part["correct"].eq(False).fillna(False)] if "correct" in part else part.head(0)
        found = (part if wrong.empty else wrong).head(1)
    row = found.iloc[0]
    st.session_state["_sample"] = row["sample_id"]
    widgets.set_param("sample", row["sample_id"])
    if row["sample_id"] not in st.session_state.get("sequence", []):
        within = chosen is not None and row["sample_id"] in chosen.sample_ids
        part = selection.of(table, chosen) if within else table[table["split"] == row["split"]]
        st.session_state["sequence"] = _around(row["sample_id"], part)
    return row


def _around(sample_id: str, part: pd.DataFrame, most: int = 10_000) -> list[str]:
    """At most 10,000 ids of the table's order, with the sample among them."""
    at = int(np.flatnonzero(part["sample_id"] == sample_id)[0])
    start = max(0, at - most // 2)
    ids: list[str] = part["sample_id"].iloc[start : start + most].tolist()
    return ids


def step_buttons(sample_id: str) -> None:
    """Previous and next through the grid's order, also by the arrow keys."""
    sequence = st.session_state["sequence"]
    at = sequence.index(sample_id)

    def go(to: int) -> None:
        st.session_state["_sample"] = sequence[to]
        widgets.set_param("sample", sequence[to])

    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Previous", on_click=go, args=(at - 1,), disabled=at == 0, shortcut="ArrowLeft", width=150)
        st.button("Next", on_click=go, args=(at + 1,), disabled=at + 1 == len(sequence), shortcut="ArrowRight", width=150)
        st.caption(f"{at + 1:,} of {len(sequence):,}", width="content")


def show_picture(here: Frame, row: pd.Series) -> None:
    """The picture as the file shows it, upright."""
    label = row["title"] if isinstance(row["title"], str) else "no label"
    if here.dataset.root is None:
        st.info("This data set was imported as arrays; there is no picture.")
    elif pd.isna(row["row"]):
        st.info("This picture is no longer in the data set.")
    else:
        try:
            content, _ = picture_file(here.dataset.name, int(row["row"]))
            st.image(content, width="stretch", alt=f"{label}: {row['sample_id']}")
        except EXPECTED as error:
            st.warning(f"The picture cannot be shown: {plain(said(error))}")
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
    _three_metrics(row["q"], float((others["q"] < row["q"]).mean()), row["split"], row["n_chosen"], row["n_firing"])
    if row["n_chosen"] == 0:
        st.caption(f"No discriminative feature fires at eps {summary['eps']:g}: the Q-Score is 0 by definition.")
    rows = [
        {"score": title, "value": row[n], "percentile": 100 * float((others[n] < row[n]).mean())}
        for n, title in score_titles(row.index).items()
        if not pd.isna(row[n])
    ]
    columns = {
        "score": st.column_config.TextColumn(width=285),
        "value": st.column_config.NumberColumn(format="%.4f", width=75),
        "percentile": st.column_config.ProgressColumn(format="%.0f", min_value=0, max_value=100, width=95),
    }
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", column_config=columns, alt="this image by every score")


def _three_metrics(q: float, below: float, split: str, n_chosen: int, n_firing: int) -> None:
    with st.container(horizontal=True):
        st.metric("Q-Score", f"{q:.4f}", help="Mean excess of the firing discriminative features over mu.", width=130)
        st.metric("Percentile", percent(below, 0), help=f"Share of {split} images with a lower Q-Score.", width=100)
        st.metric("Firing", f"{n_chosen} / {n_firing}", help="Discriminative features that fire, of all that fire.", width=130)


def show_probe(scores: Result, probe: Result | None, row: pd.Series) -> None:
    """The probe's five most probable classes."""
    if probe is None:
        return
    predictions = reads.table(probe, "predictions")
    line = predictions[predictions["sample_id"] == row["sample_id"]]
    if line.empty:
        st.caption(
            "The probe was trained on this image, so its answer is not shown (sslviz probe --train-predictions gives one)."
        )
        return
    titles = scores.content["summary"]["titles"]
    _top_classes([titles[k] for k in line["top5"].iat[0]], line["top5_probability"].iat[0])


def _top_classes(titles: list[str], probabilities: Any) -> None:
    top = pd.DataFrame({"class": titles, "probability": [100 * float(p) for p in probabilities]})
    bar = st.column_config.ProgressColumn("probe's probability", format="%.1f %%", min_value=0, max_value=100)
    st.dataframe(
        top, hide_index=True, width="stretch", column_config={"probability": bar}, alt="the probe's most probable classes"
    )


def show_links(here: Frame, row: pd.Series) -> None:
    """The ways on: its place on the map, and back to all scores."""
    left, right = st.columns(2)
    with left:
        st.page_link(
            "pages/projection.py",
            label="Its place on the map",
            icon=":material/scatter_plot:",
            query_params={"dataset": here.dataset.name, "encoder": here.encoder, "sample": row["sample_id"]},
        )
    with right:
        st.page_link("pages/scores.py", label="Back to all scores", icon=":material/bar_chart:")


def show_expression(found: live.Row, eps: float, key: str) -> None:
    """h as bars with mu and mu + eps * sigma; a click on a bar opens the feature."""
    st.subheader("Its representation")
    st.markdown(
        f"**{len(found.chosen)} discriminative features fire** of {len(found.firing)} that fire at all (eps {eps:g}). "
        "The Q-Score is the mean height of the blue bars above mu, the mean of all bars."
    )
    event: Any = st.plotly_chart(
        figures.expression(found.h, found.firing, found.chosen, found.mean, found.threshold),
        key=key,
        on_select="rerun",
        selection_mode="points",
        alt="The unit row of this image, one bar a feature, with mu and the firing threshold",
        config=widgets.CHART,
    )
    fires = pd.DataFrame({"feature": found.firing, "value": found.h[found.firing]})
    fires["in D"] = fires["feature"].isin(found.chosen)
    with st.expander("The features that fire, as a table"):
        st.dataframe(fires.sort_values("value", ascending=False), hide_index=True, width="stretch", alt="the features that fire")
    if points := event.selection.points:
        widgets.go_to("features", feature=str(points[0]["customdata"]))


def show_features(here: Frame, scores: Result, found: live.Row, scored: pd.DataFrame, key: str, most: int = 12) -> None:
    """What the firing discriminative features respond to elsewhere: each with the image it is strongest in."""
    if not len(found.chosen) or here.dataset.root is None:
        return
    st.markdown("**What these features are strongest in**" + (f" (the {most} highest)" if len(found.chosen) > most else ""))
    shares = reads.table(scores, "features").set_index("feature")["share"]
    words = [
        (int(j), f"here {found.h[j]:.3f}", f"here {found.h[j]:.3f}, fires in {shares[j]:.1f} % of train images")
        for j in found.chosen[:most]
    ]
    clicked = features.cards(here, scores, scored, words, key=key)
    if clicked is not None:
        widgets.go_to("features", feature=str(clicked))


def show_neighbours(here: Frame, near: pd.DataFrame, scored: pd.DataFrame, key: str) -> None:
    """The nearest train images (sample_id, similarity)."""
    part = near.merge(scored, on="sample_id", how="inner")
    if part.empty or here.dataset.root is None:
        return
    common = part["title"].value_counts()
    words = "" if common.empty else f" · {common.iloc[0]} of {len(part)} are {plain(str(common.index[0]))}"
    st.markdown(f"**Nearest train images** (cosine similarity){words}")
    widgets.gallery(here.dataset, part, "similarity", key=key, side=104)


def neighbours(scores: Result, sample_id: str) -> pd.DataFrame:
    """sample_id and similarity of a stored sample's nearest train images; empty where they were not looked for."""
    if not (scores.folder / "neighbours.parquet").exists():
        return pd.DataFrame({"sample_id": [], "similarity": []})
    table = reads.table(scores, "neighbours")
    lines = table[table["sample_id"] == sample_id]
    if lines.empty:
        return pd.DataFrame({"sample_id": [], "similarity": []})
    line = lines.iloc[0]
    near = pd.DataFrame({"sample_id": line["neighbours"], "similarity": line["similarities"]})
    return near.dropna().drop_duplicates("sample_id")


def own_picture(here: Frame, scores: Result, probe: Result | None, scored: pd.DataFrame) -> None:
    """A picture of the user's own, in memory only: its representation, Q-Score among the train images, and neighbours."""
    given = st.file_uploader(
        "A picture (JPEG, PNG, WebP …); it stays in memory and is not stored", key="own-picture", max_upload_size=30
    )
    if given is None:
        return
    content = given.getvalue()
    try:
        live.check_embeddings(here, scores)
        raw = live.embed(here, [content])[0]
    except EXPECTED as error:
        st.error(f"{plain(given.name)}: {plain(said(error).removesuffix('.'))}.")
        return
    found = live.explain(raw, live.discriminative(scores), probe)
    others = scored.loc[scored["split"] == "train", "q"]
    picture, facts = st.columns([2, 3], gap="large")
    with picture:
        st.image(upright(content)[0], width="stretch", alt=f"your picture {given.name}")
        st.caption(plain(given.name))
    with facts:
        _three_metrics(found.q, float((others < found.q).mean()), "train", len(found.chosen), len(found.firing))
        if probe is not None and found.probabilities is not None:
            order = np.argsort(-found.probabilities)[:5]
            classes = live.probe_classes(probe)
            titles = scores.content["summary"]["titles"]
            _top_classes([titles[int(classes[k])] for k in order], found.probabilities[order])
            st.caption("The probe knows these classes only: it names one of them whatever the picture shows.")
    show_expression(found, scores.content["summary"]["eps"], key="own-h")
    show_features(here, scores, found, scored, key="own-features")
    show_neighbours(here, live.nearest(here, raw), scored, key="own-neighbours")
