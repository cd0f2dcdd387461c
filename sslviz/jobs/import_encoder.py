"""Encoders come in: from a checkpoint file, from the demo, from the published ones, from timm and Hugging Face."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sslviz.errors import SslvizError
from sslviz.jobs import Settings, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace, name_from_path


class ImportEncoderSettings(Settings):
    name: str = Field(description="name in the workspace")
    source: str = Field(description="checkpoint file, name of a demo or published encoder, timm:NAME or hf:OWNER/REPO(/FILE)")
    network: str | None = Field(None, description='which network of the file, e.g. "student"')
    mean: str | None = Field(None, description='input normalisation: means of red, green, blue in 0..1, e.g. "0.485,0.456,0.406"')
    std: str | None = Field(None, description='input normalisation: their standard deviations, e.g. "0.229,0.224,0.225"')
    size: int | None = Field(None, description="input size (side of the centre crop, in pixels)")
    resize: int | None = Field(None, description="shorter side after resizing, before the centre crop")
    stem_padding: int | None = Field(None, ge=0, le=3, description="padding of a 3x3 stem (shapes cannot tell)")


@dataclass(frozen=True)
class Entry:
    """An encoder that can be had by name."""

    name: str
    kind: Literal["demo", "control", "published"]
    method: str
    features: int
    recipe: str
    top1: float | None
    """Percent: of the demo's test images, or the published linear probe on ImageNet-1K."""
    size_mb: float | None
    """None until somebody has downloaded it here."""
    licence: str
    normalisation: str
    source: str
    digest: str
    """SHA-256 of the file; "" until the first download."""


@job("import_encoder", ImportEncoderSettings, example="sslviz encoders add swav swav-2x224")
def import_encoder(settings: ImportEncoderSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Take an encoder into the workspace: from a file, or by the name of a demo, published, timm or Hugging Face encoder."""
    from sslviz.data.demo import files
    from sslviz.encoders.add import add_encoder
    from sslviz.encoders.download import download, forget

    source, origin, fetched = settings.source, dict[str, Any](), None
    given = settings.model_dump(exclude={"name", "source"})
    shipped = {path.parent.name: path for path in files.encoder_files()}
    a_file = Path(source).suffix or Path(source).name != source  # then lightly is not imported to look for its name
    offered = {} if a_file else {checkpoint.name: (method, checkpoint) for method, checkpoint in published()}
    if source in shipped:
        source = str(shipped[source])
    elif source in offered:
        method, checkpoint = offered[source]
        file = _file(workspace, checkpoint.name, checkpoint.url)
        fetched = None if file.exists() else file
        source = str(download(checkpoint.url, file, progress))
        origin = {"origin": checkpoint.url, "licence": checkpoint.licence, "method": method}
        given["std"] = given["std"] or " ".join(map(str, checkpoint.std))
    try:
        spec, notes = add_encoder(workspace, source, settings.name, **origin, **given)
    except SslvizError:
        if fetched is not None and not _is_checkpoint(fetched):
            forget(fetched)  # a login page, or a body cut where nobody could tell: the next try asks for it again
        raise
    return {"encoder": spec.name, "features": spec.feature_dim, "notes": notes, "file": source}


def _is_checkpoint(path: Path) -> bool:
    from sslviz.encoders.files import read_file

    try:
        read_file(path)
    except SslvizError:
        return False
    return True


def name_of(source: str) -> str:
    """The name that a source is registered under where none is given."""
    return name_from_path(Path(source.removeprefix("timm:").removeprefix("hf:")))


def published() -> list[tuple[str, Any]]:
    """(method, its `Checkpoint`) of every published encoder."""
    from sslviz.methods import METHODS

    return [(method, checkpoint) for method in METHODS for checkpoint in METHODS[method].checkpoints]


def catalogue(workspace: Workspace) -> list[Entry]:
    """All encoders that can be had by name: the demo's, then the published ones."""
    import json

    from safetensors import safe_open

    from sslviz.data.demo import files
    from sslviz.encoders.spec import IMAGENET_MEAN
    from sslviz.methods import METHODS
    from sslviz.store.files import read_json

    entries = []
    for path in files.encoder_files():
        with safe_open(path, "pt") as handle:
            spec = json.loads(handle.metadata()["sslviz"])
        card = path.with_name("card.json")
        facts = read_json(card) if card.exists() else {}
        entries.append(
            Entry(
                name=path.parent.name,
                kind="demo" if spec["method"] in METHODS else "control",
                method=spec["method"],
                features=spec["feature_dim"],
                recipe=spec["source"],
                top1=facts.get("top1"),
                size_mb=round(sum(f.stat().st_size for f in path.parent.glob("*.safetensors")) / 1e6, 1),
                licence="as sslviz",
                normalisation=_normalisation(spec["input"]["mean"], spec["input"]["std"]),
                source="shipped",
                digest=facts.get("sha256", ""),
            )
        )
    for method, checkpoint in published():
        record = _file(workspace, checkpoint.name, checkpoint.url)
        record = record.with_name(record.name + ".json")
        facts = read_json(record) if record.exists() else {}
        entries.append(
            Entry(
                name=checkpoint.name,
                kind="published",
                method=method,
                features=2048,
                recipe=checkpoint.recipe,
                top1=checkpoint.top1,
                size_mb=round(facts["size"] / 1e6, 1) if facts else None,
                licence=checkpoint.licence,
                normalisation=_normalisation(IMAGENET_MEAN, checkpoint.std),
                source=checkpoint.url,
                digest=facts.get("sha256", ""),
            )
        )
    return entries


def _file(workspace: Workspace, name: str, url: str) -> Path:
    suffix = "".join(Path(url).suffixes[-2:]) if url.endswith(".tar") else Path(url).suffix
    return workspace.root / "downloads" / f"{name}{suffix}"


def _normalisation(mean: Any, std: Any) -> str:
    return f"{' '.join(map(str, mean))} / {' '.join(map(str, std))}"
