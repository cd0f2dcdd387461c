"""Widgets that several pages share."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd
import streamlit as st

from sslviz.data.dataset import Dataset
from sslviz.errors import EXPECTED, SslvizError, said
from sslviz.jobs import JOBS, Settings, remade
from sslviz.jobs.runner import ACTIVE, cancel, in_words, kill, launch, list_runs, read_run, resume
from sslviz.store.results import Result
from sslviz.store.workspace import Workspace
from sslviz.ui import overlays

_HERE = Path(__file__).parent
CHART = {"displaylogo": False}


def plain(text: str) -> str:
    """Text from data, escaped so that Markdown shows it as it was typed."""
    return re.sub(r"([\\`*_{}\[\]()#+\-!$:<>|~])", r"\\\1", text.replace("\n", " "))


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:z.{digits}f} %"


def interval(span: Any, digits: int = 1) -> str:
    """A 95 % interval in percent, or a dash."""
    return "–" if span is None else f"{100 * span[0]:z.{digits}f} to {100 * span[1]:z.{digits}f}"


@cache
def _component(name: str, html: str) -> Any:
    """One of our own: name.css and name.js beside this file."""
    css, js = ((_HERE / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return st.components.v2.component(f"sslviz_{name}", html=html, css=css, js=js)


def cards(items: list[dict[str, str]], key: str, side: int = 112, panels: int = 1) -> str | None:
    """A grid of picture buttons (id, url, title, detail, alt, tone); the id that was clicked, or had Enter pressed on it.

    side: least width, pixels · panels: how many times as wide as high a picture is.
    """
    gallery = _component("gallery", '<div class="gallery" role="group" aria-label="Images"></div>')
    picked = gallery(data={"items": items, "side": side, "panels": panels}, key=key, on_clicked_change=lambda: None)
    return str(picked.clicked) if picked.clicked is not None else None


def overlay(image: str, heat: str, outlines: dict[str, str], alt: str, key: str, side: int = 448) -> None:
    """A picture under its heat, with outlines (name -> address); the browser mixes them as its slider and boxes say."""
    found = [{"name": name, "url": url, "colour": f"rgb{overlays.OUTLINES[name]}"} for name, url in outlines.items()]
    html = '<div class="overlay"><canvas role="img"></canvas><div class="controls"></div></div>'
    _component("overlay", html)(data={"image": image, "heat": heat, "outlines": found, "alt": alt, "side": side}, key=key)


def thumb_url(dataset: Dataset, row: int) -> str:
    """Address of the thumbnail of the sample in this row of samples.parquet; "" where samples have no pictures."""
    return "" if dataset.root is None else f"/api/thumb/{quote(dataset.name)}/{row}?of={dataset.fingerprint}"


def heat_url(dataset: Dataset, encoder: str, row: int, key: str, strip: bool = False, beside: str = "") -> str:
    """Address of the sample of this row under its stored heatmap, as `overlays.heat_file` makes it; key: of all it shows."""
    asked = urlencode({"of": dataset.fingerprint, "key": key, **({"strip": 1, "beside": beside} if strip else {})})
    return f"/api/heat/{quote(dataset.name)}/{quote(encoder)}/{row}?{asked}"


def gallery(
    dataset: Dataset,
    table: pd.DataFrame,
    score: str,
    key: str,
    side: int = 112,
    panels: int = 1,
    url: Callable[[dict[str, Any]], str | None] = lambda row: None,
    detail: Callable[[dict[str, Any]], str] = lambda row: "",
) -> None:
    """A grid of samples (rows of `reads.scores`); a click, or Enter on one, opens it on the sample page.

    `score`: the column whose value stands below each, "" for none · `detail`: what stands there instead · `url`: of another
    picture of a row, else its thumbnail · `panels`: how many stand side by side in it.
    """
    has_probe = "correct" in table
    items = []
    rows: list[Any] = table.to_dict("records")
    for row in rows:
        correct = row.get("correct")
        known = has_probe and not pd.isna(correct)
        label = row["title"] if isinstance(row["title"], str) else "no label"
        tone = "" if not known else "right" if correct else "wrong"
        said = f"said: {row['predicted']}" if tone == "wrong" and isinstance(row.get("predicted"), str) else ""
        value = f"{row[score]:.3f}" if score else detail(row)
        items.append(
            {
                "id": row["sample_id"],
                "url": url(row) or thumb_url(dataset, row["row"]),
                "title": label,
                "detail": f"{value} {said}".strip(),
                "alt": ", ".join(
                    part
                    for part in (label, row["sample_id"].rsplit("/", 1)[-1], f"{score} {value}".strip(), said and f"probe {said}")
                    if part
                ),
                "tone": tone,
            }
        )
    clicked = cards(items, key, side, panels)
    if clicked is not None:
        go_to("sample", sample=clicked)


def chart(figure: Any, numbers: pd.DataFrame, key: str, alt: str, **selecting: Any) -> Any:
    """A chart, and the table behind it; what was selected in it, where `selecting` says how (st.plotly_chart's options)."""
    event = st.plotly_chart(figure, key=key, alt=alt, config=CHART, **selecting)
    with st.expander("The numbers"):
        st.dataframe(numbers, hide_index=True, width="stretch", alt=f"the numbers of: {alt}")
    return event


def paged(table: pd.DataFrame, most: int, key: str, what: str = "") -> pd.DataFrame:
    """The rows of the page the user is on, `most` a page; the page's number is asked for where there is more than one."""
    pages = max(1, -(-len(table) // most))
    label = f"Page of {pages:,}" + (f" ({len(table):,} {what})" if what else "")
    order = hash(tuple(table.iloc[:, 0]))
    if st.session_state.get(f"{key}-of") != order:  # another filter or order begins at its first page; coming back does not
        st.session_state[f"{key}-of"] = order
        st.session_state[key] = 1
    page = st.number_input(label, 1, pages, key=key, width=200, persist_state="session") if pages > 1 else 1
    return table.iloc[(page - 1) * most : page * most]


def paged_gallery(
    dataset: Dataset, table: pd.DataFrame, score: str, key: str, what: str = "", most: int = 60, **look: Any
) -> None:
    """`gallery` (`look`: its side, panels, url and detail), `most` images a page; the sample page steps through all of them in
    this order."""
    shown = paged(table, most, f"{key}-page", what)
    st.session_state["sequence"] = table["sample_id"].head(10_000).tolist()
    gallery(dataset, shown, score, key=f"{key}-grid", **look)


def facts(rows: Sequence[tuple[str, ...]]) -> None:
    """Figures in a row: label, value, what stands below it, and where the label needs one an explanation."""
    with st.container(horizontal=True):
        for label, value, below, *explained in rows:
            with st.container(width=122, gap="xsmall"):
                st.metric(label, value, help=explained[0] if explained else None)
                st.caption(below)


def set_param(name: str, value: str) -> None:
    """Write to the URL only what it does not say already: every write is an entry in the browser's history."""
    if st.query_params.get(name) != value:
        st.query_params[name] = value


def go_to(page: str, **params: str) -> None:
    """Go to another page with everything its URL will say, so that one click is one step back."""
    state = {"dataset": "dataset", "encoder": "encoder", "selection": "_selection"}
    kept = {name: str(st.session_state[key]) for name, key in state.items() if st.session_state.get(key)}
    st.session_state["_opened"] = page == "sample"
    st.switch_page(f"pages/{page}.py", query_params={**kept, **params})


def start_job(workspace: Workspace, job: str, settings: Settings, slurm: str = "") -> bool:
    """Launch a job, here or on a cluster, and say whether it could be; a second click, or a second tab, joins its run."""
    try:
        run_id, _ = launch(job, settings, workspace, slurm=slurm)
    except EXPECTED as error:
        st.error(plain(said(error)))
        return False
    st.session_state["run"] = run_id
    return True


def job_button(
    workspace: Workspace, job: str, dataset: str, encoder: str, label: str, made: Result | None = None, **kwargs: Any
) -> None:
    """A button that makes a result; again in the way it was made before."""

    def start() -> None:
        was = made.content["settings"] if made else {}
        start_job(workspace, job, remade(JOBS[job].settings, was, dataset=dataset, encoder=encoder))

    st.button(label, on_click=start, key=f"start-{job}", **kwargs)


def active_runs(workspace: Workspace, dataset: str, encoder: str) -> list[dict[str, Any]]:
    """Runs that work on this data set and encoder now."""
    return [r for r in list_runs(workspace) if r["status"] in ACTIVE and _works_on(r, dataset, encoder)]


def last_run(workspace: Workspace, dataset: str, encoder: str) -> dict[str, Any] | None:
    """The newest run on this data set and encoder."""
    return next((r for r in list_runs(workspace) if _works_on(r, dataset, encoder)), None)


def _works_on(run: dict[str, Any], dataset: str, encoder: str) -> bool:
    settings = run["settings"]
    return settings.get("dataset") == dataset and encoder in (settings.get("encoder"), *settings.get("encoders", ()))


def keep_drawing(draw: Callable[[], None], seconds: float | None) -> None:
    """Draw a part of the page anew every so many seconds, by itself; None: once.

    In a container of the page: a part whose turn comes before the page was sent takes its own elements back from what waits to be
    sent (Streamlit 1.67), and a hole among the page's own makes the browser give up.
    """
    with st.container():
        st.fragment(draw, run_every=seconds)()


def run_box(workspace: Workspace, run_id: str) -> None:
    """Live progress of a run with Cancel; when the run ends the page is drawn again."""
    now = read_run(workspace, run_id)
    running, stage = now["status"] in ACTIVE, now["stage"]

    def box() -> None:
        try:
            run = read_run(workspace, run_id)
        except SslvizError:
            return
        if (run["status"] in ACTIVE) != running or run["stage"] != stage:
            st.rerun()  # it ended, was resumed or got further: draw the page, and this box's timer, again
        with st.container(border=True):
            _run_line(run)
            if run["status"] in ACTIVE:
                st.button(
                    "Stopping …" if run["cancelling"] else "Cancel",
                    key=f"cancel-{run_id}",
                    on_click=quietly(cancel, workspace, run_id),
                    disabled=run["cancelling"],
                    icon=":material/stop:",
                )
                if run["cancelling"]:
                    st.button(
                        "End it at once", key=f"kill-{run_id}", on_click=quietly(kill, workspace, run_id), help="without saving"
                    )
            elif run["status"] != "done":
                again = quietly(resume, workspace, run_id)
                st.button(again_label(run), key=f"resume-{run_id}", on_click=again, icon=":material/play_arrow:")

    keep_drawing(box, 0.7 if running else None)


def again_label(run: dict[str, Any]) -> str:
    """Of the button that starts an ended run again: one that failed begins where it failed."""
    return "Try again" if run["status"] == "failed" else "Resume"


def _run_line(run: dict[str, Any]) -> None:
    share = min(1.0, run["done"] / run["total"]) if run["total"] else 0.0
    words = [run["job"], run["stage"] or "starting" if run["status"] in ("queued", "running") else run["status"]]
    if run["status"] in ACTIVE:
        if run["total"]:
            words.append(f"{run['done']:,} of {run['total']:,}")
        if run["eta_seconds"]:
            words.append(f"about {duration(run['eta_seconds'])} left")
        words += [
            f"{k.replace('_', ' ')} {in_words(v)}"
            for k, v in run["facts"].items()
            if v is not None and k in ("device", "images_per_second", "views_per_second", "loss", "epoch")
        ]
        st.progress(share, text=plain(" · ".join(words)))
        if plan := run["facts"].get("plan"):
            st.caption(plain(plan))
    elif run["status"] == "done":
        st.success(plain(f"{run['job']} done in {duration(run['seconds'])}"), icon=":material/check:")
    else:
        st.warning(plain(f"{run['job']} {run['status']}: {run['error']}"))
    for line in run["warnings"]:
        st.caption(plain(line))


def quietly(action: Any, *given: Any) -> Any:
    """A callback; what it raises is a toast."""

    def act() -> None:
        try:
            action(*given)
        except EXPECTED as error:
            st.toast(plain(said(error)))

    return act


def duration(seconds: float) -> str:
    """Seconds in words a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
