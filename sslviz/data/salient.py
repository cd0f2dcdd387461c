"""Salient ImageNet (Singla & Feizi, ICLR 2022): soft masks of neural features, and what five workers said each of them shows."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sslviz.data.dataset import Dataset
from sslviz.data.folder import is_inside
from sslviz.errors import InputError, NotFound, Untrusted, shown

PAPER = (6_858, 327)
"""Images and classes with both kinds of mask in Kalibhat et al., AAAI 2024."""
_SPURIOUS = {"separate_object", "background"}
_ENOUGH = 3
_VOTES = "mturk_results/discover_spurious_features.csv"


class Verdict(NamedTuple):
    """What the workers say of one feature of one class."""

    kind: str
    reasons: list[str]


def read_salient(
    place: Path, root: Path, dataset: Dataset, files: list[str], inside: list[Path] | None = None
) -> tuple[list[tuple[str, str, str, str]], dict[str, list[str]], list[str]]:
    """(sample_id, kind, feature "wnid/number", path below root) of every mask whose image is in the data set; the workers'
    reasons by feature; and remarks. files: paths below `place`.

    Raises NotFound without the votes, InputError where their columns are others.
    """
    votes = root / _VOTES
    if not votes.exists():
        raise NotFound(f"no {votes}: without the workers' votes no mask can be told to be core or spurious.")
    verdicts = read_votes(_allowed(votes, inside))
    stems = Counter(PurePosixPath(i).stem for i in dataset.samples["sample_id"])
    by_stem = {stem: i for i in dataset.samples["sample_id"] if stems[stem := PurePosixPath(i).stem] == 1}
    lead = "" if place == root else f"{place.relative_to(root)}/"
    rows, strangers = [], Counter[str]()
    unjudged: set[str] = set()
    for path in files:
        parts = PurePosixPath(path).parts
        if len(parts) != 3 or not parts[1].startswith("feature_"):
            strangers["not below <wnid>/feature_<number>"] += 1
            continue
        feature = f"{parts[0]}/{parts[1].removeprefix('feature_')}"
        sample_id = by_stem.get(PurePosixPath(path).stem)
        if feature not in verdicts:
            unjudged.add(feature)
        elif sample_id is None:
            strangers["their image is not in the data set, or twice"] += 1
        else:
            rows.append((sample_id, verdicts[feature].kind, feature, lead + path))
    notes = [f"{n:,} masks left out: {why}" for why, n in strangers.items()]
    if unjudged:
        notes.append(f"{len(unjudged)} features without votes left out: {shown(sorted(unjudged))}")
    notes += _missing(place, files, inside)
    kinds: dict[str, set[str]] = {}
    for sample_id, kind, _, _ in rows:
        kinds.setdefault(sample_id, set()).add(kind)
    both = [sample_id for sample_id, found in kinds.items() if len(found) == 2]
    classes = dataset.samples.set_index("sample_id")["label_name"].reindex(both).nunique()
    notes.append(
        f"{len(both):,} images of {classes:,} classes have core and spurious masks (in the paper {PAPER[0]:,} of {PAPER[1]})"
    )
    used = {feature for _, _, feature, _ in rows}
    return rows, {feature: verdicts[feature].reasons for feature in sorted(used)}, notes


def read_votes(path: Path) -> dict[str, Verdict]:
    """feature "wnid/number" -> verdict: spurious where at least 3 workers say separate object or background, else core."""
    answers: dict[str, list[tuple[str, str]]] = {}
    wanted = {"Input.wordnet_id", "Input.feature_index", "Answer.main", "Answer.reasons"}
    for columns, line in _rows(path):
        if lost := wanted - set(columns):
            raise InputError(f"{path} has no column {sorted(lost)[0]}; expected Salient ImageNet's table of votes.")
        feature = f"{line['Input.wordnet_id'].strip()}/{line['Input.feature_index'].strip()}"
        answers.setdefault(feature, []).append((line["Answer.main"].strip(), line["Answer.reasons"].strip()))
    verdicts = {}
    for feature, given in answers.items():
        spurious = sum(main in _SPURIOUS for main, _ in given) >= _ENOUGH
        reasons = [why for main, why in given if why and (main in _SPURIOUS) == spurious]  # of those who see it like this
        verdicts[feature] = Verdict("spurious" if spurious else "core", reasons)
    return verdicts


def _allowed(path: Path, inside: list[Path] | None) -> Path:
    if inside is not None and not is_inside(path, inside):
        raise Untrusted(f"{path} leads outside the folders that may be named in the browser.")
    return path


def _rows(path: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The columns and each row of a CSV file, with "" where a row is short. Raises InputError where it is none."""
    with path.open(encoding="utf-8", errors="replace", newline="") as handle:
        table = csv.DictReader(handle, restval="")
        try:
            for line in table:
                yield list(table.fieldnames or []), {k: v for k, v in line.items() if isinstance(k, str) and isinstance(v, str)}
        except csv.Error as error:
            raise InputError(f"{path} is not a readable table ({error}).") from None


def _missing(place: Path, files: list[str], inside: list[Path] | None) -> list[str]:
    """Names that image_names_map.csv lists for a feature and whose mask is not there."""
    there = {(p.parts[0], p.parts[1], p.stem) for p in map(PurePosixPath, files) if len(p.parts) == 3}
    lost = []
    for path in sorted(place.glob("*/image_names_map.csv")):
        for _, line in _rows(_allowed(path, inside)):
            for feature, name in line.items():
                if feature.isdigit() and name and (path.parent.name, f"feature_{feature}", name) not in there:
                    lost.append(f"{path.parent.name}/{feature}/{name}")
    return [f"{len(lost):,} masks that image_names_map.csv names are not there: {shown(lost)}"] if lost else []
