"""Data sets come in by name: from torchvision and from the Hugging Face hub."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.errors import InputError
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
    from sslviz.data.masks import add_masks, mask_facts
    from sslviz.data.sources import SOURCES, link, split_source, write_pictures
    from sslviz.store.files import only_writer, read_json, write_json

    name = check_name("data set", settings.name)
    asked = split_source(settings.source)
    if asked is None:
        ways = " or ".join(f"{source}:{SOURCES[source].form}" for source in SOURCES)
        raise InputError(f'"{settings.source}" is not the name of a data set. Write {ways}.')
    source, there = asked
    folder, downloads = workspace.create().dataset(name), workspace.root / "downloads"
    who = f"run {progress.folder.name}" if progress.folder else ""
    with only_writer(downloads / source, f"what comes from {source}", who), only_writer(folder, f"data set {name}", who):
        record, images, masks = folder / "source.json", folder / "images", folder / "masks"
        if name in workspace.datasets():
            dataset = datasets.load(workspace, name)
            known = read_json(record) if record.exists() else {}
            if dataset.root != images or known.get("source") != settings.source:
                raise InputError(
                    f'data set "{name}" is already there, from elsewhere. Choose another name or remove it: '
                    f"sslviz data remove {name}"
                )
            if masks.is_dir() and mask_facts(dataset) is None:  # the run that brought it ended before its masks were paired
                add_masks(dataset, masks)
            return _said(dataset, known["notes"])
        progress.stage(f"getting {there}")
        found = while_checking(lambda: SOURCES[source].open(there, downloads), progress)
        try:
            for left in (images, masks):  # of a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            write_pictures(found, images, progress)
            if not any(images.iterdir()):
                raise InputError(f"{settings.source}: none of its {found.n:,} rows holds a picture that can be taken.")
            if found.masks is not None:
                shutil.copytree(found.masks, masks / "trimaps", copy_function=lambda a, b: link(Path(a), Path(b)))
            write_json(record, {"source": settings.source, "notes": found.notes})
            dataset, said = datasets.add_folder(workspace, name, images)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if found.masks is not None:
            said += add_masks(dataset, masks).facts["notes"]
        notes = [*found.notes, *said]
        write_json(record, {"source": settings.source, "notes": notes})
    for note in notes:
        progress.warn(note)
    return _said(dataset, notes)


def name_of(source: str) -> str:
    """The name that a source is registered under where none is given."""
    return name_from_path(Path(source.partition(":")[2].lower().replace("@", "-")))


def _said(dataset: "Dataset", notes: list[str]) -> dict[str, Any]:
    counts = dataset.facts["counts"]
    return {"dataset": dataset.name, "counts": counts, "classes": len(dataset.classes), "notes": notes}
