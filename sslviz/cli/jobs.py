"""Every job is a command whose options are its settings; nothing is typed twice."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from sslviz.cli import adding
from sslviz.cli.following import run
from sslviz.cli.options import (
    ClassesOption,
    JsonOption,
    MeanOption,
    NetworkOption,
    PaddingOption,
    ResizeOption,
    SizeOption,
    SlurmOption,
    StdOption,
    WorkspaceOption,
)
from sslviz.cli.results import print_result
from sslviz.errors import InputError
from sslviz.jobs import JOBS, Job, Settings, parse
from sslviz.store.files import read_json
from sslviz.store.workspace import Workspace


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
    def called(**values: Any) -> None:
        as_json = values.pop("as_json")
        workspace = Workspace(values.pop("workspace"))
        slurm = values.pop("slurm", None) or ""
        values.pop("config")
        settings = parse(job.settings, prepare({renamed.get(k, k): v for k, v in values.items()}, workspace))
        run_and_print(job, settings, workspace, as_json, slurm)

    parameters: list[inspect.Parameter] = []
    shown = {v: k for k, v in renamed.items()}
    for name, info in job.settings.model_fields.items():
        default = inspect.Parameter.empty if info.is_required() else info.default
        option = _option(shown.get(name, name), info)
        parameters.append(
            inspect.Parameter(shown.get(name, name), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        )
    parameters += _OF_ANALYZE if job.name == "analyze" else []
    parameters += [_keyword("slurm", SlurmOption)] if job.trains else []
    parameters += [
        _keyword("config", _config_option(job, shown)),
        inspect.Parameter("workspace", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=WorkspaceOption),
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    ]
    called.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.default is not p.empty))  # type: ignore[attr-defined]
    called.__doc__ = f"{job.summary}\n\nExample: {job.example}"
    return called


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


_OF_ANALYZE = [
    _keyword("classes", ClassesOption),
    _keyword("network", NetworkOption),
    _keyword("mean", MeanOption),
    _keyword("std", StdOption),
    _keyword("size", SizeOption),
    _keyword("resize", ResizeOption),
    _keyword("stem_padding", PaddingOption),
]


def run_and_print(job: Job, settings: Settings, workspace: Workspace, as_json: bool, slurm: str) -> None:
    for kind in () if job.name in ("import_arrays", "demo") else ("dataset", "encoder"):
        name = getattr(settings, kind, None)
        if name is not None:
            workspace.existing_dataset(name) if kind == "dataset" else workspace.existing_encoder(name)
    if job.check:
        from sslviz.jobs.slurm import on_cluster

        job.check(on_cluster(settings, slurm), workspace)
    result = run(job, settings, workspace, slurm)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_result(job.name, result, workspace)


def register_jobs(app: typer.Typer) -> None:
    """Give every job that has a command of its own one."""
    for name in JOBS.names():
        entry = JOBS[name]
        if name == "analyze":
            app.command(name)(_command(entry, adding.prepare_analyze, {"images": "dataset"}))
        elif name == "import_arrays":
            app.command("import")(_command(entry, adding.with_whole_paths, {}))
        elif name not in ("import_encoder", "import_data"):  # sslviz encoders add, sslviz data add
            app.command(name)(_command(entry, adding.with_registered_paths, {}))
