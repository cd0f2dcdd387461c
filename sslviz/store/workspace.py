"""The workspace: every path and name in one place.

datasets/<name>/             dataset.json, samples.parquet, thumbs
encoders/<name>/             encoder.json, weights.safetensors, head.safetensors
embeddings/<dataset>/<encoder>/
results/<dataset>/<encoder>/<job>/<settings hash>/   and latest.json
runs/<id>/                   config.json, state.json, metrics.parquet, checkpoints, log
"""

import hashlib
import os
import re
from pathlib import Path

from sslviz.errors import InputError, unknown_name
from sslviz.store.files import read_json, write_json

VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def check_name(kind: str, name: str) -> str:
    """A name that is a folder's name and nothing more. Raises InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f'{kind} name "{name}" cannot be used; expected up to 80 letters, digits, "-", "_" or ".", '
            f"starting with a letter or digit."
        )
    return name


def name_from_path(path: Path) -> str:
    """A usable name out of a file's or folder's stem: what `--dataset /some/folder` is registered under."""
    stem = path.name.removesuffix(".tar")
    stem = stem[: stem.rindex(".")] if "." in stem[1:] and path.is_file() else stem
    stem = re.sub(r"\.(pth|pt|ckpt)$", "", stem)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:70]
    if re.search(r"[^A-Za-z0-9._ -]", stem):  # letters were lost: two such names must not become one
        name = f"{name or 'unnamed'}-{hashlib.blake2b(stem.encode(), digest_size=3).hexdigest()}"
    return name or "unnamed"


class Workspace:
    """The folder that holds everything sslviz makes (`SSLVIZ_WORKSPACE`, default ./workspace).

    Raises InputError when the folder was made by a newer version or cannot be used.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root or os.environ.get("SSLVIZ_WORKSPACE") or "workspace").expanduser().absolute()
        marker = self.root / "workspace.json"
        if marker.exists():
            version = read_json(marker).get("version")
            if not isinstance(version, int) or version > VERSION:
                raise InputError(
                    f"workspace {self.root} was made by a newer sslviz (format {version}, this one reads {VERSION}). "
                    f"Update sslviz or choose another with --workspace."
                )

    def create(self) -> "Workspace":
        """Make the folder and its marker where they are missing. Raises InputError where it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not (self.root / "workspace.json").exists():
                write_json(self.root / "workspace.json", {"version": VERSION})
        except OSError as error:
            raise InputError(
                f"workspace {self.root} cannot be written ({error.strerror}). Choose another with --workspace."
            ) from None
        return self

    def dataset(self, name: str) -> Path:
        return self.root / "datasets" / check_name("data set", name)

    def encoder(self, name: str) -> Path:
        return self.root / "encoders" / check_name("encoder", name)

    def embeddings(self, dataset: str, encoder: str) -> Path:
        return self.root / "embeddings" / check_name("data set", dataset) / check_name("encoder", encoder)

    def results(self, dataset: str, encoder: str, job: str) -> Path:
        return self.root / "results" / check_name("data set", dataset) / check_name("encoder", encoder) / job

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / check_name("run", run_id)

    def datasets(self) -> list[str]:
        return _children(self.root / "datasets", "dataset.json")

    def encoders(self) -> list[str]:
        return _children(self.root / "encoders", "encoder.json")

    def runs(self) -> list[str]:
        return _children(self.root / "runs", "config.json")

    def existing_dataset(self, name: str) -> Path:
        """Folder of a registered data set. Raises NotFound with the nearest name."""
        if not _is_child(self.root / "datasets", name, "dataset.json"):
            raise unknown_name("data set", name, self.datasets(), "Register one: sslviz data add NAME SOURCE")
        return self.dataset(name)

    def check_new_encoder(self, name: str) -> None:
        """Raises InputError where an encoder of this name is there already."""
        if name in self.encoders():
            raise InputError(
                f'encoder "{name}" is already there. Choose another --name or remove it: sslviz encoders remove {name}'
            )

    def existing_encoder(self, name: str) -> Path:
        """Folder of a registered encoder. Raises NotFound with the nearest name."""
        if not _is_child(self.root / "encoders", name, "encoder.json"):
            raise unknown_name(
                "encoder",
                name,
                self.encoders(),
                "Add one, from a file or by a name that sslviz encoders lists: sslviz encoders add NAME SOURCE",
            )
        return self.encoder(name)

    def existing_run(self, run_id: str) -> Path:
        """Folder of a run. Raises NotFound with the nearest id."""
        if not _is_child(self.root / "runs", run_id, "config.json"):
            raise unknown_name("run", run_id, self.runs(), "List them: sslviz runs list")
        return self.run(run_id)


def _children(folder: Path, marker: str) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if _is_child(folder, child.name, marker))


def _is_child(folder: Path, name: str, marker: str) -> bool:
    return bool(_NAME.fullmatch(name)) and (folder / name / marker).exists()
