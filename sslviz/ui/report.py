"""The Q-Score report in words and figures, and the state of what it is made from."""

import shlex
from typing import Any, NoReturn

import pandas as pd
import streamlit as st

from sslviz.analysis.rivals import RIVALS, score_titles
from sslviz.data.masks import mask_facts
from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import read_card
from sslviz.errors import InputError
from sslviz.jobs import JOBS, command_of, parse
from sslviz.jobs.analyze import AnalyzeSettings
from sslviz.jobs.runner import ACTIVE
from sslviz.store.workspace import Workspace
from sslviz.ui import reads, selection, widgets
from sslviz.ui.figures import scores as figures
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import interval, percent, plain

_ICONS = {"fresh": ":material/check_circle:", "stale": ":material/history:", "missing": ":material/radio_button_unchecked:"}
_FURTHER = {
    "compress": ("compression", "Compression", "Find the curve"),
    "interpret": ("heatmaps", "Heatmaps", "Make them"),
    "project": ("projection", "Map", "Make it"),
    "finetune": ("finetune", "Fine-tuning", ""),
}
"""Job -> its page, what its result is called, and what its button says ("": it has settings to be chosen on its page)."""
_SAYS = {
    "predicts": "**The Q-Score predicts which images the linear probe gets right here**",
    "weakly predicts": "**The Q-Score weakly predicts which images the linear probe gets right here**",
    "does not separate here": "**The Q-Score does not separate correct from misclassified images here**",
    "upside down here": "**The Q-Score is upside down here: misclassified images score higher. Do not trust its ranking**",
    "cannot be judged here": "**Whether the Q-Score predicts errors cannot be judged here**",
}


def verdict(summary: dict[str, Any]) -> str:
    """What may be said of the Q-Score, as one Markdown sentence that follows the AUROC's interval."""
    reports = summary["reports"]
    if not reports:
        return "**Scores without labels**: nothing here says whether they predict errors."
    q = reports["q"]
    sentence = _SAYS[q["verdict"]]
    if q["auroc"] is None:
        return f"{sentence}: {plain(q['reason'])}."
    sentence += f" (AUROC {100 * q['auroc']:.1f}, 95 % interval {interval(q['intervals']['auroc'])}; 50 is chance)."
    rival = summary["best_rival"]
    return f"{sentence} {rival['words']}" if rival else sentence


def headline(scores: reads.Stage, probe: reads.Stage) -> None:
    """Verdict, then the figures, each with its interval or base rate."""
    summary = reads.summary(scores)
    if scores.state != "fresh":
        st.warning(f"These scores are **stale**: {plain(scores.why)}. Recompute them below.", icon=":material/history:")
    st.markdown(verdict(summary))
    q = summary["reports"].get("q")
    top1 = reads.summary(probe).get("top1")
    split = summary["judged_on"] + (" (out of fold)" if summary["out_of_fold"] else "")
    facts = [
        (
            "Probe top-1",
            percent(top1),
            f"linear probe on {split}",
            "Share of images that a linear classifier on the frozen features gets right.",
        ),
        (
            "AUROC of Q",
            percent(q and q["auroc"]),
            f"95 %: {interval(q['intervals']['auroc'])}" if q else "needs labels",
            "How often a correctly classified image has a higher Q-Score than a misclassified one; 50 is chance.",
        ),
        (
            "AUPRC of Q",
            percent(q and q["auprc"]),
            f"base rate {percent(q['base_rate'])}" if q else "needs labels",
            "Average precision: share of correct images among those kept, best Q first. A random score reaches the base rate.",
        ),
        (
            "Empty sets",
            percent(summary["empty_share"].get(summary["judged_on"])),
            "no discriminative feature fires",
            "Images whose Q-Score is 0 by definition, since no discriminative feature fires in them.",
        ),
        (
            "eps in use",
            f"{summary['eps']:g}",
            f"{'auto' if summary['eps_auto'] else 'given'}; D: P{summary['lower']:g} to P{summary['upper']:g}",
            "A feature fires in an image where it lies more than eps standard deviations above the mean of the image's features. "
            "Auto: the largest eps at which, on average, at least 3.7 % of the features fire, or 0.25 where there is none. D, "
            "the discriminative features: those whose activation share lies between these percentiles.",
        ),
        (
            "RankMe",
            f"{summary['rank_me']:.0f}",
            f"directions in use, of {summary['n_features']}",
            "Effective rank of the embeddings: near 1, the encoder has collapsed.",
        ),
    ]
    widgets.facts(facts)
    for note in summary["notes"]:
        st.caption(plain(note))


def damage(here: Frame, summary: dict[str, Any], made_with: dict[str, Any]) -> None:
    """The damage check: for Q and each rival, the share of images whose score falls under each damage. made_with: the scores'
    settings."""
    if not summary["damage"]:
        st.info("Do scores fall when images are covered, shrunk, darkened, noised or blurred?")
        if here.dataset.root is None or reads.is_arrays(here.workspace, here.encoder):
            st.caption("It cannot be tried here: these embeddings were imported as arrays.")
        else:
            command(here, "score", {**made_with, "damage": 300})
        return
    table = pd.DataFrame(summary["damage"])
    titles = score_titles(table["score"].unique())
    falls = 100 * table.pivot(index="score", columns="damage", values="falls")
    shown = falls.reindex(list(titles)).rename(index=titles).rename_axis(None).reset_index(names="score")
    n = int(table["n"].iloc[0])
    st.markdown(
        f"{n} images were damaged in five ways. One would expect a score that predicts errors to fall, but not all that do "
        "fall by every damage (docs/evidence.md). Share of images whose score falls; 50 is a coin's toss. No labels are used."
    )
    columns = {name: st.column_config.NumberColumn(format="%.0f %%") for name in falls.columns}
    st.dataframe(
        shown, hide_index=True, width="stretch", column_config=columns, alt="share of images whose score falls, by damage"
    )
    spans = table[table["score"] == "q"]
    st.caption(
        "95 % intervals for the Q-Score: "
        + ", ".join(f"{r['damage']} {interval((r['low'], r['high']), 0)}" for r in spans.to_dict("records"))
        + ". What this says about the ranking by Q is open: docs/evidence.md (in the source) has the cases so far."
    )


def states(here: Frame, stages: list[reads.Stage], busy: bool) -> None:
    """Each result's state, with the button that makes it; while a run is going on the buttons wait."""
    verbs = {"embed": "Embed", "probe": "Train the probe", "score": "Score"}
    for column, stage in zip(st.columns(len(stages)), stages, strict=True):
        with column, st.container(border=True):
            st.markdown(f"{_ICONS[stage.state]} **{stage.name}**: {stage.state}")
            if stage.job == "probe" and not here.dataset.has_labels:
                st.caption("needs labels: class folders (FOLDER/CLASS/image or FOLDER/train/CLASS/image)")
                continue
            ready = stage.job == "embed" or stages[0].state == "fresh"
            _make(here, stage, verbs[stage.job], disabled=busy or not ready)


def further(here: Frame, stages: list[reads.Stage], busy: bool) -> None:
    """The state of what rests on embeddings and scores, each with the button that makes it and the way to its page."""
    lacking = {
        "compress": "" if here.dataset.has_labels else "needs labels",
        "interpret": no_maps(here) or ("" if mask_facts(here.dataset) else "needs masks"),
        "finetune": "" if here.dataset.root else "needs images",
    }
    for column, (job, (page, name, verb)) in zip(st.columns(len(_FURTHER)), _FURTHER.items(), strict=True):
        stage = reads.stage(here.workspace, here.dataset, here.encoder, name, job)
        with column, st.container(border=True):
            st.page_link(f"pages/{page}.py", label=f"**{name}**", icon=_ICONS[stage.state])
            st.caption(lacking.get(job) or stage.state)
            if not lacking.get(job):
                _make(here, stage, verb, disabled=busy or stages[2 if job == "interpret" else 0].state != "fresh")


def no_maps(here: Frame) -> str:
    """Why an encoder has no heatmaps at all; "" where it has."""
    spec = load_spec(here.workspace, here.encoder)
    if spec.backbone == "arrays":
        return "was imported as arrays: there is no network to look into"
    return "" if BACKBONES[spec.backbone].has_maps else "has no layer with maps"


def _make(here: Frame, stage: reads.Stage, verb: str, disabled: bool) -> None:
    """Why a result is not of today, and the button that makes it, where one does."""
    if stage.why and (stage.state == "stale" or stage.job == "embed"):
        st.caption(plain(stage.why))
    if stage.state != "fresh" and verb:
        label = verb + ("" if stage.state == "missing" else " again")
        widgets.job_button(here.workspace, stage.job, here.dataset.name, here.encoder, label, stage.result, disabled=disabled)


def left_out(here: Frame) -> None:
    """The files that gave no embedding, and why; nothing where all could be read."""
    bad = reads.bad_files(here.workspace, here.dataset.name, here.encoder)
    if bad.empty:
        return
    with st.expander(f"{len(bad):,} file{'s' if len(bad) > 1 else ''} left out"):
        st.dataframe(bad, hide_index=True, width="stretch", alt="files left out, with the reason")
        name = f"{here.dataset.name}-left-out.csv"
        st.download_button("Download the list (CSV)", bad.to_csv(index=False), file_name=name, icon=":material/download:")


def about(here: Frame) -> None:
    """What this encoder is and where it came from; how it was trained, where its card says so."""
    spec = load_spec(here.workspace, here.encoder)
    with st.expander(f"About {plain(here.encoder)}"):
        facts = {
            "Method": spec.method,
            "Network": spec.network,
            "Features": f"{spec.feature_dim:,}",
            "Input": f"{spec.input.size} px, mean {spec.input.mean}, std {spec.input.std}",
            "From": spec.source,
            "Licence": spec.licence,
            "Remarks": "; ".join(spec.notes),
        }
        for name, value in facts.items():
            if value:
                st.markdown(f"**{name}**: {plain(value)}")
        card = read_card(here.workspace, here.encoder)
        if card is not None:
            st.code(card.command, language="bash", wrap_lines=True)
            title = f"Training loss of {len(card.loss)} epochs"
            st.plotly_chart(figures.training(card.loss), key="training", alt=title, config=widgets.CHART)


def first_step(here: Frame) -> None:
    """What a page without scores says: one sentence and one button."""
    n = len(here.dataset.samples)
    st.info(f"{n:,} images, no Q-Scores yet. One button does it all: embed, train the probe where there are labels, score.")

    def start() -> None:
        settings = AnalyzeSettings(dataset=here.dataset.name, encoder=here.encoder)
        widgets.start_job(here.workspace, "analyze", settings)

    st.button("Analyze", type="primary", on_click=start, icon=":material/play_arrow:")


def no_scores() -> NoReturn:
    """What other pages say where there are no scores yet; the page ends there."""
    st.info("No Q-Scores yet for this data set and encoder.")
    st.page_link("pages/overview.py", label="Make them on the overview", icon=":material/dashboard:")
    st.stop()
    raise AssertionError


def needs_embeddings(stage: reads.Stage) -> None:
    """One sentence and the way where there are no embeddings yet, or stale ones; the page ends there."""
    if stage.state != "fresh":
        st.info(f"This needs embeddings that are up to date: {plain(stage.why)}.")
        st.page_link("pages/overview.py", label="Make them on the overview", icon=":material/dashboard:")
        st.stop()


def offer(here: Frame, embeddings: reads.Stage, made: reads.Stage, what: str, words: str) -> None:
    """Where a page's result is missing: `words` and the button that makes it; the page ends there. Where it is stale: why, and
    the button."""
    if made.result is not None and made.state == "fresh":
        return
    busy = runs_of(here)

    def button(label: str, disabled: bool) -> None:
        target = (here.workspace, made.job, here.dataset.name, here.encoder)
        widgets.job_button(*target, label, made.result, disabled=disabled, type="primary", icon=":material/play_arrow:")

    if made.result is None:
        needs_embeddings(embeddings)
        st.info(words)
        button(f"Make the {what}", busy)
        st.stop()
    st.warning(f"**Stale {what}**: {plain(made.why)}.", icon=":material/history:")
    button(f"Make the {what} again", busy or embeddings.state != "fresh")


def command(here: Frame, job: str, settings: dict[str, Any]) -> None:
    """The command of a job with these settings, on this data set and encoder; nothing where another version made them."""
    if line := command_line(job, {**settings, "dataset": here.dataset.name, "encoder": here.encoder}):
        show_command(here.workspace, line)


def command_line(job: str, settings: dict[str, Any]) -> str:
    """What does a job with these settings; "" where they are another version's."""
    try:
        return command_of(job, parse(JOBS[job].settings, settings))
    except InputError:
        return ""


def show_command(workspace: Workspace, line: str) -> None:
    """A command on this workspace, to be copied."""
    st.code(f"{line} --workspace {shlex.quote(str(workspace.root))} --json", language="bash", wrap_lines=True)


def say_stale(stage: reads.Stage) -> None:
    """One sentence where a result no longer belongs to today's images, encoder or probe."""
    if stage.state == "stale":
        st.warning(
            f"The {stage.name} here {'is' if stage.job == 'finetune' else 'are'} **stale**: {plain(stage.why)}. "
            f"{'Fine-tune again below' if stage.job == 'finetune' else 'The overview has the button'}.",
            icon=":material/history:",
        )


def runs_of(here: Frame) -> bool:
    """Progress of what is running for this data set and encoder (then True), or how the last run ended if not well."""
    runs = widgets.active_runs(here.workspace, here.dataset.name, here.encoder)
    last = widgets.last_run(here.workspace, here.dataset.name, here.encoder)
    if not runs and last is not None and last["status"] != "done":
        runs = [last]
    for run in runs[:2]:
        widgets.run_box(here.workspace, run["id"])
    return any(run["status"] in ACTIVE for run in runs)


def rivals_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Q and its rivals, best AUROC first, each with interval, base rate, lift, errors' AUPRC, AURC and AUGRC."""
    titles = {"q": f"Q-Score (eps {summary['eps']:g})", "q_paper": "Q-Score as in the paper (eps 4, P50 to P95)"}
    rows = []
    for name, r in summary["reports"].items():
        rows.append(
            {
                "score": titles.get(name) or RIVALS[name].title,
                "AUROC": r["auroc"] and 100 * r["auroc"],
                "95 % interval": interval(r["intervals"]["auroc"]),
                "AUPRC": r["auprc"] and 100 * r["auprc"],
                "base rate": 100 * r["base_rate"],
                "lift": r["lift"],
                "AUPRC of errors": r["auprc_error"] and 100 * r["auprc_error"],
                "AURC": r["aurc"],
                "AUGRC": r["augrc"],
            }
        )
    return pd.DataFrame(rows).sort_values("AUROC", ascending=False, ignore_index=True, na_position="last")


def rivals(summary: dict[str, Any]) -> None:
    """The table of Q and its rivals, or why there is none."""
    if not summary["reports"]:
        st.info("Scores can be compared only where there are labels (class folders) and a probe, trained before the scores.")
        return
    st.dataframe(
        rivals_table(summary), hide_index=True, width="stretch", column_config=_COLUMNS, alt="every score as a predictor"
    )
    st.caption(
        "Every score, higher = better, as a predictor of correct classification. A random score has AUROC 50 and "
        "AUPRC equal to the base rate; lift is AUPRC over base rate. AURC and AUGRC: the mean error as more and more images "
        "are kept, best scores first; lower is better. Only the probe's maximum softmax probability uses labels."
    )


_COLUMNS = {
    **{name: st.column_config.NumberColumn(format="%.1f") for name in ("AUROC", "AUPRC", "base rate", "AUPRC of errors")},
    **{name: st.column_config.NumberColumn(format="%.3f") for name in ("lift", "AURC", "AUGRC")},
}


def grid(here: Frame, table: pd.DataFrame, summary: dict[str, Any]) -> None:
    """The sortable grid: filters in a row, 60 images at a time; a click opens an image."""
    splits = sorted(table["split"].unique(), key=lambda s: (s != summary["judged_on"], s))
    names = score_titles(table.columns)
    a, b, c, d = st.columns(4)
    split = a.selectbox("Split", [*splits, "all"], key="scores-split", bind="query-params", persist_state="session")
    by = b.selectbox(
        "Sort by",
        list(names),
        format_func=lambda name: names[name],
        key="scores-by",
        bind="query-params",
        persist_state="session",
    )
    order = c.selectbox(
        "Order", ["lowest first", "highest first"], key="scores-order", bind="query-params", persist_state="session"
    )
    shown = d.selectbox("Show", outcomes(table), key="scores-show", bind="query-params", persist_state="session")
    classes = sorted(table["title"].dropna().unique())
    only = (
        st.multiselect("Classes", classes, key="scores-classes", bind="query-params", persist_state="session", placeholder="all")
        if classes
        else []
    )
    part = table if split == "all" else table[table["split"] == split]
    if only:
        part = part[part["title"].isin(only)]
    part = of_outcome(part, shown)
    part = part[part[by].notna()].sort_values([by, "sample_id"], ascending=[order == "lowest first", True])
    if part.empty:
        st.info("No image fits these filters.")
        return
    if "correct" in part and part["correct"].notna().any():
        st.caption("Blue frame: the probe is right. Orange frame: it is wrong; its prediction is shown next to the score.")
    if len(part) < len(table):
        arguments = (
            here.workspace,
            here.dataset.name,
            part["sample_id"].tolist(),
            f"filtered among the scores of {here.encoder}",
        )
        label = f"Select these {len(part):,}"
        st.button(label, on_click=selection.select, args=arguments, icon=":material/check_box:", key="scores-select")
    widgets.paged_gallery(here.dataset, part, by, key="scores", what="images")


def outcomes(table: pd.DataFrame) -> list[str]:
    """What a grid can be narrowed to by the probe's answers."""
    return ["all", "misclassified", "correct"] if "correct" in table and table["correct"].notna().any() else ["all"]


def of_outcome(table: pd.DataFrame, shown: str) -> pd.DataFrame:
    """The rows of one of `outcomes`; an image that was not judged is neither correct nor misclassified."""
    if shown == "all":
        return table
    return table[table["correct"].fillna(shown != "correct").astype(bool) == (shown == "correct")]


def charts(table: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Histogram, risk-coverage, review budget, ROC and precision-recall of the judged split, a table behind each; Q beside the
    scores the user picks, at first the best label-free one where that is ahead."""
    split = summary["judged_on"]
    part = table[table["split"] == split]
    correct = part["correct"] if "correct" in part and part["correct"].notna().any() else None
    counts = figures.histogram_table(part["q"], correct)
    shown: list[tuple[str, Any, pd.DataFrame]] = [
        (f"Q-Score of the {len(part):,} {split} images", figures.histogram(counts, "Q-Score"), counts)
    ]
    if correct is not None and summary["reports"] and summary["reports"]["q"]["auroc"] is not None:
        known, base = part[correct.notna()], summary["reports"]["q"]["base_rate"]
        names = score_titles(summary["reports"])
        ahead = [summary["best_rival"]["name"]] if summary["best_rival"] else []
        picked = st.pills(
            "Scores in the curves",
            list(names),
            selection_mode="multi",
            default=["q", *ahead],
            format_func=lambda name: names[name],
            key="charts-scores",
        )
        found = {names[name]: figures.curves(known[name], known["correct"].astype(bool)) for name in picked or ["q"]}
        behind = pd.concat([curve.assign(score=name) for name, curve in found.items()], ignore_index=True)
        drawn = [
            ("Error among the images kept, best scores first", figures.risk_coverage(found, base), ["coverage", "error"]),
            ("Errors found when the lowest scores are reviewed", figures.review_budget(found), ["reviewed", "found"]),
            ("ROC: correct against misclassified", figures.roc(found), ["false_positive", "true_positive"]),
            ("Precision and recall of correct images", figures.precision_recall(found, base), ["true_positive", "precision"]),
        ]
        shown += [(title, figure, behind[["score", *columns, "threshold"]]) for title, figure, columns in drawn]
    columns = st.columns(2)
    for i, (title, figure, numbers) in enumerate(shown):
        with columns[i % 2]:
            st.markdown(f"**{title}**")
            widgets.chart(figure, numbers, key=f"chart-{i}", alt=title)


def classes(here: Frame, probe: reads.Stage, table: pd.DataFrame, summary: dict[str, Any]) -> None:
    """How well the probe knows each class and what it takes it for; the images of the class whose row is chosen."""
    if probe.result is None:
        st.info("Classes are judged where there are labels and a probe.")
        return
    said = reads.summary(probe)
    st.markdown(_probe_words(said))
    for note in said["notes"]:
        st.caption(plain(note))
    titles, by_class = summary["titles"], reads.table(probe.result, "classes")
    mixed = reads.table(probe.result, "confusion")
    mixed = mixed[mixed["label"] != mixed["prediction"]].sort_values("n", ascending=False).drop_duplicates("label")
    mixed = mixed.set_index("label")
    judged = table[(table["split"] == said["judged_on"]) & table["correct"].notna()]
    taken = by_class["label"].map(mixed["prediction"])
    rows = pd.DataFrame(
        {
            "class": [titles[k] for k in by_class["label"]],
            "images": by_class["n"],
            "top-1": 100 * by_class["top1"],
            "mean Q-Score": by_class["label"].map(judged.groupby("label")["q"].mean()),
            "most often taken for": [None if pd.isna(k) else titles[int(k)] for k in taken],
            "how many": by_class["label"].map(mixed["n"]).astype("Int64"),
        }
    ).sort_values("top-1", ignore_index=True)
    event: Any = st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        key=f"classes-table-{here.dataset.name}-{here.encoder}",
        alt="top-1 and mean Q-Score of each class",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "top-1": st.column_config.ProgressColumn(format="%.1f %%", min_value=0, max_value=100),
            "mean Q-Score": st.column_config.NumberColumn(format="%.4f"),
        },
    )
    picked = [row for row in event.selection.rows if row < len(rows)]  # a choice outlives the table it was made in
    if not picked:
        st.caption("Choose a row to see the images of that class which the probe gets wrong.")
        return
    name = rows["class"][picked[0]]
    wrong = judged[(judged["title"] == name) & ~judged["correct"].astype(bool)]
    if wrong.empty:
        st.success(f"The probe gets every image of {plain(name)} right.")
        return
    st.markdown(f"**{plain(name)}: {len(wrong):,} misclassified**, lowest Q-Scores first")
    widgets.paged_gallery(here.dataset, wrong, "q", key="classes", what="images")


def _probe_words(said: dict[str, Any]) -> str:
    knn = "" if said["knn_top1"] is None else f" · {percent(said['knn_top1'])} by a vote of nearest train images (kNN)"
    l2 = f"L2 {said['l2']:g}" if said["protocol"] == "lbfgs" else "100 epochs of SGD"
    return (
        f"Linear probe: **{percent(said['top1'])}** of {said['n_judged']:,} {said['judged_on']} images in {said['n_classes']:,} "
        f"classes ({l2}){knn} · its confidence is off by {percent(said['ece'])} on average (expected calibration error)."
    )
