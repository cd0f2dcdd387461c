"""Counterfactuals of the demo set: the same still life with one cause changed, embedded and scored beside the original."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.errors import EXPECTED, said
from sslviz.store.results import Result
from sslviz.ui import live
from sslviz.ui.frame import Frame
from sslviz.ui.pictures import picture_file
from sslviz.ui.widgets import percent, plain


def _is_on() -> bool:
    """A button, not a toggle: a toggle keeps the focus, and the arrow keys for previous and next with it."""

    def turn() -> None:
        st.session_state["_whatif"] = not st.session_state.get("_whatif", False)

    on = bool(st.session_state.get("_whatif", False))
    st.button("Leave it as it is" if on else "Change the picture", on_click=turn, key="whatif", icon=":material/shuffle:")
    return on


def show_causes(causes: dict[str, Any]) -> None:
    """What the picture was drawn from."""
    usual = "the usual one for it" if causes["usual_place"] else "not the usual one for it"
    lines = {
        "place": f"{causes['place']} ({usual})",
        "trouble": causes["trouble"],
        "visible": f"{100 * causes['visible']:.0f} % of the object",
        "size": f"{100 * causes['area']:.0f} % of the picture",
        "turned": f"{causes['turned']:.0f}° from its usual view",
        "camera": f"{causes['distance']:.1f} object heights away",
        "sun": f"{100 * causes['sun']:.0f} %",
        "other things": f"{causes['clutter']}",
    }
    st.markdown("**What this picture was drawn from**")
    table = pd.DataFrame({"cause": list(lines), "here": list(lines.values())})
    st.dataframe(table, hide_index=True, width="stretch", alt="what the picture was drawn from")


def show(here: Frame, scores: Result, probe: Result | None, sample_id: str, row: int, causes: dict[str, Any]) -> None:
    """On demand: five changes side by side, and one of the user's own."""
    st.subheader("What if …")
    st.caption(
        "The picture is drawn again with one cause changed and everything else the same, bit for bit. "
        "So a difference here is caused by that change, which a correlation over images cannot tell."
        + (
            ""
            if causes["trouble"] == "none"
            else f" A picture has one trouble at most: another takes the place of {causes['trouble']}."
        )
    )
    if not _is_on():
        return
    try:
        live.check_embeddings(here, scores)
        changes = _five(sample_id, bool(causes["usual_place"]), str(causes["trouble"]))
        original, _ = picture_file(here.dataset.name, row)
        shown = [("as it is", original, causes), *changes]
        rows = _rows(here, scores, probe, [picture for _, picture, _ in shown])
    except EXPECTED as error:
        st.warning(f"No counterfactuals: {plain(said(error))}")
        return
    titles = scores.content["summary"]["titles"]
    for column, (name, picture, record), found in zip(st.columns(len(rows)), shown, rows, strict=True):
        with column:
            _card(_named(name, str(causes["trouble"])), _place_words(record), picture, found, rows[0], probe, titles)
    try:
        _own_change(here, scores, probe, sample_id, rows[0])
    except EXPECTED as error:
        st.warning(plain(said(error)))


def _named(change: str, trouble: str) -> str:
    """What a column shows of a picture with this trouble: "dark" is without it where it was dark, and takes another's place."""
    from sslviz.data.demo.files import TROUBLE_OF

    wanted = TROUBLE_OF.get(change)
    if wanted is None or trouble == "none":
        return change
    return f"not {change}" if trouble == wanted else f"{change}, not {trouble}"


def _rows(here: Frame, scores: Result, probe: Result | None, pictures: list[bytes]) -> list[live.Row]:
    found = live.discriminative(scores)
    return [live.explain(raw, found, probe) for raw in live.embed(here, pictures)]


@st.cache_data(max_entries=64, show_spinner=False)
def _five(sample_id: str, usual_place: bool, trouble: str) -> list[tuple[str, bytes, dict[str, Any]]]:
    """(change, picture file, record) of the five changes: shipped for 200 scenes, else rendered here."""
    from sslviz.data.demo import files

    shipped = files.shipped_counterfactuals(sample_id)
    if len(shipped):
        records: list[Any] = shipped.to_dict("records")
        return [(line["change"], line["image"], line) for line in records]
    scene = files.scene_of(sample_id)
    return [_rendered(c, files.counterfactual(scene, usual_place, trouble, c)) for c in files.CHANGES]


def _rendered(change: str, scene: Any) -> tuple[str, bytes, dict[str, Any]]:
    from sslviz.data.demo import files
    from sslviz.data.demo.scene import render

    picture = render(scene, files.SIDE)
    return change, files.webp(picture.image), picture.record.as_row()


def _place_words(record: dict[str, Any]) -> str:
    trouble = "" if record["trouble"] == "none" else f", {record['trouble']}"
    return f"{record['place']}{trouble}, turned {record['turned']:.0f}°"


def _card(
    name: str, about: str, picture: bytes, found: live.Row, original: live.Row, probe: Result | None, titles: list[str]
) -> None:
    st.image(picture, width="stretch", alt=f"{name}: {about}")
    st.markdown(f"**{name}**")
    st.caption(plain(about))
    if probe is not None and found.probabilities is not None:
        best = int(np.argmax(found.probabilities))
        said = titles[int(live.probe_classes(probe)[best])]
        changed = original.probabilities is not None and best != int(np.argmax(original.probabilities))
        st.markdown(f"{'⟶ ' if changed else ''}**{plain(said)}** {percent(float(found.probabilities[best]), 0)}")
    same = found is original
    kept = len(np.intersect1d(found.chosen, original.chosen))
    st.metric("Q-Score", f"{found.q:.4f}", None if same else f"{found.q - original.q:+z.4f}", delta_color="off")
    gone, new = len(original.chosen) - kept, len(found.chosen) - kept
    st.metric("Firing in D", len(found.chosen), None if same else f"{new} new, {gone} gone", delta_color="off", delta_arrow="off")


def _own_change(here: Frame, scores: Result, probe: Result | None, sample_id: str, original: live.Row) -> None:
    """Place, trouble and turn as the user wants them."""
    from sslviz.data.demo import files
    from sslviz.data.demo.materials import GROUNDS
    from sslviz.data.demo.scene import TROUBLES

    st.markdown("**Your own change**")
    a, b, c = st.columns(3)
    place = a.selectbox("Place", ["as it is", *GROUNDS], key=f"whatif-place-{sample_id}")
    trouble = b.selectbox("Trouble", ["as it is", "none", *TROUBLES], key=f"whatif-trouble-{sample_id}")
    turn = c.slider("Turn further by (degrees)", -180, 180, 0, 10, key=f"whatif-turn-{sample_id}")
    if place == "as it is" and trouble == "as it is" and turn == 0:
        return
    wanted: dict[str, str | float] = {"turn": float(turn)}
    wanted |= {"place": place} if place != "as it is" else {}
    wanted |= {"trouble": trouble} if trouble != "as it is" else {}
    _, picture, record = _rendered("yours", files.scene_of(sample_id).changed(**wanted))
    found = _rows(here, scores, probe, [picture])[0]
    left, _ = st.columns([1, 3])
    with left:
        _card("yours", _place_words(record), picture, found, original, probe, scores.content["summary"]["titles"])
