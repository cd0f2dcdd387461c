"""Jobs: settings in, a result in the workspace out. Command line, app and runs all go through them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from sslviz.errors import InputError
from sslviz.progress import Progress
from sslviz.registry import Registry
from sslviz.store.workspace import Workspace


class Settings(BaseModel):
    """A job's settings: its command line flags, its form in the app, and the config.json of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Run = Callable[[Any, Workspace, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """`run(settings, workspace, progress)` does the work and returns what `--json` prints."""

    name: str
    settings: type[Settings]
    run: Run
    example: str
    summary: str


_NO_JOBS = frozenset({"runner", "inputs"})
JOBS: Registry[Job] = Registry("job", __name__, beside=_NO_JOBS)


def job(name: str, settings: type[Settings], example: str) -> Callable[[Run], Run]:
    """Enter a function as the job `name`; its docstring's first line is the command's help."""

    def enter(run: Run) -> Run:
        JOBS.register(name)(Job(name, settings, run, example, (run.__doc__ or "").strip().splitlines()[0]))
        return run

    return enter


def parse(settings: type[Settings], values: dict[str, Any]) -> Settings:
    """Settings from plain values. Raises InputError naming the first wrong field."""
    from pydantic import ValidationError

    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "settings"
        raise InputError(f"{field.replace('_', '-')}: {first['msg']} (got {first['input']!r}).") from None
