"""Jobs: settings in, a result in the workspace out. Command line, app and runs all go through them."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sslviz.errors import InputError
from sslviz.progress import Progress
from sslviz.registry import Registry
from sslviz.store.workspace import Workspace

AnyDataset = Annotated[
    str, Field(description="data set in the workspace, a folder of images, torchvision:NAME or hf:OWNER/NAME(@CONFIG)")
]
AnyEncoder = Annotated[str, Field(description="encoder in the workspace, a checkpoint file, timm:NAME or hf:OWNER/REPO(/FILE)")]
EmbeddedDataset = Annotated[str, Field(description="data set in the workspace that the encoder has embedded")]
StoredEncoder = Annotated[str, Field(description="encoder in the workspace")]
Eps = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"],
    Field(
        description="a feature fires above mean + eps * std of its image's features; auto: the largest eps at which, on "
        "average, at least 3.7 % of the features fire"
    ),
]

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="auto takes a GPU if there is one")]
BatchSize = Annotated[int, Field(ge=1, le=4096, description="images per forward pass")]
ChunkRows = Annotated[
    int | None,
    Field(ge=1, description="rows per chunk on disk; default a twentieth of all, but at least 256 and at most 16 MB"),
]
Workers = Annotated[
    int | None, Field(ge=1, le=128, description="threads that read and decode images; default as many as cores, 2 to 16")
]
TrainingBatch = Annotated[int, Field(ge=2, le=65_536, description="images per step, over all processes")]
TrainingWorkers = Annotated[
    int | None,
    Field(ge=1, le=128, description="threads, or with files processes, that read images; default as many as cores, 2 to 16"),
]
Processes = Annotated[int, Field(ge=1, le=1024, description="processes that share each batch, one per GPU")]


class Settings(BaseModel):
    """A job's settings: its command line flags, its form in the app, and the config.json of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_S = TypeVar("_S", bound=Settings)
Run = Callable[[Any, Workspace, Progress], dict[str, Any]]
Check = Callable[[Any, Workspace], object]


@dataclass(frozen=True)
class Job:
    """`run(settings, workspace, progress)` does the work and returns what `--json` prints.

    trains: at most one of those runs in a workspace, and a cluster may take it · check: raises InputError for settings that
    cannot work, before a run is made of them.
    """

    name: str
    settings: type[Settings]
    run: Run
    example: str
    summary: str
    trains: bool = False
    check: Check | None = None


_NO_JOBS = frozenset({"runner", "inputs", "damage", "mended", "origin", "arms", "slurm", "training"})
JOBS: Registry[Job] = Registry("job", __name__, beside=_NO_JOBS)


def job(
    name: str, settings: type[Settings], example: str, trains: bool = False, check: Check | None = None
) -> Callable[[Run], Run]:
    """Enter a function as the job `name`; its docstring's first line is the command's help."""

    def enter(run: Run) -> Run:
        summary = (run.__doc__ or "").strip().splitlines()[0]
        JOBS.register(name)(Job(name, settings, run, example, summary, trains, check))
        return run

    return enter


def readers(asked: int | None) -> int:
    """Threads or processes that read images: as many as asked for, else this process's share of the cores, 2 to 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return asked or max(2, min(16, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def command_of(job: str, settings: Settings) -> str:
    """The command line that runs a job with these settings: what is required, and every setting that is not the default."""
    words = ["sslviz", job]
    given = settings.model_dump(exclude_defaults=True)
    for name, info in type(settings).model_fields.items():
        if name in given or info.is_required():
            value, flag = getattr(settings, name), name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [word for one in (value if isinstance(value, list) else [value]) for word in (f"--{flag}", str(one))]
    return shlex.join(words)


def parse(settings: type[_S], values: dict[str, Any]) -> _S:
    """Settings from plain values. Raises InputError naming the first wrong field."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        field = str(found[0]["loc"][0]) if found[0]["loc"] else "settings"
        wants = " or ".join(
            dict.fromkeys(e["msg"].replace("Input should be ", "") for e in found if e["loc"][:1] == found[0]["loc"][:1])
        )
        raise InputError(f"{field.replace('_', '-')}: expected {wants} (got {found[0]['input']!r}).") from None


def remade(settings: type[_S], was: dict[str, Any], **names: str) -> _S:
    """Settings to make a result again as it was made, for these names; the default ones where another version made it."""
    try:
        return parse(settings, {**was, **names})
    except InputError:
        return parse(settings, dict(names))
