"""Masks of a data set: what belongs to the object (core) and what does not (spurious), from the forms people store them in.

datasets/<name>/masks.parquet, a row a mask: sample_id, kind ("core", "spurious"), feature (what it shows, "" for the whole
object), path (below masks.json's root) or content (file bytes). Several of one kind on one picture count by their maximum.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image

from sslviz.data.dataset import Dataset
from sslviz.data.folder import walk_pictures
from sslviz.data.images import FORMATS
from sslviz.errors import InputError, NotFound, shown
from sslviz.store.files import only_writer, read_json, read_table, write_json, write_table

Kind = Literal["core", "spurious"]
KINDS: tuple[Kind, ...] = ("core", "spurious")
SALIENT = (224, 256)
"""Salient ImageNet's masks are of the centre crop of this size after this resize (Singla & Feizi, ICLR 2022)."""
_MEANS: dict[str, Literal["trimap", "soft"]] = {"trimaps": "trimap", "Salient ImageNet": "soft"}
_COLUMNS = ["sample_id", "kind", "feature", "path", "content"]
_LABELS_UP_TO = 4096
"""Of 16 bits: a grey so dark would mark nothing."""


@dataclass(frozen=True)
class Masks:
    """The masks of a data set.

    facts: root, form, of ("picture" or "centre crop"), rest (whether what is not core counts as spurious), counts, notes,
    fingerprint · words: of Salient ImageNet, feature -> the workers' reasons.
    """

    facts: dict[str, Any]
    table: pd.DataFrame
    words: dict[str, list[str]]

    @property
    def fingerprint(self) -> str:
        return str(self.facts["fingerprint"])

    def samples(self) -> list[str]:
        """Ids with a core mask, sorted."""
        found: list[str] = sorted(self.table.loc[self.table["kind"] == "core", "sample_id"].unique())
        return found

    def read(self, sample_id: str, picture: tuple[int, int], resize: int, size: int) -> dict[str, np.ndarray]:
        """kind -> uint8[size, size] of one sample in the geometry an encoder sees. picture: its width and height.

        Raises InputError naming a mask that cannot be read or has another aspect than its picture.
        """
        found: dict[str, np.ndarray] = {}
        for line in self.entries(sample_id):
            mask = self._in_frame(line, picture, resize, size)
            kind = str(line["kind"])
            found[kind] = np.maximum(found[kind], mask) if kind in found else mask
        if self.facts["rest"] and "core" in found:
            found["spurious"] = 255 - found["core"]
        return found

    def features(self, sample_id: str, picture: tuple[int, int], resize: int, size: int) -> dict[str, np.ndarray]:
        """feature -> its core mask uint8[size, size]: the parts that workers have named."""
        lines = [line for line in self.entries(sample_id) if line["kind"] == "core" and line["feature"]]
        return {str(line["feature"]): self._in_frame(line, picture, resize, size) for line in lines}

    def entries(self, sample_id: str) -> list[dict[str, Any]]:
        """The rows of one sample."""
        rows: list[Any] = self.table.iloc[self._places.get(sample_id, [])].to_dict("records")
        return rows

    @cached_property
    def _places(self) -> dict[str, np.ndarray]:
        return {str(k): np.asarray(v) for k, v in self.table.groupby("sample_id").indices.items()}

    def _in_frame(self, line: dict[str, Any], picture: tuple[int, int], resize: int, size: int) -> np.ndarray:
        name = line["path"] or f"the {line['kind']} mask of {line['sample_id']}"
        content = line["content"]
        if content is None:
            try:
                content = (Path(self.facts["root"]) / line["path"]).read_bytes()
            except OSError as error:
                raise InputError(f"mask {name} cannot be read ({error.strerror}).") from None
        values = decode_mask(content, name, _MEANS.get(self.facts["form"], "mask"))
        if self.facts["of"] == "picture":
            _check_aspect(name, values, picture)
        return in_frame(values, picture if self.facts["of"] == "picture" else None, resize, size)


def decode_mask(content: bytes, name: str, means: Literal["mask", "trimap", "soft"] = "mask") -> np.ndarray:
    """A mask file as uint8[H, W], 0..255: one value beside 0, or labels (on a black palette of colours, or of 16 bits), become
    255; colours become grey; alpha counts where it varies.

    means: "soft" takes values as they are; "trimap" is Oxford-IIIT Pets': 1 pet, 2 background, 3 border -> 255, 0, 128.
    Raises InputError naming the file.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        values = _levels(image, means, name)
    except InputError:
        raise
    except Exception:  # Pillow's readers of formats raise whatever they meet in a file that is not whole
        raise InputError(f"mask {name} is not a readable image.") from None
    if means == "trimap":
        wrong = sorted(set(np.unique(values).tolist()) - {1, 2, 3})
        if wrong:
            raise InputError(f"mask {name} holds {wrong[0]}; a trimap holds 1 (pet), 2 (background) and 3 (border).")
        meant: np.ndarray = np.array([0, 255, 0, 128], np.uint8)[values]
        return meant
    values = values.astype(np.uint8)
    if means == "mask" and (_has_labels(image) or len(np.unique(values[values > 0])) == 1):
        return np.where(values > 0, 255, 0).astype(np.uint8)
    return values


def _levels(image: Image.Image, means: str, name: str) -> np.ndarray:
    """The values of a mask's picture, 0..255. Raises InputError for numbers of no known scale."""
    if image.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(image.getchannel("A"))
        return alpha if alpha.min() != alpha.max() else np.asarray(image.convert("RGB").convert("L"))
    if image.mode == "F":
        real = np.asarray(image, dtype=np.float64)
        if not np.isfinite(real).all() or real.min() < 0 or real.max() > 255:
            raise InputError(f"mask {name} holds numbers outside 0 to 1 and 0 to 255.")
        return np.rint(real * 255 if real.max() <= 1 else real)
    if image.mode.startswith("I"):
        whole = np.asarray(image, dtype=np.int64)
        if means == "mask" and 255 < whole.max() < _LABELS_UP_TO:
            return np.where(whole > 0, 255, 0)
        return (whole // 257 if whole.max() > 255 else whole).clip(0, 255)
    return np.asarray(image if means == "trimap" and image.mode == "P" else image.convert("L"))


def _has_labels(image: Image.Image) -> bool:
    """Whether its values are the numbers of things: a palette of colours that begins with black."""
    palette = np.reshape(image.getpalette("RGB") or [1, 1, 1], (-1, 3)) if image.mode == "P" else np.ones((1, 3))
    grey = bool((palette == palette[:, :1]).all())
    return not palette[0].any() and not grey


def in_frame(values: np.ndarray, picture: tuple[int, int] | None, resize: int, size: int) -> np.ndarray:
    """A mask uint8[h, w] moved by the very resize and centre crop its picture gets: uint8[size, size].

    picture: width and height; None for a mask of Salient ImageNet's centre crop. At most two values: nearest, else bilinear.
    What lies outside the mask's own frame is 0.
    """
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    if picture is None:
        side = round(resize * SALIENT[0] / SALIENT[1])
        height, width = side, side
    else:
        w, h = picture
        short, long = min(w, h), max(w, h)
        other = int(resize * long / short)
        height, width = (resize, other) if h <= w else (other, resize)
    hard = len(np.unique(values)) <= 2
    how = InterpolationMode.NEAREST_EXACT if hard else InterpolationMode.BILINEAR
    mask = torch.from_numpy(np.ascontiguousarray(values))[None]
    if mask.shape[1:] != (height, width):
        mask = F.resize(mask, [height, width], interpolation=how, antialias=not hard)
    if (height, width) != (size, size):
        mask = F.center_crop(mask, [size, size])
    found: np.ndarray = mask[0].numpy()
    return found


def _check_aspect(name: str, values: np.ndarray, picture: tuple[int, int]) -> None:
    (h, w), (pw, ph) = values.shape, picture
    if abs(w * ph / pw - h) > 1 and abs(h * pw / ph - w) > 1:
        raise InputError(f"mask {name} is {w} x {h}, its picture {pw} x {ph}: another aspect.")


def mask_facts(dataset: Dataset) -> dict[str, Any] | None:
    """What is known of a data set's masks (`Masks.facts`); None where it has none, or had them as another folder."""
    path = dataset.folder / "masks.json"
    facts: dict[str, Any] | None = read_json(path) if path.exists() else None
    if facts is None or facts.get("images_root") not in (_place(dataset), str(dataset.root)):
        return None
    return facts | ({"root": str(dataset.folder / facts["root"])} if facts["root"] else {})


def _place(dataset: Dataset) -> str:
    """Where the pictures are; from the data set's folder on where they lie in it, since it may be moved."""
    root = dataset.root
    return str(root.relative_to(dataset.folder) if root is not None and root.is_relative_to(dataset.folder) else root)


def load_masks(dataset: Dataset) -> Masks | None:
    """The masks of a data set as they were paired; None where it has none."""
    facts = mask_facts(dataset)
    if facts is None:
        return None
    words = dataset.folder / "mask_words.json"
    return Masks(facts, read_table(dataset.folder / "masks.parquet"), read_json(words) if words.exists() else {})


def refresh_masks(dataset: Dataset) -> Masks | None:
    """The masks as they are on disk now: files that came, went or changed are seen. None where the data set has none."""
    facts = mask_facts(dataset)
    if facts is None or not facts["root"]:
        return load_masks(dataset)
    inside = facts["links_inside"]
    return add_masks(dataset, Path(facts["root"]), None if inside is None else [Path(p) for p in inside])


def add_masks(dataset: Dataset, root: Path, inside: list[Path] | None = None) -> Masks:
    """Pair the masks below `root` with a data set's samples by name, and store which belongs to which.

    root holds core/ and spurious/, or Salient ImageNet (salient_imagenet_dataset/ and mturk_results/), or trimaps/, or one tree
    like the data set's own. Without spurious masks what is not core counts as spurious. `inside`: see `list_folder`.
    Raises NotFound, InputError: no such folder, no mask fits a picture.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise NotFound(f"no folder {root} of masks.")
    form, parts = _form(root)
    words: dict[str, list[str]] = {}
    rows: list[tuple[str, str, str, str]] = []
    notes: list[str] = []
    if form == "Salient ImageNet":
        from sslviz.data.salient import read_salient

        rows, words, notes = read_salient(parts[0][1], root, dataset, walk_pictures(parts[0][1], inside), inside)
    else:
        for kind, folder in parts:
            matched, said = _match(dataset.samples["sample_id"], walk_pictures(folder, inside))
            lead = "" if folder == root else f"{folder.relative_to(root)}/"
            rows += [(sample_id, kind, "", lead + path) for sample_id, path in matched]
            notes += [f"{kind}: {line}" for line in said]
    if not rows:
        raise InputError(f"no mask below {root} has the name of a picture of {dataset.name}.")
    table = pd.DataFrame(rows, columns=_COLUMNS[:4]).assign(content=None)
    seen = [_stamp(root / path) for path in table["path"]]
    frame = "centre crop" if form == "Salient ImageNet" else "picture"
    place = root.relative_to(dataset.folder) if root.is_relative_to(dataset.folder) else root  # a workspace may be moved
    kept = {"root": str(place), "links_inside": None if inside is None else [str(p) for p in inside]}
    return _save(dataset, table, {**kept, "form": form, "of": frame, "notes": notes}, seen, words)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; -1 and 0 of a link that leads nowhere, which is refused when it is read."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def save_packed(dataset: Dataset, table: pd.DataFrame) -> Masks:
    """Store masks that come as file contents: sample_id, core, spurious (bytes). What the demo does."""
    long = table.melt("sample_id", list(KINDS), "kind", "content").assign(feature="", path="")
    seen = [hashlib.blake2b(b"".join(long["content"]), digest_size=8).hexdigest()]
    return _save(dataset, long[_COLUMNS], {"root": "", "form": "packed", "of": "picture", "notes": []}, seen, {})


def _save(dataset: Dataset, table: pd.DataFrame, facts: dict[str, Any], seen: Sequence[Any], words: dict[str, Any]) -> Masks:
    table = table.sort_values(["sample_id", "kind", "feature", "path"], ignore_index=True)
    by_kind = {kind: int(table.loc[table["kind"] == kind, "sample_id"].nunique()) for kind in KINDS}
    both = len(set.intersection(*(set(table.loc[table["kind"] == kind, "sample_id"]) for kind in KINDS)))
    facts["counts"] = {**by_kind, "both": both, "images": len(dataset.samples)}
    facts["rest"] = by_kind["spurious"] == 0 and facts["form"] != "Salient ImageNet"  # there the rest is not judged
    facts["images_root"] = _place(dataset)
    if facts["rest"]:
        facts["notes"].append("no spurious masks: what is not core counts as spurious")
    keys = pd.util.hash_pandas_object(table[["sample_id", "kind", "feature", "path"]], index=False).to_numpy().tobytes()
    facts["fingerprint"] = hashlib.sha256(keys + repr(seen).encode()).hexdigest()[:16]
    if _stored(dataset, facts, words):
        return Masks(facts, table, words)
    with only_writer(dataset.folder / "masks.json", f"the masks of {dataset.name}", wait=True):
        write_table(dataset.folder / "masks.parquet", table)
        if words:
            write_json(dataset.folder / "mask_words.json", words)
        else:
            (dataset.folder / "mask_words.json").unlink(missing_ok=True)
        write_json(dataset.folder / "masks.json", facts)
    return Masks(facts, table, words)


def _stored(dataset: Dataset, facts: dict[str, Any], words: dict[str, Any]) -> bool:
    """Whether these masks are what is stored, and whole."""
    try:
        read_table(dataset.folder / "masks.parquet", ["sample_id"])
        known = dataset.folder / "mask_words.json"
        return bool(read_json(dataset.folder / "masks.json") == facts and (read_json(known) if known.exists() else {}) == words)
    except (FileNotFoundError, InputError):
        return False


def _form(root: Path) -> tuple[str, list[tuple[Kind, Path]]]:
    for place in (root / "salient_imagenet_dataset", root):
        if place.is_dir() and any(place.glob("n*/feature_*")):
            return "Salient ImageNet", [("core", place)]
    named = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    if parts := [(kind, named[kind]) for kind in KINDS if kind in named]:
        return "folders", parts
    for place in (root / "annotations" / "trimaps", root / "trimaps"):
        if place.is_dir():
            return "trimaps", [("core", place)]
    return "trimaps" if root.name == "trimaps" else "folders", [("core", root)]


def _match(samples: "pd.Series[str]", files: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(sample_id, mask): without their suffixes one path is the end of the other's, and of no second one's."""
    ends = Counter(end for i in samples for end in _ends(_stem(i)))
    ids = {stem: i for i in samples if ends[stem := _stem(i)] == 1}
    by_end = {end: i for stem, i in ids.items() for end in _ends(stem) if ends[end] == 1}
    found: dict[str, str] = {}
    strangers, twice = [], []
    for path in sorted(files):
        stem = _stem(path)
        sample_id = by_end.get(stem) or next((ids[end] for end in _ends(stem) if end in ids), None)
        if sample_id is None:
            strangers.append(path)
        elif sample_id in found:
            twice.append(path)
        else:
            found[sample_id] = path
    notes = [f"{len(found):,} of {len(samples):,} images have a mask"]
    if strangers:
        notes.append(f"{len(strangers):,} masks without an image of their name, or with several: {shown(strangers)}")
    if twice:
        notes.append(f"{len(twice):,} second masks of an image left out: {shown(twice)}")
    return list(found.items()), notes


def _stem(path: str) -> str:
    lead, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return lead + slash + (stem if dot else name)


def _ends(stem: str) -> list[str]:
    pieces = stem.split("/")
    return ["/".join(pieces[k:]) for k in range(len(pieces))]
