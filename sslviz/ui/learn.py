"""A course in steps on the data set and encoder that are chosen: one idea each, to be tried on live numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis import expression
from sslviz.analysis.rivals import score_titles
from sslviz.ui import features, finetune, heat, live, reads, report, sample, widgets
from sslviz.ui.figures import features as figures
from sslviz.ui.figures import scores as score_figures
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import percent, plain

_PICTURES = 6
WORDS = {
    "encoder": "the network that turns a picture into numbers; self-supervised: trained on pictures without labels",
    "representation, h": "the row of numbers of one picture, scaled to length 1",
    "feature": "one place in that row, the same in every picture",
    "mu, sigma": "mean and standard deviation over the features of one picture",
    "eps": "how many sigma above mu a feature must be to fire; auto: the largest at which, on average, at least 3.7 % "
    "of the features do, or 0.25 where there is none",
    "fires": "a feature fires in a picture where its number is above mu + eps·sigma",
    "activation share": "of a feature: the share of the train pictures in which it fires",
    "D, discriminative features": "features whose activation share lies between two percentiles; at P50 to P95, the usual ones, "
    "neither the half that fires least often nor the twentieth that fires most often",
    "Q-Score": "mean height above mu of the discriminative features that fire in a picture; 0 where none does",
    "empty set": "no discriminative feature fires in a picture",
    "linear probe": "the simplest classifier on the frozen features, trained with labels; top-1 is the share it gets right",
    "AUROC": "how often a picture the probe gets right has a higher score than one it gets wrong; 50 % is chance",
    "AUPRC": "mean share of right pictures among those kept, best scores first; a random score reaches the base rate",
    "base rate, lift": "the share of pictures the probe gets right; a score's AUPRC over it",
    "rival": "a baseline score shown next to Q: the length of the row, similarity to train pictures, the probe's confidence",
    "damage check": "does a score fall when pictures are covered, shrunk, blurred? Needs no labels",
    "AURC, AUGRC": "mean error among the pictures kept, as more and more are kept, best scores first; AUGRC counts each error "
    "times the share kept; lower is better",
    "judged pictures": "those of the test split, else of val, else all train pictures, each judged by a probe that was not "
    "trained on it",
    "RankMe": "how many directions the representations use; near 1 the encoder has collapsed",
    "heatmap": "where in a picture its features come from",
    "IoU": "how far a heatmap and a mask cover each other: 0 nowhere, 1 everywhere",
    "core, spurious": "the mask of the object, and of what is not the object, its surroundings",
    "centre blob": "one spot in the middle of every picture: what a heatmap that knows nothing of the picture reaches",
    "base": "the encoder before fine-tuning",
    "arm": "one variant of fine-tuning, from the same start and on the same pictures as the others",
    "control": "the arm without the regulariser: only what another arm gains over it is the regulariser's doing",
    "Q term, column term": "the regulariser's two: one raises Q-Scores below a batch's mean, one weakens features that are "
    "strong throughout a batch",
    "mended, broken": "pictures that only the fine-tuned encoder's probe gets right; that only the base's does",
}


@dataclass(frozen=True)
class Class:
    """What a step works on: stored scores, the picture that was chosen, and what fires in it."""

    here: Frame
    scores: reads.Stage
    probe: reads.Stage
    table: pd.DataFrame
    row: pd.Series
    found: live.Row

    @property
    def summary(self) -> dict[str, Any]:
        return reads.summary(self.scores)


def choose_step() -> int:
    """The step of the URL (?step=NUMBER), with the ways to the others."""
    return _of_address("step", "Step", len(STEPS), 0)


def _of_address(name: str, label: str, n: int, default: int) -> int:
    """One of n, chosen here or by the URL (?name=NUMBER, from 1 on), which always says it: a teacher can hand it on."""
    options, key, seen = [str(k + 1) for k in range(n)], f"learn-{name}", f"_learn-{name}"
    linked = st.query_params.get(name)
    if linked in options and linked != st.session_state.get(seen):
        st.session_state[key] = linked
    elif st.session_state.get(key) not in options:
        st.session_state[key] = options[default]
    wanted = st.session_state[key]
    picked = str(st.segmented_control(label, options, required=True, key=key, persist_state="session") or wanted)
    st.session_state[seen] = picked
    widgets.set_param(name, picked)
    return int(picked) - 1


def choose_picture(table: pd.DataFrame, summary: dict[str, Any], step: int) -> pd.Series:
    """One of six pictures of the judged split, from the lowest to the highest Q-Score; where a step is about none, the last."""
    part = table[table["split"] == summary["judged_on"]]
    part = table if part.empty else part
    places = np.unique(np.linspace(0, len(part) - 1, _PICTURES).round().astype(int))
    last = len(places) - 1
    row: pd.Series = part.iloc[places[_of_address("picture", "Picture", len(places), last) if STEPS[step].picture else last]]
    return row


def show(lesson: Class, step: int) -> None:
    """One step: its idea, the numbers to try it on, and the way on."""
    this = STEPS[step]
    st.subheader(f"{step + 1}. {this.title}")
    this.run(lesson)
    last = len(STEPS) - 1

    def go(to: int) -> None:
        st.session_state["learn-step"] = str(to + 1)

    with st.container(horizontal=True):
        st.button("Back", on_click=go, args=(step - 1,), disabled=step == 0, icon=":material/arrow_back:", key="learn-back")
        label = f"Next: {STEPS[step + 1].title}" if step < last else "That was all"
        st.button(label, on_click=go, args=(step + 1,), disabled=step == last, type="primary", key="learn-next")
    with st.expander("Glossary"):
        table = pd.DataFrame({"word": list(WORDS), "means": list(WORDS.values())})
        st.dataframe(table, hide_index=True, width="stretch", alt="words and what they mean")


def _say(try_it: str, find: str, why: str) -> None:
    """What to do, what it should show here, and why it is done like this."""
    st.markdown(f":material/touch_app: **Try it.** {try_it}")
    st.markdown(f":material/visibility: **You should find.** {find}")
    st.markdown(f":material/lightbulb: **Why.** {why}")


def _beside_picture(lesson: Class, draw: Callable[[], None]) -> None:
    left, right = st.columns([1, 3], gap="large")
    with left:
        sample.show_picture(lesson.here, lesson.row)
    with right:
        draw()


def _bars(lesson: Class, groups: dict[str, tuple[np.ndarray, str]], lines: dict[str, float], alt: str) -> None:
    st.plotly_chart(figures.bars(lesson.found.h, groups, lines), key="learn-bars", alt=alt, config=widgets.CHART)


def _numbers(lesson: Class) -> None:
    h = lesson.found.h
    st.markdown(
        f"**{plain(lesson.here.encoder)}** is an *encoder*: it turns a picture into {len(h):,} numbers, its *representation*. "
        "Each number is a *feature*. A self-supervised encoder was never told what a picture shows: it learnt without labels."
    )
    every = {f"features ({len(h):,})": (np.arange(len(h)), figures.CHOSEN)}
    _beside_picture(lesson, lambda: _bars(lesson, every, {}, "The representation of this picture, one bar a feature"))
    top = np.sort(h.clip(min=0))[::-1][: max(1, len(h) // 10)].sum() / max(float(h.clip(min=0).sum()), 1e-12)
    _say(
        "Choose another picture. Which bars stay, which change?",
        f"A few features stand out: the highest tenth makes up {percent(top, 0)} of the total. In other pictures it is others.",
        "The row is scaled to length 1: what counts is which features stand out in it, not how long the whole row is.",
    )


def _fires(lesson: Class) -> None:
    st.markdown(
        "A feature *fires* in a picture where its number stands out from the picture's others: above mu + eps·sigma, where mu is "
        "their mean and sigma their standard deviation. eps is one number for all pictures."
    )
    used = lesson.summary["eps"]
    eps = st.select_slider(
        "eps", features.GRID, features.on_grid(used), format_func=lambda e: f"{e:g}", key="learn-eps", persist_state="session"
    )
    h = lesson.found.h
    mean, std = (float(moment[0, 0]) for moment in expression.moments(h[None]))
    firing, usual = (np.flatnonzero(expression.firing(h[None], e)[0]) for e in (eps, used))
    rest = np.setdiff1d(np.arange(len(h)), firing)
    groups = {
        f"does not fire ({len(rest):,})": (rest, figures.SILENT),
        f"fires ({len(firing):,})": (firing, figures.CHOSEN),
    }
    lines = {"mu": mean, "mu +<br>eps·sigma": mean + eps * std}
    _beside_picture(lesson, lambda: _bars(lesson, groups, lines, "The features that fire in this picture"))
    _say(
        "Move eps. From which value on does nothing fire? Is it the same in every picture?",
        f"At eps {eps:g}, {len(firing):,} of {len(h):,} features fire here; at {used:g}, which the scores use, {len(usual):,}.",
        "The threshold is set by the picture's own mean and spread, so that a picture whose numbers are all higher gains "
        "nothing by it. The paper takes eps 4; here it is chosen so that a few percent of the features fire, without labels.",
    )


def _discriminative(lesson: Class) -> None:
    st.markdown(
        "Features that fire in nearly every picture, or in almost none, tell pictures apart least. Sorted by the share of the "
        "train pictures in which they fire, a band of them is kept: the *discriminative* features, D."
    )
    assert lesson.scores.result is not None
    summary = lesson.summary
    chosen = features.percentiles("Percentiles between which a feature counts", summary, "learn-band")
    if chosen is None:
        return
    low, high = chosen
    stored = reads.table(lesson.scores.result, "features")
    table, band = features.at(stored, summary, features.on_grid(summary["eps"]), low, high)
    ranked = figures.sorted_shares(table)
    widgets.chart(figures.shares(ranked, band), ranked, "learn-shares", "Activation share of every feature; D is shaded")
    _say(
        "Drag the lower end to 0 and the upper one to 100. What comes in?",
        f"Between P{low:g} and P{high:g} lie {int(table['chosen'].sum()):,} of {len(table):,} features; they fire in "
        f"{band[0]:.1f} to {band[1]:.1f} % of the train pictures.",
        "No label is needed for this. The paper keeps P50 to P95.",
    )


def _score(lesson: Class) -> None:
    found = lesson.found
    st.markdown(
        "The *Q-Score* of a picture: take the discriminative features that fire in it. How far above mu do they lie, on average? "
        "A high score is meant to say that the encoder has found something particular in the picture; step 5 tests it."
    )
    fires = pd.DataFrame({"feature": found.chosen, "its number": found.h[found.chosen]})
    fires["above mu"] = fires["its number"] - found.mean
    below = float((lesson.table.loc[lesson.table["split"] == lesson.row["split"], "q"] < found.q).mean())

    def draw() -> None:
        st.markdown(f"mu is **{found.mean:.4f}**. Of the features in D these fire:")
        numbers = {name: st.column_config.NumberColumn(format="%.4f") for name in ("its number", "above mu")}
        st.dataframe(fires, hide_index=True, width="stretch", height=240, column_config=numbers, alt="features of D that fire")
        st.metric("Q-Score: the mean of the last column", f"{found.q:.4f}")

    _beside_picture(lesson, draw)
    _say(
        "Go from picture 1 to the last one: they are sorted by their score. Does the lowest one look harder?",
        f"{len(found.chosen):,} features of D fire, on average {found.q:.4f} above mu; {percent(below, 0)} of the "
        f"{lesson.row['split']} pictures have a lower score. Where none fires the score is 0: here in "
        f"{percent(lesson.summary['empty_share'].get(lesson.row['split']))} of them.",
        "Kalibhat et al. (AAAI 2024) saw that pictures which are classified wrongly tend to have no feature that stands out.",
    )


def _right_and_wrong(lesson: Class) -> None:
    if not _has_answers(lesson):
        return
    summary, probe = lesson.summary, reads.summary(lesson.probe)
    part = lesson.table[lesson.table["split"] == summary["judged_on"]]
    st.markdown(
        "Does the score know which pictures will be classified wrongly? To find out, labels are needed, once: a *linear probe*, "
        f"the simplest classifier, is trained on the features. It gets **{percent(probe['top1'])}** of the "
        f"{summary['judged_on']} pictures right."
    )
    counts = score_figures.histogram_table(part["q"], part["correct"])
    widgets.chart(score_figures.histogram(counts, "Q-Score"), counts, "learn-histogram", "Q-Scores of right and wrong pictures")
    _say(
        "Compare the two humps. Then choose another encoder in the sidebar, on the demo the one trained with labels.",
        report.verdict(summary),
        "If the score works, wrong pictures pile up on the left. Whether it does differs from encoder to encoder: it has to be "
        "measured each time, and seen beside simpler scores.",
    )


def _worth(lesson: Class) -> None:
    if not _has_answers(lesson):
        return
    summary = lesson.summary
    part = lesson.table[(lesson.table["split"] == summary["judged_on"]) & lesson.table["correct"].notna()]
    right = part["correct"].astype(bool)
    names = score_titles(summary["reports"])
    st.markdown("What is a score worth? Keep the pictures with the best scores and count how many of them are wrong.")
    kept = st.slider("Share of the pictures kept, %", 10, 100, 50, 5, key="learn-kept", persist_state="session")
    n = max(1, round(len(part) * kept / 100))
    rows = []
    for name, title in names.items():
        best = part[name].sort_values(ascending=False, kind="stable").index[:n]
        auroc = summary["reports"][name]["auroc"]
        rows.append(
            {"score": title, "wrong among those kept": 100 * float((~right[best]).mean()), "AUROC": auroc and 100 * auroc}
        )
    rows.append({"score": "drawn at random", "wrong among those kept": 100 * float((~right).mean()), "AUROC": 50.0})
    columns = {name: st.column_config.NumberColumn(format="%.1f %%") for name in ("wrong among those kept", "AUROC")}
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch", column_config=columns, alt="errors among the images kept, by score"
    )
    own = rows[0]
    _say(
        "Keep fewer. With a good score the share of errors falls; with a useless one it stays as high as in a random choice.",
        f"Of the best {kept} % by Q-Score {own['wrong among those kept']:.1f} % are wrong, of pictures drawn at random "
        f"{rows[-1]['wrong among those kept']:.1f} %.",
        "AUROC sums this up: draw a right and a wrong picture; how often has the right one the higher score? 50 % is chance. A "
        "score is of use only where it beats simpler ones, which stand in the same table.",
    )


def _looks(lesson: Class) -> None:
    st.markdown(
        "Where in the picture do these features come from? A *heatmap* shows it. If it lies on the background, the encoder may "
        "be right for the wrong reason."
    )
    heat.show(lesson.here, lesson.found, lesson.row["sample_id"])
    made = reads.stage(lesson.here.workspace, lesson.here.dataset, lesson.here.encoder, "heatmaps", "interpret")
    done = "" if made.result else " (not yet done here)"
    where = f"On the Heatmaps page it is measured over all pictures with masks{done}."
    _say(
        "Step through the features one by one; where masks are known, turn their outlines off and on.",
        "Some features lie on the object, others beside it. " + where,
        "A blob in the middle of every picture covers the object too, since objects usually stand there: only what is beyond "
        "that blob says something about the encoder.",
    )


def _mend(lesson: Class) -> None:
    st.markdown(
        "The paper's idea: if low scores mean bad representations, raise them. (Step 6 said whether they do here.) The encoder's "
        "training continues with its own loss and two more terms: one raises Q-Scores below the batch mean, one penalises "
        "features that are too active in the batch."
    )
    made = reads.stage(lesson.here.workspace, lesson.here.dataset, lesson.here.encoder, "fine-tuning", "finetune")
    found = reads.summary(made).get("verdict") or "No fine-tuning of this encoder here yet; the Fine-tune page has the form."
    _say(
        "Start the small preset on the Fine-tune page with the arms control and both, and three seeds: one cannot tell the terms "
        "from chance in training. Watch the curves.",
        plain(found),
        "The loss raises Q by construction, and any further training changes an encoder. So the question is never whether Q "
        "rose, but whether the probe is right more often than after the same training without the two terms: the *control*. "
        + finetune.EXPECT,
    )
    st.page_link("pages/finetune.py", label="Fine-tune: can this encoder be made better?", icon=":material/model_training:")


def _has_answers(lesson: Class) -> bool:
    if "correct" in lesson.table and lesson.table["correct"].notna().any() and lesson.summary["reports"]:
        return True
    st.info("This step needs labels and a probe. Choose a data set with class folders in the sidebar, the demo for example.")
    return False


class Step(NamedTuple):
    """A step of the course, and whether it is about one picture."""

    title: str
    run: Callable[[Class], None]
    picture: bool = False


STEPS = [
    Step("A picture becomes numbers", _numbers, picture=True),
    Step("When a feature fires", _fires, picture=True),
    Step("Features that tell pictures apart", _discriminative),
    Step("The Q-Score of a picture", _score, picture=True),
    Step("Right and wrong pictures", _right_and_wrong),
    Step("What a score is worth", _worth),
    Step("Where the encoder looks", _looks, picture=True),
    Step("Can it be improved?", _mend),
]
