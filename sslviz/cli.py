"""The command line. Every job is a command whose options are its settings; nothing is typed twice."""

import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console

from sslviz.errors import Busy, Cancelled, InputError, SslvizError, said
from sslviz.jobs import JOBS, Job, Settings, parse
from sslviz.jobs.import_encoder import ImportEncoderSettings
from sslviz.store.files import read_json
from sslviz.store.workspace import Workspace, check_name, name_from_path

app = typer.Typer(
    help="Is this self-supervised image encoder any good, where does it fail, and why? To begin: sslviz app --demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets in the workspace.", no_args_is_help=True)
encoders_app = typer.Typer(help="Encoders: list, add, remove, and inspect checkpoint files.")
runs_app = typer.Typer(help="Running and past jobs.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(encoders_app, name="encoders")
app.add_typer(runs_app, name="runs")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

WorkspaceOption = Annotated[
    str | None, typer.Option("--workspace", help="folder of everything sslviz makes; default $SSLVIZ_WORKSPACE, else ./workspace")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


def main() -> None:
    """The one place where our error becomes a line and an exit code."""
    try:
        app(standalone_mode=True)
    except SslvizError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("cancelled.", Cancelled.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(said(error), 2)
    except Exception:
        _fail(f"this is a bug in sslviz. The details are in {_write_bug_report()}", 1)


def _fail(message: str, code: int) -> None:
    err.print(message, style="red" if code != Cancelled.exit_code else "yellow", markup=False)
    sys.exit(code)


def _write_bug_report() -> Path:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="sslviz-bug-", suffix=".log", delete=False) as handle:
        handle.write(" ".join(sys.argv) + "\n\n" + traceback.format_exc())
    return Path(handle.name)


# ---- jobs as commands


def _option(name: str, info: FieldInfo) -> Any:
    """A settings field as a typer option; a union such as float | Literal["auto"] is parsed by pydantic."""
    flag = "--" + name.replace("_", "-")
    kind: Any = info.annotation
    if bool in (kind, *get_args(kind)):
        flag += f"/--no-{flag[2:]}"
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:  # typer refuses; the settings check each
        choices = "|".join(get_args(get_args(kind)[0]))
        return Annotated[list[str], typer.Option(flag, help=info.description, metavar=f"<{choices}>")]
    if get_origin(kind) not in (Union, UnionType) or not any(get_origin(a) is Literal for a in get_args(kind)):
        return Annotated[kind, typer.Option(flag, help=info.description, show_default=info.default is not None)]
    adapter = TypeAdapter(kind)

    def read(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError:
            raise typer.BadParameter(f'"{text}" is neither a number nor "auto"') from None

    return Annotated[Any, typer.Option(flag, help=info.description, parser=read, metavar="FLOAT|auto")]


def _command(
    job: Job, prepare: Callable[[dict[str, Any], Workspace], dict[str, Any]], renamed: dict[str, str]
) -> Callable[..., None]:
    def run(**values: Any) -> None:
        as_json = values.pop("as_json")
        workspace = Workspace(values.pop("workspace"))
        slurm = values.pop("slurm", None) or ""
        values.pop("config")
        settings = parse(job.settings, prepare({renamed.get(k, k): v for k, v in values.items()}, workspace))
        _run_and_print(job, settings, workspace, as_json, slurm)

    parameters: list[inspect.Parameter] = []
    shown = {v: k for k, v in renamed.items()}
    for name, info in job.settings.model_fields.items():
        default = inspect.Parameter.empty if info.is_required() else info.default
        option = _option(shown.get(name, name), info)
        parameters.append(
            inspect.Parameter(shown.get(name, name), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        )
    extra = _EXTRA.get(job.name, [])
    parameters += [*extra]
    parameters += [
        _keyword("config", _config_option(job, shown)),
        inspect.Parameter("workspace", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=WorkspaceOption),
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    ]
    run.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.default is not p.empty))  # type: ignore[attr-defined]
    run.__doc__ = f"{job.summary}\n\nExample: {job.example}"
    return run


def _config_option(job: Job, shown: dict[str, str]) -> Any:
    """--config FILE: its settings take the place of the options' defaults, of required ones too."""

    def take(context: typer.Context, path: Path | None) -> None:
        if path is None:
            return
        if not path.is_file():
            raise InputError(f"no file {path} with settings.")
        content = read_json(path)
        if not isinstance(content, dict) or content.get("job") != job.name or not isinstance(content.get("settings"), dict):
            raise InputError(f'{path}: expected {{"job": "{job.name}", "settings": {{…}}}}, as a run\'s config.json.')
        if unknown := content["settings"].keys() - job.settings.model_fields.keys():
            raise InputError(f"{path}: {sorted(unknown)[0]} is not a setting of {job.name}.")
        context.default_map = {shown.get(name, name): value for name, value in content["settings"].items()}

    words = "settings from a file: a recipe, or a run's config.json; options given beside it win"
    return Annotated[Path | None, typer.Option("--config", help=words, is_eager=True, callback=take)]


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


ClassesOption = Annotated[str | None, typer.Option("--classes", help="file with one class name a line: take only these")]
_INPUT = ImportEncoderSettings.model_fields
NetworkOption = Annotated[str | None, typer.Option("--network", help=_INPUT["network"].description)]
MeanOption = Annotated[str | None, typer.Option("--mean", help=_INPUT["mean"].description)]
StdOption = Annotated[str | None, typer.Option("--std", help=_INPUT["std"].description)]
SizeOption = Annotated[int | None, typer.Option("--size", help=_INPUT["size"].description)]
ResizeOption = Annotated[int | None, typer.Option("--resize", help=_INPUT["resize"].description)]
PaddingOption = Annotated[int | None, typer.Option("--stem-padding", help=_INPUT["stem_padding"].description)]

SlurmOption = Annotated[
    str | None, typer.Option("--slurm", help="submit it to a SLURM cluster, e.g. partition=gpu,nodes=2,gpus=8,time=24:00:00")
]

_EXTRA = {
    "pretrain": [_keyword("slurm", SlurmOption)],
    "finetune": [_keyword("slurm", SlurmOption)],
    "analyze": [
        _keyword("classes", ClassesOption),
        _keyword("network", NetworkOption),
        _keyword("mean", MeanOption),
        _keyword("std", StdOption),
        _keyword("size", SizeOption),
        _keyword("resize", ResizeOption),
        _keyword("stem_padding", PaddingOption),
    ],
}


def _names(values: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    """Register a path given as data set or encoder under its stem first, and say so."""
    values = dict(values)
    for kind, add in (("dataset", _add_dataset), ("encoder", _add_encoder)):
        given = values.get(kind)
        if given and given not in (workspace.datasets() if kind == "dataset" else workspace.encoders()) and _is_path(given):
            values[kind] = add(given, workspace)
    return values


def _is_path(text: str) -> bool:
    return os.sep in text or text.startswith(("~", ".")) or Path(text).exists() or ":" in text


def _add_dataset(given: str, workspace: Workspace, classes: str | None = None, name: str | None = None) -> str:
    from sslviz.data.dataset import add_folder
    from sslviz.data.sources import split_source

    if split_source(given):
        if classes is not None:
            raise InputError("--classes picks among the folders of a folder; a data set that is had by name comes whole.")
        from sslviz.jobs.import_data import name_of

        given = _source_here(given)
        job, name = JOBS["import_data"], check_name("data set", name or name_of(given))
        result = _run(job, parse(job.settings, {"name": name, "source": given}), workspace)
        _say_dataset(name, result["counts"], result["classes"], [])
        return name
    root = Path(given).expanduser().absolute()
    name = check_name("data set", name or name_from_path(root))
    only = None
    if classes is not None:
        if not Path(classes).is_file():
            raise InputError(f"no file {classes} with class names.")
        only = [line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip()]
    dataset, notes = add_folder(workspace, name, root, only)
    _say_dataset(name, dataset.facts["counts"], len(dataset.classes), notes)
    return name


def _source_here(source: str) -> str:
    """A source's name; where it is a folder, by its whole path (a run may have another working folder)."""
    from sslviz.data.sources.hf import place_of

    folder = place_of(source.removeprefix("hf:"))[2] if source.startswith("hf:") else None
    return f"hf:{folder}" if folder else source


def _say_dataset(name: str, counts: dict[str, int], classes: int, notes: list[str]) -> None:
    err.print(
        f"data set {name}: {', '.join(f'{n:,} {split}' for split, n in sorted(counts.items()))}; {classes} classes.", markup=False
    )
    for note in notes:
        err.print(f"  {note}", markup=False)


def _add_encoder(given: str, workspace: Workspace, name: str | None = None, **changes: Any) -> str:
    """Run the import of a file, or of an encoder that is known by name; says what was taken."""
    from sslviz.jobs.import_encoder import name_of

    values = {"name": check_name("encoder", name or name_of(given)), "source": _place(given), **changes}
    job = JOBS["import_encoder"]
    result = _run(job, parse(job.settings, values), workspace)
    err.print(f"encoder {result['encoder']}:", markup=False)
    for note in result["notes"]:
        err.print(f"  {note}", markup=False)
    return str(result["encoder"])


def _place(source: str) -> str:
    """A file's whole path (a run may have another working folder); names stay as they are."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() or (os.sep in source and not source.startswith(("hf:", "timm:"))) else source


def _prepare_analyze(values: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    values = dict(values)
    classes = values.pop("classes")
    changes = {k: values.pop(k) for k in ("network", "mean", "std", "size", "resize", "stem_padding")}
    registered = values["dataset"] in workspace.datasets()
    if classes is not None and registered:
        raise InputError(f'data set "{values["dataset"]}" is registered already; --classes is for sslviz data add.')
    if not registered:
        values["dataset"] = _add_dataset(values["dataset"], workspace, classes)
    if values["encoder"] not in workspace.encoders():
        values["encoder"] = _add_encoder(values["encoder"], workspace, **changes)
    elif given := [k for k, v in changes.items() if v is not None]:
        raise InputError(
            f'encoder "{values["encoder"]}" is stored already; --{given[0].replace("_", "-")} is for sslviz encoders add.'
        )
    return values


def _run_and_print(job: Job, settings: Settings, workspace: Workspace, as_json: bool, slurm: str) -> None:
    for kind in () if job.name in ("import_arrays", "demo") else ("dataset", "encoder"):
        name = getattr(settings, kind, None)
        if name is not None:
            workspace.existing_dataset(name) if kind == "dataset" else workspace.existing_encoder(name)
    if job.name == "finetune":  # what cannot be is said before a run is made of it
        from sslviz.jobs.finetune import FinetuneSettings, check

        check(cast(FinetuneSettings, settings), workspace)
    result = _run(job, settings, workspace, slurm)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        _print_result(job.name, result, workspace)


def _run(job: Job, settings: Settings, workspace: Workspace, slurm: str = "") -> dict[str, Any]:
    from sslviz.jobs.runner import launch

    def start() -> tuple[str, bool]:
        run_id, how = launch(job.name, settings, workspace, slurm=slurm)
        err.print(f"run {run_id} {how}.", style="dim", markup=False)
        return run_id, how != "joined"

    return _follow(start, workspace)


def _follow(start: Callable[[], tuple[str, bool]], workspace: Workspace) -> dict[str, Any]:
    """Start a run and show its progress until it ends; a hung-up terminal leaves it running. start: (run id, whether it is ours:
    then Ctrl-C and SIGTERM cancel it; one that was only joined goes on)."""
    import signal

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from sslviz.jobs.runner import ACTIVE, cancel, in_words, read_run

    heard: list[int] = []

    def stop(number: int, _: object) -> None:
        heard.append(number)  # an exception would be lost where Python happens to be in an import or a finalizer
        if len(heard) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    said: list[str] = []
    cancelled = False
    try:
        run_id, ours = start()
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("starting", total=None, facts="")
            while True:
                if heard and not ours:
                    _fail(
                        f"run {run_id} goes on; it was started elsewhere. Stop it: sslviz runs cancel {run_id}",
                        Cancelled.exit_code,
                    )
                if heard and not cancelled:
                    cancelled = True
                    err.print("stopping; what is finished is kept …", markup=False)
                    cancel(workspace, run_id)
                state = read_run(workspace, run_id)
                facts = ", ".join(f"{k.replace('_', ' ')} {in_words(v)}" for k, v in state["facts"].items())
                bar.update(
                    task,
                    description=state["stage"] or state["status"],
                    completed=state["done"],
                    total=state["total"] or None,
                    facts=facts,
                )
                waiting = [state["stage"]] if state["status"] == "queued" and state["stage"] else []
                for line in [*waiting, *state["warnings"]]:
                    if line not in said:
                        said.append(line)
                        bar.console.print(f"note: {line}", style="yellow", markup=False)
                if state["status"] not in ACTIVE:
                    break
                time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if state["status"] == "done":
        result: dict[str, Any] = state["result"]
        return result
    code = state["exit_code"] or (Cancelled.exit_code if state["status"] == "cancelled" else 1)
    lead = "" if code == 2 else f"run {run_id} {state['status']}: "
    _fail(lead + state["error"], code)
    raise AssertionError


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _print_result(job: str, result: dict[str, Any], workspace: Workspace) -> None:
    from sslviz.jobs.runner import in_words

    if job in ("score", "analyze", "demo"):
        _print_scores(result, workspace)
    elif job == "probe":
        where = " (out of fold)" if result["out_of_fold"] else ""
        ended = f"{'converged' if result['converged'] else 'NOT converged'} in {result['iterations']} iterations"
        if result["converged"] is None:
            ended = f"{result['iterations']} epochs of SGD"
        out.print(
            f"top-1 {_percent(result['top1'])} % on {result['n_judged']:,} {result['judged_on']} images{where}, "
            f"{result['n_classes']} classes; L2 {result['l2']:g}, {ended}."
        )
        knn = "" if result["knn_top1"] is None else f"kNN top-1 {_percent(result['knn_top1'])} %; "
        out.print(f"{knn}expected calibration error {_percent(result['ece'])} %.")
    elif job == "compress":
        _print_curve(result, workspace)
    elif job == "interpret":
        _print_looks(result)
    elif job == "finetune":
        _print_mending(result)
    elif job == "export":
        out.print(f"encoder {result['encoder']}: {result['words']}", markup=False)
        out.print(f"{result['folder']}: encoder.json, weights.safetensors, features.csv", markup=False)
    elif job == "compare":
        _print_comparison(result)
    elif job == "embed":
        out.print(
            f"{result['n']:,} embeddings of {result['features']} features: {result['computed']:,} computed, "
            f"{result['kept']:,} kept, {len(result['bad'])} bad files; "
            f"{result['images_per_second']:g} images/s on {result['device']}."
        )
    else:
        for key, value in result.items():
            out.print(f"{key}: {in_words(value)}", markup=False)


def _print_looks(result: dict[str, Any]) -> None:
    from rich.table import Table

    height, width = result["map_size"]
    out.print(
        f"Mean IoU of heatmaps ({result['method']}, layer {result['layer']}, {height} x {width}) with masks, {result['n']:,} "
        f"{result['judged_on']} images; thresholds {result['threshold']:g} and {result['mask_threshold']:g}"
        f"{'; signed (ours)' if result['signed'] else ''}:"
    )
    table = Table("mask", "images", "heatmaps", "centre blob", "uniform", "another image's", "mask at its size")
    cells = {(g["kind"], g["group"], g["who"]): g for g in result["groups"] if g["metric"] == "iou"}
    for kind, group in dict.fromkeys((kind, group) for kind, group, _ in cells):
        mine = cells[(kind, group, "map")]
        if mine["mean"] is None:
            continue
        span = mine["interval"]
        others = [cells[(kind, group, who)]["mean"] for who in ("blob", "uniform", "shuffled", "ceiling")]
        shown = ["-" if value is None else f"{value:.3f}" for value in others]
        beside = f" ({span[0]:.3f} to {span[1]:.3f})" if span else ""
        table.add_row(kind, f"{group} ({mine['n']:,})", f"{mine['mean']:.3f}{beside}", *shown)
    out.print(table)
    for gap in result["differences"]:
        span = gap["interval"]
        said = f"95 % {span[0]:+.3f} to {span[1]:+.3f}" if span else "too few images for an interval"
        out.print(f"{gap['what']}, {gap['of']}: {gap['mean']:+.3f} ({said})", markup=False)


def _print_mending(result: dict[str, Any]) -> None:
    from rich.table import Table

    if result["verdict"]:
        out.print(result["verdict"], markup=False)
    out.print(
        f"{result['n']:,} {result['judged_on']} images; {result['method']}, {result['epochs']} epochs of "
        f"{result['images']:,} images, learning rate {result['lr']:g}; "
        f"D of the base: {result['n_discriminative']} features at eps {result['eps']:g}."
    )
    table = Table("arm", "seed", "top-1", "40 % less", "AUROC", "Q right", "wrong", "mended", "broken", padding=(0, 0))
    for row in result["arms"]:
        numbers = [_percent(row[k]) for k in ("top1", "top1_40", "auroc")]
        q = ["-" if row[k] is None else f"{row[k]:.4f}" for k in ("q_correct_fixed", "q_wrong_fixed")]
        changed = ["-" if row.get(k) is None else str(row[k]) for k in ("mended", "broken")]
        seed = "-" if row["arm"] == "base" else str(row["seed"])
        table.add_row(row["arm"], seed, *numbers, *q, *changed)
    out.print(table)
    out.print(
        "40 % less: top-1 on 60 % of the features. Q with D and eps of the base. Mended / broken: images that only the arm's / "
        "only the base's probe gets right. All figures and curves: the Fine-tune page; --json."
    )


def _print_comparison(result: dict[str, Any]) -> None:
    from rich.table import Table

    rows = result["rows"]
    out.print(f"Encoders on {result['dataset']}, judged on {rows[0]['judged_on']}; AUROC for the probe being right:")
    table = Table("encoder", "top-1", "eps", "empty", "RankMe", "Q", "best rival", "probe")
    table.columns[0].no_wrap = True
    for row in rows:
        facts = [_percent(row["top1"]), f"{row['eps']:g}", f"{_percent(row['empty_share'])} %", f"{row['rank_me']:.0f}"]
        aurocs = {n: r["auroc"] for n, r in row["reports"].items()}
        best = row["best_rival"]
        shown = f"{best} {_percent(aurocs[best])}" if best else "-"
        table.add_row(row["encoder"], *facts, _percent(aurocs.get("q")), shown, _percent(aurocs.get("msp")))
    out.print(table)
    out.print("Best rival: best label-free score other than Q. Probe: its confidence (uses labels). All, with intervals: --json.")
    first = rows[0]["encoder"]
    against = [p for p in result["pairs"] if p["encoders"][0] == first]
    if not against:
        return
    table = Table(f"beside {first}", f"only {first} right", "only this right", "same errors", "neighbours")
    table.columns[0].no_wrap = True
    for p in against:
        probes = p["probes"] or {"only_first": "-", "only_second": "-", "consistency": None}
        consistency = probes["consistency"]
        near = "-" if p["shared_neighbours"] is None else f"{_percent(p['shared_neighbours'])} %"
        same = "-" if consistency is None else f"{consistency:.2f}"
        table.add_row(p["encoders"][1], str(probes["only_first"]), str(probes["only_second"]), same, near)
    out.print(table)
    out.print(
        "Same errors: error consistency (0: as expected by chance, 1: identical). Neighbours: share of an image's nearest train "
        "images that the two encoders have in common. All pairs: --json."
    )


def _print_curve(result: dict[str, Any], workspace: Workspace) -> None:
    from rich.table import Table

    from sslviz.analysis.compression import by_size
    from sslviz.store.results import latest_result

    found = latest_result(workspace.results(result["dataset"], result["encoder"], "compress"))
    assert found is not None
    top1 = by_size(found.table("curve"))
    kinds = [str(kind) for kind in top1]
    out.print(
        f"top-1 of linear probes on fewer features, {result['n_judged']:,} {result['judged_on']} images; full width "
        f"({result['n_features']}) {_percent(result['top1'])}; eps {result['eps']:g}, L2 {result['l2']:g}:"
    )
    table = Table("less by", "features", *kinds, padding=(0, 0))
    for line in top1.reset_index().to_dict("records"):
        table.add_row(f"{100 * line['reduction']:.0f} %", str(line["n_features"]), *(_percent(line[kind]) for kind in kinds))
    out.print(table)
    for kind, at in result["at_40"].items():
        low, high = at["interval"]
        said = f"{kind}: {_percent(at['drop'])} points lost at 40 % (95 % {_percent(low)} to {_percent(high)})"
        if at["above_random"]:
            more, low, high = at["above_random"]
            said += f", {100 * more:+.1f} beside random ({100 * low:+.1f} to {100 * high:+.1f})"
        first = [f"{points} at {100 * r:.0f} %" for points, r in result["enough"][kind].items() if r is not None]
        out.print(said + (f"; first more than {' and '.join(first)}." if first else "."))


def _print_scores(result: dict[str, Any], workspace: Workspace) -> None:
    from rich.table import Table

    from sslviz.analysis.rivals import score_titles
    from sslviz.data import dataset as datasets

    titles = datasets.load(workspace, result["dataset"]).titles
    rule = "auto" if result["eps_auto"] else "given"
    out.print(
        f"{result['n']:,} images scored at eps {result['eps']:g} ({rule}; mean activation share {result['mean_share']:.1f} %), "
        f"{result['n_discriminative']} of {result['n_features']} features discriminative, "
        f"RankMe {result['rank_me']:.1f}."
    )
    reports = result["reports"]
    if reports:
        q = reports["q"]
        fold = ", out of fold" if result["out_of_fold"] else ""
        out.print(f"Against the linear probe on {result['judged_on']} ({q['n']:,} images{fold}), Q {q['verdict']}:")
        table = Table("score", "AUROC", "95 %", "AUPRC", "base rate", "lift")
        for name, title in score_titles(reports).items():
            r, span = reports[name], reports[name]["intervals"]["auroc"]
            table.add_row(
                title,
                _percent(r["auroc"]),
                "-" if span is None else f"{_percent(span[0])} – {_percent(span[1])}",
                _percent(r["auprc"]),
                _percent(r["base_rate"]),
                "-" if r["lift"] is None else f"{r['lift']:.3f}",
            )
        out.print(table)
        if q["reason"]:
            out.print(q["reason"], markup=False)
        if result["best_rival"]:
            out.print(result["best_rival"]["words"], markup=False)
    out.print(f"The {len(result['worst'])} lowest Q-Scores of {result['judged_on']}:")
    for row in result["worst"]:
        label = titles[row["label"]] if row["label"] >= 0 else "no label"
        said = f", probe says {titles[int(row['prediction'])]}" if row.get("correct") is False else ""
        out.print(f"  {row['q']:.4f}  {row['sample_id']}  ({label}{said})", markup=False)
    out.print(f"Look at them: {_app_url(workspace, result)}", markup=False)


def _app_url(workspace: Workspace, result: dict[str, Any]) -> str:
    from urllib.parse import urlencode

    from sslviz.ui.server import running_url

    query = urlencode({"dataset": result["dataset"], "encoder": result["encoder"]})
    base = running_url(workspace)
    return f"{base}/scores?{query}" if base else f"sslviz app --workspace {workspace.root}, then /scores?{query}"


def _absolute(values: dict[str, Any], _: Workspace) -> dict[str, Any]:
    """Files by their whole path: a resumed run may be started elsewhere."""
    files = {k: values[k] for k in ("file", "ids", "labels", "splits") if values.get(k)}
    return {**values, **{k: os.path.abspath(os.path.expanduser(v)) for k, v in files.items()}}


def _register_jobs() -> None:
    for name in JOBS.names():
        entry = JOBS[name]
        if name == "analyze":
            app.command(name)(_command(entry, _prepare_analyze, {"images": "dataset"}))
        elif name == "import_arrays":
            app.command("import")(_command(entry, _absolute, {}))
        elif name not in ("import_encoder", "import_data"):  # sslviz encoders add, sslviz data add
            app.command(name)(_command(entry, _names, {}))


# ---- data, encoders, runs, app


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="name in the workspace")],
    source: Annotated[str, typer.Argument(help="folder of images, torchvision:NAME or hf:OWNER/NAME")],
    masks: Annotated[
        Path | None,
        typer.Option(help="folder of masks: core/ and spurious/, Salient ImageNet, trimaps/, or a tree like the images'"),
    ] = None,
    classes: ClassesOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a folder of images, and masks of what they show; reads names and sizes only, links are followed.

    By name, torchvision's CIFAR10, CIFAR100, STL10, Imagenette, OxfordIIITPet (with masks) and Flowers102, and image data
    sets of the Hugging Face hub are downloaded.

    Example: sslviz data add photos ~/photos --masks ~/photos/masks
    """
    from sslviz.data.dataset import load
    from sslviz.data.masks import add_masks

    where = Workspace(workspace).create()
    _add_dataset(source, where, classes, name)
    dataset = load(where, name)
    found = None if masks is None else add_masks(dataset, masks)
    if found is not None:
        counts = found.facts["counts"]
        err.print(f"masks ({found.facts['form']}): {counts['core']:,} core, {counts['spurious']:,} spurious.", markup=False)
        for note in found.facts["notes"]:
            err.print(f"  {note}", markup=False)
    if as_json:
        print(json.dumps({**dataset.facts, **({} if found is None else {"masks": found.facts})}, ensure_ascii=False))


@data_app.command("list")
def data_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the data sets."""
    from sslviz.data.dataset import load

    where = Workspace(workspace)
    facts = [load(where, name).facts for name in where.datasets()]
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    for f in facts:
        out.print(
            f"{f['name']}: {sum(f['counts'].values()):,} images, {len(f['classes'])} classes, {f.get('root') or 'arrays'}",
            markup=False,
        )
    if not facts:
        out.print("No data set yet. Register one: sslviz data add NAME FOLDER", markup=False)


@data_app.command("show")
def data_show(name: str, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show a data set's splits, classes and remarks."""
    from sslviz.data.dataset import load
    from sslviz.data.masks import mask_facts

    dataset = load(Workspace(workspace), name)
    facts, masks = dataset.facts, mask_facts(dataset)
    if masks is not None:
        facts = {**facts, "masks": masks, "notes": [*facts["notes"], *masks["notes"]]}
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    if masks is not None:
        counts = masks["counts"]
        out.print(f"masks: {counts['core']:,} core, {counts['spurious']:,} spurious ({masks['form']})", markup=False)
    for key in ("name", "root", "split_rule", "counts", "added"):
        out.print(f"{key}: {facts.get(key)}", markup=False)
    out.print("classes: " + ", ".join(c["title"] for c in facts["classes"]), markup=False)
    for note in facts["notes"]:
        out.print(note, markup=False)


@data_app.command("remove")
def data_remove(name: str, workspace: WorkspaceOption = None) -> None:
    """Take a data set and all results made from it out of the workspace; images elsewhere stay."""
    import shutil

    from sslviz.jobs.runner import check_idle

    where = Workspace(workspace)
    folder = where.existing_dataset(name)
    check_idle(where, "dataset", name)
    shutil.rmtree(folder)
    for kind in ("embeddings", "results"):
        shutil.rmtree(where.root / kind / name, ignore_errors=True)


@encoders_app.callback(invoke_without_command=True)
def encoders_catalogue(context: typer.Context, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the encoders available by name: the demo's and published ones. To add one: sslviz encoders add NAME ENCODER

    Example: sslviz encoders add swav swav-2x224
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from sslviz.jobs.import_encoder import catalogue

    entries = catalogue(Workspace(workspace))
    if as_json:
        print(json.dumps([asdict(e) for e in entries], ensure_ascii=False))
        return
    for e in entries:
        top1 = "" if e.top1 is None else f", top-1 {e.top1:.1f} %"
        size = "" if e.size_mb is None else f", {e.size_mb:g} MB"
        out.print(f"[bold]{e.name}[/]  {e.method}, {e.features:,} features{top1}{size}; {e.recipe}")
        out.print(f"    {e.source}; licence: {e.licence}; mean / std {e.normalisation}", style="dim", markup=False)
    out.print(
        "\ntop-1: linear probe; of the demo's on its test images, of published ones on ImageNet-1K as their source states. "
        "Sizes\nand digests are known after the first download. Take one in: sslviz encoders add NAME ENCODER "
        "(also timm:NAME, hf:REPO)."
    )


@encoders_app.command("add")
def encoders_add(
    name: Annotated[str, typer.Argument(help="name in the workspace")],
    source: Annotated[str, typer.Argument(help="checkpoint file, a name of sslviz encoders, timm:NAME or hf:OWNER/REPO")],
    network: NetworkOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    stem_padding: PaddingOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Add an encoder to the workspace: from a checkpoint file, or by name (downloaded if necessary).

    Example: sslviz encoders add simclr simclr.ckpt
    """
    given = {"network": network, "mean": mean, "std": std, "size": size, "resize": resize, "stem_padding": stem_padding}
    _add_encoder(source, Workspace(workspace).create(), name, **given)


@encoders_app.command("list")
def encoders_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the encoders."""
    from sslviz.store.files import read_json

    where = Workspace(workspace)
    specs = [read_json(where.encoder(name) / "encoder.json") for name in where.encoders()]
    if as_json:
        print(json.dumps(specs, ensure_ascii=False))
        return
    for s in specs:
        out.print(f"{s['name']}: {s['method']}, {s['feature_dim']} features, {s['source']}", markup=False)
    if not specs:
        out.print("No encoder yet. Add one: sslviz encoders add NAME FILE")


@encoders_app.command("inspect")
def encoders_inspect(
    file: Annotated[Path, typer.Argument(help="checkpoint file")], network: NetworkOption = None, as_json: JsonOption = False
) -> None:
    """Say what is inside a checkpoint, which network would be taken and why; exit 2 when none can be.

    Example: sslviz encoders inspect moco_v2_800ep_pretrain.pth.tar
    """
    from sslviz.encoders.doctor import inspect_file, report

    found = inspect_file(file, network)
    if as_json:
        print(json.dumps(report(found), ensure_ascii=False))
    else:
        for key, value in report(found).items():
            if key != "refusal" and value not in (None, "", [], {}):
                out.print(f"{key.replace('_', ' ')}: {_words(value)}", markup=False)
    if found.refusal:
        raise InputError(found.refusal)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "; ".join(_words(v) for v in value)
    return str(value)


@encoders_app.command("remove")
def encoders_remove(name: str, workspace: WorkspaceOption = None) -> None:
    """Take an encoder and all results made with it out of the workspace."""
    import shutil

    from sslviz.jobs.runner import check_idle

    where = Workspace(workspace)
    folder = where.existing_encoder(name)
    check_idle(where, "encoder", name)
    shutil.rmtree(folder)
    for kind in ("embeddings", "results"):
        for folder in (where.root / kind).glob(f"*/{name}"):
            shutil.rmtree(folder)


@runs_app.command("list")
def runs_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List all runs, newest first."""
    from sslviz.jobs.runner import list_runs, works_on

    states = list_runs(Workspace(workspace))
    if as_json:
        print(json.dumps(states, ensure_ascii=False))
        return
    for s in states:
        share = f" {100 * s['done'] // s['total']} % of {s['stage']}" if s["status"] == "running" and s["total"] else ""
        out.print(f"{s['id']}  {works_on(s)}  {s['status']}{share}  {s['seconds']:.0f} s  {s['error']}".rstrip(), markup=False)
    if not states:
        out.print("No run yet.")


@runs_app.command("show")
def runs_show(run: str, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show a run's settings, state and the end of its log."""
    from sslviz.jobs.runner import log_tail, read_run

    where = Workspace(workspace)
    state = read_run(where, run)
    if as_json:
        print(json.dumps(state, ensure_ascii=False))
        return
    for key in ("id", "job", "status", "stage", "done", "total", "facts", "settings", "warnings", "error"):
        if state[key] not in ("", [], {}, None):
            out.print(f"{key}: {_words(state[key])}", markup=False)
    out.print(log_tail(where, run), markup=False)


@runs_app.command("cancel")
def runs_cancel(
    run: str,
    workspace: WorkspaceOption = None,
    force: Annotated[bool, typer.Option(help="end it at once, without saving")] = False,
) -> None:
    """Stop a run; it saves what it has."""
    from sslviz.jobs.runner import cancel, kill

    (kill if force else cancel)(Workspace(workspace), run)


@runs_app.command("resume")
def runs_resume(run: str, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Go on with a run that was cancelled, killed or failed."""
    from sslviz.jobs.runner import read_run, resume

    where = Workspace(workspace)

    def start() -> tuple[str, bool]:
        resume(where, run)
        return run, True

    result = _follow(start, where)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        _print_result(read_run(where, run)["job"], result, where)


@runs_app.command("delete")
def runs_delete(run: str, workspace: WorkspaceOption = None) -> None:
    """Remove an ended run and its files."""
    from sslviz.jobs.runner import delete

    delete(Workspace(workspace), run)


@app.command("app")
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="port; default the first free one from 8501")] = None,
    address: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    root: Annotated[
        list[Path] | None, typer.Option(help="folder the app may read files from; default home and the current folder")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="prepare the demo in the background first, where it is not there yet")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Start the app and print its URL; Ctrl-C stops the app, running jobs continue.

    Example: sslviz app --workspace workspace
    """
    from sslviz.jobs.demo import start_demo
    from sslviz.ui.server import serve_app

    if root:
        os.environ["SSLVIZ_ROOTS"] = os.pathsep.join(str(p.expanduser().absolute()) for p in root)
    where = Workspace(workspace).create()
    if demo:
        try:
            if run_id := start_demo(where):
                err.print(f"run {run_id} prepares the demo; the page shows its progress.", style="dim", markup=False)
        except Busy as error:  # somebody renders it
            err.print(str(error), style="dim", markup=False)
    serve_app(where, port, address)


_register_jobs()
