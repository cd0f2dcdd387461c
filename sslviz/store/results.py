"""Results of jobs, and whether they still belong to their inputs.

results/<dataset>/<encoder>/<job>/<settings hash>/result.json and tables; latest.json names the current one. `inputs` in
result.json lists what went in, upstream results included; a result is stale when any of them is another one today.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from sslviz.errors import InputError
from sslviz.store.files import read_json, read_table, whole_file, write_json, write_table
from sslviz.store.fingerprints import fingerprint

State = Literal["fresh", "stale", "missing"]
FORMAT = 2
"""Of result.json and its tables; raised when their content changes its meaning."""


_ONLY_LOOKS = {"damage"}
"""Settings of jobs that change none of their other results; 0 leaves out what they ask for."""


@dataclass(frozen=True)
class Result:
    """A job's result on disk."""

    folder: Path
    content: dict[str, Any]

    @property
    def key(self) -> str:
        """One for all that the result holds."""
        return str(self.content["key"])

    @property
    def basis(self) -> str:
        """What a result downstream lists as its input: the key, as it were without what was only looked at besides."""
        settings = self.content["settings"]
        besides = dict.fromkeys(_ONLY_LOOKS & settings.keys(), 0)
        return fingerprint([{**settings, **besides}, self.inputs])

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
    arrays: dict[str, dict[str, np.ndarray]] | None = None,
) -> Result:
    """Write a result below `folder` (.../<job>) and make it the latest; tables of an earlier one that are not made again go.

    arrays: beside the tables, each NAME.npz.
    """
    place = folder / fingerprint(settings)
    for old in place.glob("*.parquet"):
        if old.stem not in tables:
            old.unlink(missing_ok=True)
    for name, content_of in (arrays or {}).items():
        with whole_file(place / f"{name}.npz") as beside, beside.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **content_of)
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
