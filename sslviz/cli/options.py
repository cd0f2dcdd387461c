"""Options that several commands have."""

from typing import Annotated

import typer

from sslviz.jobs.import_encoder import ImportEncoderSettings

WorkspaceOption = Annotated[
    str | None, typer.Option("--workspace", help="folder of everything sslviz makes; default $SSLVIZ_WORKSPACE, else ./workspace")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
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
