"""Data sets and encoders that are given by path or by a published name are taken in first."""

import os
from pathlib import Path
from typing import Any

from sslviz.cli.following import run
from sslviz.cli.terminal import err
from sslviz.errors import InputError
from sslviz.jobs import JOBS, parse
from sslviz.store.workspace import Workspace, check_name, name_from_path


def with_registered_paths(values: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    """Register a path given as data set or encoder under its stem first, and say so."""
    values = dict(values)
    for kind, add in (("dataset", add_dataset), ("encoder", add_encoder)):
        given = values.get(kind)
        if given and given not in (workspace.datasets() if kind == "dataset" else workspace.encoders()) and _is_path(given):
            values[kind] = add(given, workspace)
    return values


def _is_path(text: str) -> bool:
    return os.sep in text or text.startswith(("~", ".")) or Path(text).exists() or ":" in text


def add_dataset(given: str, workspace: Workspace, classes: str | None = None, name: str | None = None) -> str:
    from sslviz.data.dataset import add_folder
    from sslviz.data.sources import split_source

    if split_source(given):
        if classes is not None:
            raise InputError("--classes picks among a folder's class folders; a data set downloaded by name is taken whole.")
        from sslviz.jobs.import_data import name_of

        given = _source_here(given)
        job, name = JOBS["import_data"], check_name("data set", name or name_of(given))
        result = run(job, parse(job.settings, {"name": name, "source": given}), workspace)
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


def add_encoder(given: str, workspace: Workspace, name: str | None = None, **changes: Any) -> str:
    """Run the import of a file, or of an encoder that is known by name; says what was taken."""
    from sslviz.jobs.import_encoder import name_of

    values = {"name": check_name("encoder", name or name_of(given)), "source": _place(given), **changes}
    job = JOBS["import_encoder"]
    result = run(job, parse(job.settings, values), workspace)
    err.print(f"encoder {result['encoder']}:", markup=False)
    for note in result["notes"]:
        err.print(f"  {note}", markup=False)
    return str(result["encoder"])


def _place(source: str) -> str:
    """A file's whole path (a run may have another working folder); names stay as they are."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() or (os.sep in source and not source.startswith(("hf:", "timm:"))) else source


def prepare_analyze(values: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    values = dict(values)
    classes = values.pop("classes")
    changes = {k: values.pop(k) for k in ("network", "mean", "std", "size", "resize", "stem_padding")}
    registered = values["dataset"] in workspace.datasets()
    if classes is not None and registered:
        raise InputError(f'data set "{values["dataset"]}" is registered already; --classes is for sslviz data add.')
    if not registered:
        values["dataset"] = add_dataset(values["dataset"], workspace, classes)
    if values["encoder"] not in workspace.encoders():
        values["encoder"] = add_encoder(values["encoder"], workspace, **changes)
    elif given := [k for k, v in changes.items() if v is not None]:
        raise InputError(
            f'encoder "{values["encoder"]}" is stored already; --{given[0].replace("_", "-")} is for sslviz encoders add.'
        )
    return values


def with_whole_paths(values: dict[str, Any], _: Workspace) -> dict[str, Any]:
    """Files by their whole path: a resumed run may be started elsewhere."""
    files = {k: values[k] for k in ("file", "ids", "labels", "splits") if values.get(k)}
    return {**values, **{k: os.path.abspath(os.path.expanduser(v)) for k, v in files.items()}}
