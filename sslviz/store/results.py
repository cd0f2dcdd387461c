"""Results of jobs, and whether they still belong to their inputs.

results/<dataset>/<encoder>/<job>/<settings hash>/result.json and tables; latest.json names the current one. `inputs` in
result.json lists what went in, upstream results included; a result is stale when any of them is another one today.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sslviz.errors import InputError, NotFound
from sslviz.store.files import read_json, read_table, write_json, write_table
from sslviz.store.fingerprints import fingerprint

State = Literal["fresh", "stale", "missing"]
FORMAT = 2
"""Of result.json and its tables; raised when their content changes its meaning."""


@dataclass(frozen=True)
class Result:
    """A job's result on disk."""

    folder: Path
    content: dict[str, Any]

    @property
    def key(self) -> str:
        """What a result downstream lists as its input."""
        return str(self.content["key"])

    @property
    def inputs(self) -> dict[str, str]:
        inputs: dict[str, str] = self.content["inputs"]
        return inputs

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        return read_table(self.folder / f"{name}.parquet", columns)


def save_result(
    folder: Path,
    settings: dict[str, Any],
    inputs: dict[str, str],
    tables: dict[str, pd.DataFrame],
    summary: dict[str, Any],
) -> Result:
    """Write a result below `folder` (.../<job>) and make it the latest."""
    place = folder / fingerprint(settings)
    for name, table in tables.items():
        write_table(place / f"{name}.parquet", table)
    key = fingerprint([settings, inputs])
    content = {"format": FORMAT, "settings": settings, "inputs": inputs, "key": key, "summary": summary}
    write_json(place / "result.json", content)
    write_json(folder / "latest.json", {"current": place.name})
    return Result(place, content)


def latest_result(folder: Path) -> Result | None:
    """The current result below `folder`, or None."""
    pointer = folder / "latest.json"
    if not pointer.exists():
        return None
    name = str(read_json(pointer).get("current", ""))
    place = folder / name
    if not name.isalnum() or not (place / "result.json").exists():
        return None
    content = read_json(place / "result.json")
    if content.get("format") != FORMAT:  # made by another version: to be made again
        return None
    if not {"settings", "inputs", "key", "summary"} <= set(content):
        raise InputError(f"{place / 'result.json'} is damaged. Remove the folder and run the job again.")
    return Result(place, content)


def required_result(folder: Path, what: str, remedy: str) -> Result:
    """The current result, or NotFound with the command that makes it."""
    result = latest_result(folder)
    if result is None:
        raise NotFound(f"no {what} yet. Compute it: {remedy}")
    return result
