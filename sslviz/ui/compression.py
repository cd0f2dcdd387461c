"""How many features are enough: the curve in words and as a chart, other encoders beside it, and the subset to take away."""

from typing import Any

import pandas as pd
import streamlit as st

from sslviz.analysis.compression import KINDS, subset
from sslviz.encoders.cut import cut_from
from sslviz.encoders.spec import load_spec
from sslviz.jobs.export import ExportSettings
from sslviz.jobs.runner import list_runs
from sslviz.ui import reads, report, widgets
from sslviz.ui.figures import compression as figures
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import interval, percent, plain


def headline(summary: dict[str, Any]) -> None:
    """What discriminative subsets lose at 40 %, beside random ones, and how far one may go."""
    at, random = summary["at_40"]["discriminative"], summary["at_40"]["random"]
    above, low, high = at["above_random"]
    beside = "**not distinguishable from random features**" if low <= 0 <= high else "**better than random features**"
    if high < 0:
        beside = "**worse than random features**"
    st.markdown(
        f"With 40 % fewer features, chosen as discriminative, the probe loses {100 * at['drop']:z.1f} points "
        f"(95 % {interval(at['interval'])}) of {percent(summary['top1'])}: {beside} of the same number "
        f"({100 * above:+z.1f} points, 95 % {100 * low:+z.1f} to {100 * high:+z.1f})."
    )
    facts = [
        ("Full width", percent(summary["top1"]), f"{summary['n_features']} features"),
        ("Lost at 40 %", f"{100 * at['drop']:z.1f}", f"95 %: {interval(at['interval'])}"),
        ("Random, 40 %", f"{100 * random['drop']:z.1f}", f"seeds {_span(random['by_seed'])}"),
        ("1 point lost at", _first(summary, "1"), "discriminative"),
        ("2 points lost at", _first(summary, "2"), "discriminative"),
    ]
    widgets.facts(facts)
    for note in summary["notes"]:
        st.caption(plain(note))


def _span(values: Any) -> str:
    return f"{100 * min(values):z.1f} to {100 * max(values):z.1f}"


def _first(summary: dict[str, Any], points: str) -> str:
    reduction = summary["enough"]["discriminative"][points]
    return "beyond 90 %" if reduction is None else f"{100 * reduction:.0f} %"


def chart(table: pd.DataFrame, summary: dict[str, Any]) -> None:
    """The curves of this encoder."""
    chosen = st.pills("Curves", KINDS, selection_mode="multi", default=list(KINDS), key="compression-kinds", format_func=_name)
    found = figures.lines(table)
    kinds = [kind for kind in KINDS if kind in chosen] or ["discriminative"]
    numbers = found[found["kind"].isin(kinds)]
    title = f"Top-1 of linear probes on fewer features, {summary['n_judged']:,} {summary['judged_on']} images"
    widgets.chart(figures.curves(found, kinds), numbers, key="compression", alt=title)
    st.caption(
        f"{title}. Bands: 95 % interval over images (discriminative), lowest and highest of four seeds (random). All probes use "
        f"the L2 chosen at full width ({summary['l2']:g}); shares are counted at eps {summary['eps']:g}. Lower and upper tail: "
        "the features that fire least and most often. Principal components select nothing: all features must still be computed."
    )


def _name(kind: str) -> str:
    return figures.NAMES.get(kind, kind)


def caveats() -> None:
    """What the curve does not say."""
    st.info(
        "Features are ranked without labels, but whoever picks a size by looking at this curve uses the labels of these images. "
        "The default discriminative set (percentiles 50 to 95) is itself a cut of about 55 %. In the paper the curves of "
        "discriminative and of random features coincide for some encoders up to cuts of 10 to 20 %."
    )


def beside(here: Frame) -> None:
    """The curve of one kind for all encoders that have one on this data set."""
    stages = {e: reads.stage(here.workspace, here.dataset, e, "compression", "compress") for e in here.workspace.encoders()}
    fresh = {e: stage.result for e, stage in stages.items() if stage.state == "fresh" and stage.result is not None}
    if len(fresh) < 2:
        return
    found = {e: figures.lines(reads.table(result, "curve")) for e, result in fresh.items()}
    st.subheader("Other encoders")
    left, right = st.columns(2)
    names = left.multiselect("Encoders", list(found), default=list(found), key="compression-encoders")
    kind = right.selectbox("Curve", KINDS, format_func=_name, key="compression-kind")
    shown = {name: found[name] for name in names}
    if not shown:
        return
    numbers = pd.concat([t[t["kind"] == kind].assign(encoder=name) for name, t in shown.items()])
    title = f"Top-1 on fewer features ({_name(kind)}) of {len(shown)} encoders"
    widgets.chart(figures.encoders(shown, kind), numbers, key="compression-others", alt=title)
    own = {e: fresh[e].content["summary"] for e in shown}
    spread = "lowest and highest of four seeds."
    if kind != "random":
        spread = "95 % intervals over images; that two of them overlap decides nothing, since all probes see the same images."
    stale = [e for e, stage in stages.items() if stage.state == "stale"]
    st.caption(
        plain(
            "Each has its own L2 and eps: "
            + "; ".join(f"{e} {s['l2']:g} and {s['eps']:g}" for e, s in own.items())
            + f". Hover: {spread}"
            + (f" Left out, since stale (made from older images or weights): {', '.join(stale)}." if stale else "")
        )
    )


def take_away(here: Frame, shares: pd.DataFrame, eps: float, fresh: bool) -> None:
    """The features of a subset, as a file; and, of a fresh curve, the encoder that gives only them."""
    st.subheader("Take a subset")
    left, right = st.columns(2)
    kind = left.selectbox("Subset", [k for k in KINDS if k != "pca"], key="compression-take")
    less = right.slider("Features left out, %", 5, 95, 40, 5, key="compression-less")
    kept = subset(shares["share"].to_numpy(), kind, less / 100)
    table = pd.DataFrame({"feature": kept, "share": shares["share"].to_numpy()[kept]})
    if table.empty:
        st.caption(f"None of {len(shares)} features is left.")
        return
    least, most = table["share"].min(), table["share"].max()
    st.caption(f"{len(kept)} of {len(shares)} features; they fire in {least:.2f} to {most:.2f} % of the train images.")
    st.download_button(
        "Download the features (CSV)",
        table.to_csv(index=False),
        file_name=f"{here.dataset.name}-{here.encoder}-{kind.replace(' ', '-')}-{less}.csv",
        icon=":material/download:",
    )
    if not fresh:
        return
    settings = ExportSettings(dataset=here.dataset.name, encoder=here.encoder, kind=kind, reduction=less / 100, eps=eps)
    name = settings.new_name
    if name in here.workspace.encoders():
        _exported(here, settings, kept.tolist())
        return
    busy = report.runs_of(here)

    def start() -> None:
        widgets.start_job(here.workspace, "export", settings)

    st.button(
        "Make the compressed encoder",
        on_click=start,
        disabled=busy or reads.is_arrays(here.workspace, here.encoder),
        help="An encoder that embeds straight into these features, beside the others in this workspace.",
        icon=":material/content_cut:",
        key="compression-export",
    )


def _exported(here: Frame, settings: ExportSettings, kept: list[int]) -> None:
    """A compressed encoder that is there: what it gains; or that the one of this name is another."""
    name = settings.new_name
    runs = [r for r in list_runs(here.workspace) if r["job"] == "export" and (r["result"] or {}).get("encoder") == name]
    parent, features = load_spec(here.workspace, here.encoder), here.workspace.encoder(name) / "features.csv"
    same = load_spec(here.workspace, name).source == cut_from(parent, len(kept))
    if not same or not features.exists() or pd.read_csv(features)["feature"].tolist() != kept:
        st.warning(
            f"There is an encoder **{plain(name)}** that has other features or weights. To make this one, remove it "
            f"(sslviz encoders remove {plain(name)}) or give another name: sslviz export --name."
        )
        return
    words = runs[0]["result"]["words"] if runs else f"gives these {len(kept)} features."
    st.success(f"Encoder **{plain(name)}**: {plain(words)}", icon=":material/content_cut:")
    query = {"dataset": here.dataset.name, "encoder": name}
    st.page_link(
        "pages/overview.py", label="Analyze it: the overview has the buttons", icon=":material/dashboard:", query_params=query
    )
