"""sslviz encoders …"""

import json
from typing import Annotated, Any

import typer

from sslviz.cli.adding import add_encoder
from sslviz.cli.options import (
    JsonOption,
    MeanOption,
    NetworkOption,
    PaddingOption,
    ResizeOption,
    SizeOption,
    StdOption,
    WorkspaceOption,
)
from sslviz.cli.terminal import err, in_line, out
from sslviz.errors import InputError
from sslviz.store.files import read_json
from sslviz.store.workspace import Workspace

encoders_app = typer.Typer(help="Encoders: list, add, remove, and inspect checkpoint files.")


@encoders_app.callback(invoke_without_command=True)
def encoders_catalogue(context: typer.Context, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the encoders available by name: the demo's and published ones. To add one: sslviz encoders add NAME SOURCE

    Example: sslviz encoders add swav swav-2x224
    """
    if context.invoked_subcommand is not None:
        if workspace is not None or as_json:
            raise InputError(f"options follow the command: sslviz encoders {context.invoked_subcommand} --workspace … --json")
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
        digest = f"; sha256 {e.digest[:12]}…" if e.digest else ""
        out.print(f"    {e.source}; licence: {e.licence}; mean / std {e.normalisation}{digest}", style="dim", markup=False)
    out.print(
        "\ntop-1: linear probe; of the demo's on its test images, of published ones on ImageNet-1K as their source states. "
        "Sizes\nand digests are known after the first download. Add one: sslviz encoders add NAME SOURCE (also "
        "timm:NAME, hf:OWNER/REPO(/FILE))."
    )


@encoders_app.command("add")
def encoders_add(
    name: Annotated[str, typer.Argument(help="name in the workspace")],
    source: Annotated[str, typer.Argument(help="checkpoint file, a name of sslviz encoders, timm:NAME or hf:OWNER/REPO(/FILE)")],
    network: NetworkOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    stem_padding: PaddingOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an encoder to the workspace: from a checkpoint file, or by name (downloaded if necessary).

    Example: sslviz encoders add simclr simclr.ckpt
    """
    given = {"network": network, "mean": mean, "std": std, "size": size, "resize": resize, "stem_padding": stem_padding}
    where = Workspace(workspace).create()
    added = add_encoder(source, where, name, **given)
    if as_json:
        print(json.dumps(read_json(where.encoder(added) / "encoder.json"), ensure_ascii=False))


@encoders_app.command("list")
def encoders_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the encoders in the workspace."""
    where = Workspace(workspace)
    specs = [read_json(where.encoder(name) / "encoder.json") for name in where.encoders()]
    if as_json:
        print(json.dumps(specs, ensure_ascii=False))
        return
    for s in specs:
        out.print(f"{s['name']}: {s['method']}, {s['feature_dim']} features, {s['source']}", markup=False)
    if not specs:
        out.print("No encoder yet. Add one: sslviz encoders add NAME SOURCE")


@encoders_app.command("inspect")
def encoders_inspect(
    file: Annotated[str, typer.Argument(help="checkpoint file, timm:NAME or hf:OWNER/REPO(/FILE)")],
    network: NetworkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is inside a checkpoint, which network would be taken and why; exit 2 when none can be.

    Example: sslviz encoders inspect moco_v2_800ep_pretrain.pth.tar
    """
    from sslviz.encoders.add import inspect_source

    found = inspect_source(file, network)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        lists = {"networks": map(_network, found.pop("networks", [])), "notes": found.pop("notes")}
        for key, value in found.items():
            if key != "refusal" and value not in (None, "", [], {}):
                out.print(f"{key.replace('_', ' ')}: {in_line(value)}", markup=False)
        for key, lines in lists.items():
            for line in lines:
                out.print(f"{key.removesuffix('s')}: {line}", markup=False)
    if found["refusal"]:
        raise InputError(found["refusal"])


def _network(facts: dict[str, Any]) -> str:
    unlike = [f"{facts[key]} {key.replace('_', ' ')}" for key in ("missing", "wrong_shape") if facts[key]]
    tensors = ", ".join([f"{facts['matched']} tensors match", *unlike])
    head = f"; head {', '.join(facts['head'])}" if facts["head"] else ""
    return f"{facts['path']}: {facts['role']}, {facts['architecture']}; {tensors}{head}"


@encoders_app.command("remove")
def encoders_remove(name: str, workspace: WorkspaceOption = None) -> None:
    """Take an encoder and all results made with it out of the workspace."""
    from sslviz.jobs.runner import remove

    remove(Workspace(workspace), "encoder", name)
    err.print(f"encoder {name} is removed, with all results made with it.", markup=False)
