"""Data sets come in by name: from torchvision and from the Hugging Face hub."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.errors import InputError, SslvizError
from sslviz.jobs import Settings, job
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace, check_name, name_from_path

if TYPE_CHECKING:
    from sslviz.data.dataset import Dataset


class ImportDataSettings(Settings):
    name: str = Field(description="name in the workspace")
    source: str = Field(description="torchvision:NAME, or hf:OWNER/NAME (hf:OWNER/NAME@CONFIG)")


@job("import_data", ImportDataSettings, example="sslviz data add cifar10 torchvision:CIFAR10")
def import_data(settings: ImportDataSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Download a data set that torchvision or the Hugging Face hub has, and register it, with its masks where it has some."""
    from sslviz.data import dataset as datasets
    from sslviz.data.masks import add_masks
    from sslviz.data.sources import SOURCES, split_source, write_pictures
    from sslviz.store.files import only_writer, read_json, write_json

    name = check_name("data set", settings.name)
    asked = split_source(settings.source)
    if asked is None:
        raise InputError(
            f'"{settings.source}" is no data set\'s name. Write {" or ".join(f"{source}:NAME" for source in SOURCES)}.'
        )
    source, there = asked
    folder, downloads = workspace.create().dataset(name), workspace.root / "downloads"
    with only_writer(downloads / source, f"what comes from {source}"):
        if name in workspace.datasets():
            record = folder / "source.json"
            if not record.exists() or read_json(record)["source"] != settings.source:
                raise InputError(
                    f'data set "{name}" is already there, from elsewhere. Choose another name or remove it: '
                    f"sslviz data remove {name}"
                )
            return _said(datasets.load(workspace, name), [])
        progress.stage(f"getting {there}")
        try:
            found = while_checking(lambda: SOURCES[source](there, downloads), progress)
        except SslvizError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # their words: not found, no network, another digest
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{settings.source} cannot be had ({reason}). Is this machine online, and the name right? Behind a proxy: set "
                f"HTTPS_PROXY. Pictures from elsewhere: sslviz data add {name} FOLDER"
            ) from None
        shutil.rmtree(folder / "images", ignore_errors=True)  # of a run that ended between writing and registering
        write_pictures(found, folder / "images", progress)
    write_json(folder / "source.json", {"source": settings.source})
    dataset, notes = datasets.add_folder(workspace, name, folder / "images")
    notes = [*found.notes, *notes]
    if found.masks is not None:
        notes += add_masks(dataset, found.masks).facts["notes"]
    for note in notes:
        progress.warn(note)
    return _said(dataset, notes)


def name_of(source: str) -> str:
    """The name that a source is registered under where none is given."""
    return name_from_path(Path(source.partition(":")[2].lower().replace("@", "-")))


def _said(dataset: "Dataset", notes: list[str]) -> dict[str, Any]:
    counts = dataset.facts["counts"]
    return {"dataset": dataset.name, "counts": counts, "classes": len(dataset.classes), "notes": notes}
