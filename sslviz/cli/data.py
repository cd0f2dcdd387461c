"""sslviz data …"""

import json
from pathlib import Path
from typing import Annotated

import typer

from sslviz.cli.adding import add_dataset
from sslviz.cli.options import ClassesOption, JsonOption, WorkspaceOption
from sslviz.cli.terminal import err, out
from sslviz.store.workspace import Workspace

data_app = typer.Typer(help="Data sets in the workspace.", no_args_is_help=True)


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="name in the workspace")],
    source: Annotated[str, typer.Argument(help="folder of images, torchvision:NAME or hf:OWNER/NAME(@CONFIG)")],
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
    add_dataset(source, where, classes, name)
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
    """List the data sets in the workspace."""
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
        out.print("No data set yet. Register one: sslviz data add NAME SOURCE", markup=False)


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
    from sslviz.jobs.runner import remove

    remove(Workspace(workspace), "dataset", name)
    err.print(f"data set {name} is removed, with all results made of it.", markup=False)
