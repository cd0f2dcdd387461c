"""The pages of docs/ that are generated say what is measured."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import damage_record, mending
from sslviz.data import dataset as datasets
from sslviz.jobs.finetune import NOT_KEPT, FinetuneSettings
from sslviz.store.results import save_result
from sslviz.ui.learn import WORDS
from tests.inputs import folder, small_encoder


def test_the_tables_of_fine_tunings_are_those_of_the_kept_figures():
    assert mending.PAGE.read_text() == mending.page(), "run: make docs"


def test_the_glossary_is_the_learn_pages():
    lines = (Path(__file__).parents[1] / "docs" / "README.md").read_text().splitlines()
    table = lines[lines.index("|---|---|") + 1 :]
    assert table == [f"| {word} | {meaning} |" for word, meaning in WORDS.items()]


def test_what_is_kept_of_the_same_settings_is_replaced_and_nothing_else_is(workspace, tmp_path, monkeypatch):
    from sslviz.jobs.embed import EmbedSettings, embed
    from sslviz.jobs.inputs import open_embedded
    from sslviz.progress import Progress

    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train/a": 8, "test/a": 4}))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    monkeypatch.setattr(mending, "MEASURED", tmp_path / "measured")
    asked = ["mending", "--workspace", str(workspace.root), "--dataset", "photos", "--encoders", "tiny"]

    def keep(top1, seeds=(0,), **changes):
        names = {"dataset": "photos", "encoder": "tiny"}
        settings = FinetuneSettings(**names, seeds=list(seeds), **changes)
        plain = settings.model_dump(mode="json", exclude=set(NOT_KEPT))
        arms = pd.DataFrame({"arm": "both", "seed": seeds, "top1": top1, "eps": 1.0})
        gaps = pd.DataFrame({"arm": ["both"], "against": ["control"], "figure": ["top1"], "mean": [top1]})
        summary = {"method": "byol", "n": 4, "eps": 1.0, "images": 8}
        inputs = open_embedded(workspace, "photos", "tiny").inputs
        save_result(workspace.results("photos", "tiny", "finetune"), plain, inputs, {"arms": arms, "differences": gaps}, summary)
        monkeypatch.setattr(sys, "argv", asked)
        mending.keep()
        kept = {name: pd.read_parquet(tmp_path / f"measured/{name}.parquet") for name in ("arms", "differences")}
        assert kept["differences"]["mean"].tolist() == list(dict.fromkeys(kept["arms"]["top1"]))
        return kept["arms"][["top1", "seed"]].to_numpy().tolist()

    assert keep(0.1) == [[0.1, 0]]
    assert keep(0.2, lambda1=1.0) == [[0.1, 0], [0.2, 0]]  # another setting: beside it
    assert keep(0.3, seeds=(0, 1)) == [[0.2, 0], [0.3, 0], [0.3, 1]]  # the first setting again, with a seed more
    with pytest.raises(SystemExit, match="arms and seeds that are kept are missing"):
        keep(0.4)


def test_the_rank_correlations_of_the_evidence_are_those_of_its_rows():
    lines = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text().splitlines()
    last = next(k for k, line in enumerate(lines) if line.startswith("| p, two-sided"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[last - 7 : last + 1]]
    table = pd.DataFrame([[float(cell.split()[0]) for cell in row[1:7]] for row in rows[:6]])
    found = [damage_record.rank_correlation(table[0], table[k]) for k in range(1, 6)]
    assert [f"{r:+.2f}" for r, _ in found] == rows[6][2:7]
    assert [f"{p:.3f}" for _, p in found] == rows[7][2:7]


def test_the_p_of_a_rank_correlation_by_hand():
    r, p = damage_record.rank_correlation(pd.Series([1, 2, 3, 4.0]), pd.Series([10, 20, 30, 40.0]))
    assert (r, p) == (pytest.approx(1), pytest.approx(2 / 24))  # one order of 24 is as high, one as low
