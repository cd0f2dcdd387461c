"""Fine-tuning: the form and its checks, what runs now, and before and after on the very same images."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, get_args

import pandas as pd
import streamlit as st

from sslviz.analysis.mending import FIGURES
from sslviz.encoders.run import pick_device
from sslviz.encoders.spec import load_spec
from sslviz.errors import EXPECTED, SslvizError, in_one_line, of_memory, said, shown
from sslviz.jobs import parse
from sslviz.jobs.finetune import (
    ARMS,
    BASE,
    PRESETS,
    PRESETS_SAID,
    Arm,
    FinetuneSettings,
    check,
    check_trainable,
    estimate,
    from_base,
    of_arm,
)
from sslviz.jobs.runner import ACTIVE, list_runs
from sslviz.jobs.slurm import on_cluster
from sslviz.methods import METHODS
from sslviz.store.files import read_json, read_table
from sslviz.ui import forms, report, selection, widgets
from sslviz.ui.figures import finetune as figures
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import percent, plain

EXPECT = (
    "Measured on the demo's encoders with the small preset: no arm's top-1 is distinguishably higher than its control's "
    "(docs/finetuning.md)."
)
_OWN_WIDGETS = {"dataset", "encoder", "arms", "seeds", "preset", "epochs", "images", "lr"}
_METRICS = ["epoch", "step", "lr", "loss", "ssl_loss", "q_term", "l1_term", "q_share", "l1_share"]
_METRICS += ["ssl_gradient", "q_gradient", "l1_gradient", "mean_q", "empty_share"]
_WATCHED = ["watched_q", "watched_q_correct", "watched_q_wrong", "watched_top1", "moved"]


def newest_run(here: Frame) -> dict[str, Any] | None:
    """The fine-tuning of this encoder on this data set that is going on, one at work before one that waits, else the newest; None
    where there was none."""
    wanted = (here.dataset.name, here.encoder)
    runs = [r for r in list_runs(here.workspace) if r["job"] == "finetune"]
    mine = [r for r in runs if (r["settings"]["dataset"], r["settings"]["encoder"]) == wanted]
    return min(mine, key=lambda r: (r["status"] != "running", r["status"] not in ACTIVE), default=None)


def live(here: Frame, run: dict[str, Any] | None) -> bool:
    """Progress and curves of a run that is going on (then True), or how it ended if not well."""
    if run is None or run["status"] == "done":
        return False
    widgets.run_box(here.workspace, run["id"])
    report.command(here, "finetune", run["settings"])
    running = run["status"] in ACTIVE

    def box() -> None:
        found = _metrics(here, run)
        if not found.empty:
            charts(found, "live")

    widgets.keep_drawing(box, 2.0 if running else None)
    return running


def _metrics(here: Frame, run: dict[str, Any]) -> pd.DataFrame:
    """The curves that a run has written so far."""
    parts = []
    base = here.workspace.run(run["id"]) / BASE
    watched = read_json(base) if base.exists() else {}
    for arm in run["settings"]["arms"]:
        for seed in run["settings"]["seeds"]:
            path = here.workspace.run(run["id"]) / of_arm(arm, seed) / "metrics.parquet"
            if path.exists():
                parts.append(from_base(read_table(path), watched).assign(arm=arm, seed=seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def charts(curves: pd.DataFrame, key: str) -> None:
    """Own loss, the two terms, mean Q of right and wrong images, and a probe's accuracy, epoch by epoch."""
    curves = curves.reindex(columns=list(dict.fromkeys([*curves.columns, *_METRICS, *_WATCHED])))
    by_outcome = curves["watched_q_correct"].notna().any()
    watched = {"watched_q_correct": "right", "watched_q_wrong": "wrong"} if by_outcome else {"watched_q": ""}
    pulls = {f"{term}_pull": curves[f"{term}_gradient"] / curves["ssl_gradient"] for term in ("q", "l1")}
    terms = {"q_term": "Q", "l1_term": "columns"}
    known = curves.assign(**pulls)
    drawn: list[tuple[str, dict[str, str], str, dict[str, Any]]] = [
        ("ssl", {"ssl_loss": ""}, "own self-supervised loss", {}),
        ("q", watched, "mean Q of watched images", {}),
        ("moved", {"moved": ""}, "weights moved, % of their norm", {"factor": 100}),
        ("top1", {"watched_top1": ""}, "top-1 of a probe on a sample, %", {"factor": 100, "least": 2.0}),
    ]
    if (curves[list(terms)].fillna(0) != 0).any(axis=None):  # else only the control is there
        pulled = {"q_pull": "Q", "l1_pull": "columns"}
        drawn[2:2] = [
            ("terms", pulled, "pull of the terms, % of the own loss's", {"factor": 100, "log": True}),
            ("values", terms, "the two terms", {}),
        ]
    drawn = [one for one in drawn if known[list(one[1])].notna().any(axis=None)]
    for k, (name, columns, title, look) in enumerate(drawn):
        if k % 2 == 0:
            row = st.columns(2)
        with row[k % 2]:
            _line(known, columns, title, f"{key}-{name}", **look)
    st.caption(
        "Watched: up to 512 judged images, told apart by whether the base's probe got them right, with D of the base; epoch 0 is "
        "the base. A higher Q alone is no better encoder. The probe here sees a sample only, so its accuracy is not that of the "
        "table. Pull: the norm of a term's gradient with respect to the features, relative to the self-supervised loss's; a "
        "term below a thousandth of a percent of it changes nothing."
    )
    with st.expander("The numbers"):
        st.dataframe(curves.dropna(axis=1, how="all"), hide_index=True, width="stretch", alt="the numbers of the curves")


def _line(curves: pd.DataFrame, columns: dict[str, str], title: str, key: str, **look: Any) -> None:
    st.plotly_chart(figures.curve(curves, columns, title, **look), key=key, alt=f"{title}, by epoch", config=widgets.CHART)


def headline(summary: dict[str, Any]) -> None:
    """The verdict first, then base and arms in a table."""
    if summary["verdict"]:
        st.markdown(f"**{plain(summary['verdict'])}**")
    st.caption(
        f"{summary['n']:,} {summary['judged_on']} images. {plain(summary['method'])}, {summary['epochs']} "
        f"epoch{'s' if summary['epochs'] > 1 else ''} of {summary['images']:,} train images, learning rate "
        f"{summary['lr']:g}; D of the base: {summary['n_discriminative']} features at eps {summary['eps']:g}. Mended and broken: "
        "images that only the arm's probe, or only the base's, gets right."
    )
    st.dataframe(_table(summary["arms"]), hide_index=True, width="stretch", alt="base and arms side by side")
    for note in summary["notes"]:
        st.caption(plain(note))


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    lines = []
    for row in rows:
        line = {"arm": row["arm"], "seed": "" if row["seed"] < 0 else str(row["seed"]), FIGURES["top1"]: percent(row["top1"])}
        line |= {"mended": row.get("mended", ""), "broken": row.get("broken", "")}
        for kind in ("core", "spurious"):
            if row[f"{kind}_correct"] is not None or row[f"{kind}_wrong"] is not None:
                line |= {FIGURES[f"{kind}_{of}"]: _number(row[f"{kind}_{of}"]) for of in ("correct", "wrong")}
        line |= {FIGURES[name]: percent(row[name]) for name in ("auroc", "auprc", "top1_40")}
        means = ("q_correct_fixed", "q_wrong_fixed", "q_correct", "q_wrong")
        line |= {FIGURES[name]: _number(row[name]) for name in means}
        weights = {f"lambda{k}": "" if row["arm"] == "base" else f"{row[f'lambda{k}']:.3g}" for k in (1, 2)}
        line |= {
            **weights,
            "eps": f"{row['eps']:g}",
            "L2": "–" if row.get("l2") is None else f"{row['l2']:g}",
            FIGURES["empty_share"]: percent(row["empty_share"]),
            "RankMe": f"{row['rank_me']:.0f}",
        }
        line |= {"encoder": row["encoder"]}
        lines.append({k: str(v) for k, v in line.items()})
    return pd.DataFrame(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def differences(table: pd.DataFrame) -> None:
    """What each arm gains over the base, or over the control, with intervals."""
    st.subheader("Gained or lost")
    left, right = st.columns(2)
    known = [name for name in FIGURES if table.loc[table["figure"] == name, "mean"].notna().any()]
    figure = left.selectbox("Figure", known, format_func=lambda name: FIGURES[name], key="mend-figure")
    choices = list(dict.fromkeys(table["against"]))
    against = right.segmented_control("Beside", choices, default=choices[-1], key="mend-against") or choices[-1]
    part = table[(table["against"] == against) & (table["figure"] == figure)]
    title = f"{FIGURES[figure]}: each arm less {against}"
    numbers = part.assign(of_seeds=part["of_seeds"].map(lambda seeds: ", ".join(f"{v:+z.4f}" for v in seeds)))
    widgets.chart(figures.differences(part, figure), numbers, key="mend-differences", alt=title)
    st.caption(
        f"{title}, on the same images. Mark: mean over seeds; bars: paired 95 % bootstrap interval over images; crosses: single "
        "seeds. The interval does not cover other seeds. Only what is gained over the control comes from the terms."
    )


def same_images(here: Frame, images: pd.DataFrame, panels: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Base and an arm on the very same images; nothing where right and wrong are not known."""
    if not {"correct", "prediction"} <= set(images):
        return
    st.subheader("Before and after, on the same images")
    arm, seed = _choose_arm(images)
    _images(here, images, summary, arm, seed)
    _panels(panels, summary["titles"], arm, seed)


def _images(here: Frame, table: pd.DataFrame, summary: dict[str, Any], arm: str, seed: int) -> None:
    """The images that an arm mended or broke, with the probe's confidence before and after."""
    (encoder,) = (row["encoder"] for row in summary["arms"] if (row["arm"], row["seed"]) == (arm, seed))
    if encoder in here.workspace.encoders():
        st.page_link(
            "pages/overview.py",
            label=plain(f"Overview of {encoder}"),
            icon=":material/dashboard:",
            query_params={"dataset": here.dataset.name, "encoder": encoder},
        )
    kind = st.segmented_control("Images", ["mended", "broken", "still wrong"], default="mended", key="mend-kind") or "mended"
    found = before_and_after(table, arm, seed)
    cases = {"mended": ~found["before"] & found["after"], "broken": found["before"] & ~found["after"]}
    part = found[cases.get(kind, ~found["before"] & ~found["after"])].sort_values("change", ascending=kind == "broken")
    samples = here.dataset.samples.reset_index(names="row")[["sample_id", "row"]]
    shown = part.reset_index().merge(samples, on="sample_id")
    titles = dict(enumerate(summary["titles"]))
    shown["title"] = shown["label"].map(titles)
    words = f"wrong before and after {arm}" if kind == "still wrong" else f"{kind} by {arm}"
    st.caption(
        f"{len(part):,} of {len(found):,} images: {words}, seed {seed}. Below each: what it shows, then what "
        "the base's probe and the arm's took it for, each with its confidence. A click opens the image."
    )
    if part.empty:
        st.info("There is none.")
        return
    arguments = (here.workspace, here.dataset.name, shown["sample_id"].tolist(), f"{words}, seed {seed}, from {here.encoder}")
    label = f"Select these {len(part):,}"
    st.button(label, on_click=selection.select, args=arguments, icon=":material/check_box:", key="mend-select")
    widgets.paged_gallery(
        here.dataset,
        shown,
        "",
        "mend-images",
        detail=lambda row: " → ".join(
            f"{titles[int(row[f'prediction_{when}'])]} {row[f'confidence_{when}']:.2f}" for when in ("before", "after")
        ),
    )


def before_and_after(table: pd.DataFrame, arm: str, seed: int) -> pd.DataFrame:
    """by sample_id: label; before, after (bool); prediction, confidence _before and _after; change (of Q with D of the base)."""
    base = table[table["arm"] == "base"].set_index("sample_id")
    mended = table[(table["arm"] == arm) & (table["seed"] == seed)].set_index("sample_id").reindex(base.index)
    found = pd.DataFrame(
        {
            "label": base["label"],
            "before": base["correct"],
            "after": mended["correct"],
            "prediction_before": base["prediction"],
            "prediction_after": mended["prediction"],
            "confidence_before": base["confidence"],
            "confidence_after": mended["confidence"],
            "change": mended["q_fixed"] - base["q_fixed"],
        }
    )
    return found.dropna(subset=["before", "after"]).astype({"before": bool, "after": bool})


def _choose_arm(table: pd.DataFrame) -> tuple[str, int]:
    arms = [arm for arm in dict.fromkeys(table["arm"]) if arm != "base"]
    seeds = sorted({int(s) for s in table["seed"]} - {-1})
    left, right = st.columns(2)
    arm = left.selectbox("Arm", arms, index=arms.index("both") if "both" in arms else 0, key="mend-arm")
    seed = right.selectbox("Seed", seeds, key="mend-seed") if len(seeds) > 1 else seeds[0]
    return str(arm), int(seed)


def _panels(table: pd.DataFrame, names: list[str], arm: str, seed: int) -> None:
    """Class-average representations of the base and of an arm."""
    if table.empty:
        return
    st.subheader("Class averages of features in D")
    part = table[(table["arm"] == "base") | ((table["arm"] == arm) & (table["seed"] == seed))]
    most = part.groupby("label")["n"].max().sort_values(ascending=False).index[:20]
    titles = {int(k): names[int(k)] for k in most}
    part = part[part["label"].isin(titles)]
    alt = f"Class averages of features, base and {arm}"
    widgets.chart(figures.panels(part, titles, ("base", arm)), part, key="mend-panels", alt=alt)
    st.caption("At most 40 features of the base's D and the 20 classes with most images. An empty row: no such image.")


def form(here: Frame, running: bool) -> None:
    """Settings, checks, and the button that starts all arms in one run."""
    st.subheader("Fine-tune this encoder")
    if here.dataset.root is None:
        st.info(plain(f"{here.dataset.name} has arrays only; fine-tuning needs its images."))
        return
    try:
        check_trainable(load_spec(here.workspace, here.encoder))
    except SslvizError as error:
        st.info(plain(str(error)))
        return
    st.caption(
        "Training continues with the encoder's own self-supervised loss and head, once for each arm (variant) and seed, from the "
        "same weights and on the same images in the same order. Only what an arm gains over the control is due to its terms. "
        + EXPECT
    )
    skip, method = _OWN_WIDGETS, None
    headless = not (here.workspace.encoder(here.encoder) / "head.safetensors").exists()
    if headless:
        st.info(plain(f"{here.encoder} came without its head: a fresh one is trained first, on the frozen encoder."))
        known = load_spec(here.workspace, here.encoder).method
        methods = METHODS.names()
        first = methods.index(known) if known in methods else None
        method = st.selectbox(
            "Method whose loss it goes on with", methods, index=first, key="tune-method", placeholder="choose one"
        )
        skip = skip | {"method"}
    arms = st.pills(
        "Arms beside the base",
        list(get_args(Arm)),
        selection_mode="multi",
        default=["control", "both"],
        key="tune-arms",
        help="; ".join(f"{k}: {v}" for k, v in ARMS.items()),
    )
    columns = st.columns(5, vertical_alignment="bottom")
    preset = columns[0].selectbox(
        "Preset",
        list(PRESETS),
        index=1,
        key="tune-preset",
        help=PRESETS_SAID,
    )
    seeds = columns[1].number_input(
        "Seeds", 1, 10, 1, key="tune-seeds", help="how many: 3 are the seeds 0, 1 and 2; each arm is trained with each"
    )
    epochs = columns[2].number_input("Epochs", 1, 10_000, PRESETS[preset]["epochs"], key=f"tune-epochs-{preset}")
    images = columns[3].number_input(
        "Images",
        0,
        10_000_000,
        PRESETS[preset]["images"],
        key=f"tune-images-{preset}",
        help="a fixed draw of the train images; 0: all",
    )
    lr = columns[4].number_input("Learning rate", 0.0, 10.0, PRESETS[preset]["lr"], format="%g", key=f"tune-lr-{preset}")
    with st.expander("More settings"):
        values = forms.settings_fields(FinetuneSettings, skip=skip, prefix="tune", columns=3)
        slurm = ""
        if shutil.which("sbatch"):
            slurm = st.text_input("SLURM", key="tune-slurm", placeholder="partition=gpu,gpus=4,time=24:00:00", help="blank: here")
    if values is None:
        return
    values |= {"dataset": here.dataset.name, "encoder": here.encoder, "arms": arms, "seeds": list(range(int(seeds)))}
    own = {"epochs": int(epochs), "lr": float(lr), "images": int(images)}
    values |= {"preset": preset} | {k: v for k, v in own.items() if v != PRESETS[preset][k]}
    values |= {"method": method} if method else {}
    settings = parse(FinetuneSettings, values)
    ready = bool(arms) and (method is not None or not headless)
    with st.container(horizontal=True):
        check = st.button("Check what it needs", icon=":material/checklist:", key="tune-check", disabled=not ready)
        start = st.button(
            "Fine-tune", type="primary", icon=":material/model_training:", key="tune-start", disabled=running or not ready
        )
    if check or start:
        words = _checked(here, settings, slurm.strip())
        if words and start and widgets.start_job(here.workspace, "finetune", settings, slurm.strip()):
            st.rerun()
        elif words and check:
            st.success(plain(words))
    report.command(here, "finetune", settings.model_dump(mode="json"))


def _checked(here: Frame, settings: FinetuneSettings, slurm: str) -> str:
    """What it needs, in words; "" where it cannot be, which is said. Nothing is measured for another machine, and on a GPU
    another process measures: the server must not hold a part of its memory for good."""
    try:
        with st.spinner("Measuring a step"):
            origin, n = check(on_cluster(settings, slurm), here.workspace)
            if there := [name for name in settings.encoder_names() if name in here.workspace.encoders()]:
                st.info(
                    plain(
                        f"Already there: {shown(there)}. Made in the very same way they are taken as they are; a different "
                        "one of that name stops the run: choose another name under More settings."
                    )
                )
            if slurm:
                return f"{n:,} train images; what a step needs is measured where it runs."
            if pick_device(settings.device) == "cpu":
                found = estimate(settings, origin, n)
            else:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    found = pool.submit(estimate, settings, origin, n).result()
            return f"{found.head}; {found.words}."
    except EXPECTED as error:
        st.error(plain(said(error)))
    except (BrokenProcessPool, MemoryError, RuntimeError) as error:
        st.error(plain(f"What a step needs could not be measured: {of_memory(error) or in_one_line(error)}"))
    return ""
