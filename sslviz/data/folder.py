"""Image folders as people have them: split folders or none, class folders or none, links, and what other tools left there."""

import hashlib
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sslviz.errors import InputError, NotFound, shown, unknown_name

SPLITS = {
    "train": {"train", "training", "trainset", "tr"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "testset", "eval", "evaluation"},
}
PICTURES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
_TEST_SHARE = 0.2


@dataclass
class Listing:
    """What a folder holds: samples (sample_id, split, label_name, size, mtime_ns), class names, and remarks in words."""

    samples: pd.DataFrame
    classes: list[str]
    split_rule: str
    notes: list[str] = field(default_factory=list)


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int


def list_folder(root: Path, classes: list[str] | None = None, inside: list[Path] | None = None) -> Listing:
    """List the pictures below `root` by name and size; no pixel is read.

    `classes` keeps only these class folders. `inside`: links must lead into one of these folders (what a browser may name);
    None follows every link. Raises InputError when there is no picture, NotFound when there is no such folder.
    """
    if not root.exists():
        raise NotFound(f"no folder {root}. Check the path; it is read on the machine that runs sslviz.")
    if not root.is_dir():
        raise InputError(f"{root} is a file; expected a folder of images.")
    scan = _Scan(root, inside)
    files = scan.walk(root)
    if not files:
        raise InputError(f"no images found in {root}" + scan.summary("; left out: ") + ".")
    parts = [tuple(file.path.split("/")) for file in files]
    lead, parts = _wrapper(parts)
    folders = {p[0] for p in parts if len(p) > 1} | scan.empty_below(lead)
    splits = {f: s for f in folders for s, names in SPLITS.items() if f.lower() in names}
    split_folders = bool(splits) and ("train" in splits.values() or set(splits) == folders)

    rows, skipped = [], Counter[str]()
    for file, p in zip(files, parts, strict=True):
        if split_folders:
            if p[0] not in splits or len(p) == 1:
                skipped[p[0] if len(p) > 1 else "(loose files)"] += 1
                continue
            split, rest = splits[p[0]], p[1:]
        elif p[0].lower() == "masks" and len(p) > 2 and p[1].lower() in {"core", "spurious"}:
            skipped["masks"] += 1
            continue
        else:
            split, rest = "", p
        rows.append((file.path, split, rest[0] if len(rest) > 1 else None, file.size, file.mtime_ns))
    samples = pd.DataFrame(rows, columns=["sample_id", "split", "label_name", "size", "mtime_ns"])
    notes = [scan.summary("left out: ")] if scan.left_out else []
    if skipped:
        notes.append("beside the images, left out: " + ", ".join(f"{k} ({n})" for k, n in sorted(skipped.items())))
    unlabelled = int(samples["label_name"].isna().sum())
    if unlabelled and unlabelled < len(samples):
        notes.append(f"{unlabelled} pictures stand outside any class folder and have no label")
    known = set(samples["label_name"].dropna()) | scan.empty_classes(lead, set(splits) if split_folders else None)
    if classes is not None:
        samples, known = _only(samples, known, classes)
    if samples.empty:
        raise InputError(f"no images found in {root}.")
    names = sorted(known)
    if split_folders:
        rule = "folders " + ", ".join(sorted(splits))
        notes += _unequal(samples, names)
    else:
        samples["split"] = _seeded_split(samples)
        share = f"{_TEST_SHARE:.0%}"
        rule = f"made: no split folders, so {share} of each class is held out as test (fixed, from a hash of the names)"
        notes.append("split " + rule)
    samples = samples.sort_values("sample_id", ignore_index=True)
    return Listing(samples, names, rule, notes)


def walk_pictures(root: Path, inside: list[Path] | None = None) -> list[str]:
    """Paths below `root` of all files with a picture's name, as `list_folder` finds them."""
    return [file.path for file in _Scan(root, inside).walk(root)]


def is_inside(path: Path, folders: list[Path]) -> bool:
    """Whether a path, links resolved, lies in one of these folders."""
    target = Path(os.path.realpath(path))  # Path.resolve raises at a link to itself
    return any(target.is_relative_to(os.path.realpath(folder)) for folder in folders)


def class_titles(names: list[str]) -> dict[str, str]:
    """What to show for each class: English names for WordNet ids (n01440764 or n01440764_tench), else the name itself."""
    wnid = re.compile(r"(n\d{8})(?:[_-](.+))?")
    found = {name: m for name in names if (m := wnid.fullmatch(name))}
    titles = {name: name for name in names}
    if not found:
        return titles
    lookup = None
    for name, match in found.items():
        if match[2]:
            titles[name] = match[2].replace("_", " ")
            continue
        if lookup is None:
            from timm.data import ImageNetInfo

            lookup = ImageNetInfo("imagenet-22k")
        if match[1] in lookup.label_names():
            description = str(lookup.label_name_to_description(match[1], detailed=False))
            titles[name] = description.split(",")[0]
    twice = Counter(titles.values())
    return {name: f"{title} ({name[:9]})" if twice[title] > 1 else title for name, title in titles.items()}


class _Scan:
    def __init__(self, root: Path, inside: list[Path] | None) -> None:
        self.root = root
        self.inside = None if inside is None else [p.resolve() for p in inside]
        self.left_out: Counter[str] = Counter()
        self.other_endings: Counter[str] = Counter()
        self.empty: list[str] = []

    def walk(self, root: Path) -> list[_File]:
        files: list[_File] = []
        if not self._may_follow(str(root)):
            self.left_out["folders outside the allowed ones"] += 1
            return files
        stack: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(root), "", frozenset())]
        while stack:
            folder, lead, above = stack.pop()
            try:
                about = os.stat(folder)
                entries = list(os.scandir(folder))
            except OSError:
                self.left_out["folders that cannot be read"] += 1
                continue
            here = (about.st_dev, about.st_ino)
            if here in above:
                self.left_out["links that lead back into themselves"] += 1
                continue
            before = len(files), len(stack)
            for entry in entries:
                self._enter(entry, lead, above | {here}, files, stack)
            if (len(files), len(stack)) == before and lead:
                self.empty.append(lead.rstrip("/"))
        return files

    def _enter(
        self,
        entry: "os.DirEntry[str]",
        lead: str,
        above: frozenset[tuple[int, int]],
        files: list[_File],
        stack: list[tuple[str, str, frozenset[tuple[int, int]]]],
    ) -> None:
        name = entry.name
        try:
            name.encode()
        except UnicodeEncodeError:
            self.left_out["names that are not UTF-8"] += 1
            return
        if name.startswith(".") or name.lower() in LEFT_BEHIND:
            self.left_out["hidden or system files and folders"] += 1
            return
        ending = os.path.splitext(name)[1].lower()
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself
            is_folder = False
        if entry.is_symlink() and not self._may_follow(entry.path):
            self.left_out["links that lead outside the allowed folders"] += 1
        elif is_folder and ending not in PICTURES:
            stack.append((entry.path, f"{lead}{name}/", above))
        elif ending in PICTURES:
            try:
                found = entry.stat()
            except OSError:
                files.append(_File(lead + name, -1, 0))
                return
            if is_folder or stat.S_ISREG(found.st_mode):
                files.append(_File(lead + name, -1 if is_folder else found.st_size, found.st_mtime_ns))
            else:  # a pipe or a device, which may never end
                self.left_out["names that are no regular files"] += 1
        else:
            self.left_out["other files"] += 1
            self.other_endings[ending or "no ending"] += 1

    def _may_follow(self, path: str) -> bool:
        if self.inside is None:
            return True
        return is_inside(Path(path), self.inside)

    def empty_below(self, lead: str) -> set[str]:
        return {p[len(lead) :].split("/")[0] for p in self.empty if p.startswith(lead)}

    def empty_classes(self, lead: str, splits: set[str] | None) -> set[str]:
        found = set()
        for path in self.empty:
            parts = path[len(lead) :].split("/") if path.startswith(lead) else []
            if splits is None and len(parts) == 1:
                found.add(parts[0])
            elif splits is not None and len(parts) == 2 and parts[0] in splits:
                found.add(parts[1])
        return found

    def summary(self, lead: str) -> str:
        words = [f"{n} {what[:-1] if n == 1 and what.endswith('files') else what}" for what, n in self.left_out.items()]
        endings = ", ".join(e for e, _ in self.other_endings.most_common(4))
        return (lead + ", ".join(words) + (f" ({endings})" if endings else "")) if words else ""


def _wrapper(parts: list[tuple[str, ...]]) -> tuple[str, list[tuple[str, ...]]]:
    """Step through single folders that only wrap the split folders (what unpacking an archive leaves)."""
    lead = ""
    known = set().union(*SPLITS.values())
    while len({p[0] for p in parts}) == 1 and min(len(p) for p in parts) > 2:
        if parts[0][0].lower() in known or not any(p[1].lower() in known for p in parts):
            break
        lead += parts[0][0] + "/"
        parts = [p[1:] for p in parts]
    return lead, parts


def _only(samples: pd.DataFrame, known: set[str], wanted: list[str]) -> tuple[pd.DataFrame, set[str]]:
    by_wnid = {name[:9]: name for name in known if re.match(r"n\d{8}", name)}
    chosen = set()
    for name in wanted:
        if name not in known and name not in by_wnid:
            raise unknown_name("class", name, known, "Class names are the folders' names.")
        chosen.add(name if name in known else by_wnid[name])
    return samples[samples["label_name"].isin(chosen)].reset_index(drop=True), chosen


def _unequal(samples: pd.DataFrame, names: list[str]) -> list[str]:
    notes = []
    if "train" not in set(samples["split"]):
        return ["there is no train split: images can be embedded, but scores and a probe need one"]
    if not names:
        return []
    in_train = set(samples.loc[samples["split"] == "train", "label_name"].dropna())
    missing = [name for name in names if name not in in_train]
    if missing:
        notes.append(f"classes without a train image, unknown to a probe: {shown(missing)}")
    return notes


def _seeded_split(samples: pd.DataFrame) -> pd.Series:
    """Test is the fifth of each class with the smallest hash of its id: stable when other files come or go."""
    rank = samples["sample_id"].map(lambda s: hashlib.blake2b(s.encode(), digest_size=8).hexdigest())
    group = samples["label_name"].fillna("")
    place = rank.groupby(group).rank(method="first")
    held_out = (rank.groupby(group).transform("size") * _TEST_SHARE).astype(int)
    return pd.Series("train", index=samples.index).mask(place <= held_out, "test")
