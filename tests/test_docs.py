"""The pages of docs/ that are generated say what is measured."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import resnet50

from benchmarks import damage_record, demo_record, mending
from sslviz.data import dataset as datasets
from sslviz.data.demo import files
from sslviz.encoders.add import add_encoder
from sslviz.encoders.run import load_encoder
from sslviz.jobs.finetune import NOT_KEPT, FinetuneSettings
from sslviz.store.files import read_json
from sslviz.store.results import save_result
from sslviz.ui.finetune import EXPECT
from sslviz.ui.learn import WORDS
from tests.inputs import folder, small_encoder


@pytest.mark.parametrize("path", mending.PAGES, ids=lambda path: path.name)
def test_the_tables_of_fine_tunings_are_those_of_the_kept_figures(path):
    assert path.read_text() == mending.page(path), "run: make docs"


def test_the_glossary_is_the_learn_pages():
    lines = (Path(__file__).parents[1] / "docs" / "README.md").read_text().splitlines()
    table = lines[lines.index("|---|---|") + 1 :]
    assert table == [f"| {word} | {meaning} |" for word, meaning in WORDS.items()]


def test_the_table_of_the_eight_encoders_is_their_cards():
    cards = {path.parent.name: read_json(path) for path in (files.shipped() / "encoders").glob("*/card.json")}
    page = (Path(__file__).parents[1] / "docs" / "results.md").read_text()
    section = page.split("\n## The eight encoders side by side\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    at = next(k for k, row in enumerate(rows) if row[0].startswith("AUROC of"))
    encoders = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:at]}
    aurocs = {name: dict(zip(rows[at][1:], values, strict=True)) for name, *values in rows[at + 1 :]}
    own = {name for name, card in cards.items() if "curve" in card}
    assert len(own) == 8
    assert set(encoders) == own | {"random weights", "raw pixels"}
    for name in own:
        card, row = cards[name], encoders[name]
        q = card["report"]["q"]
        low, high = (100 * v for v in q["intervals"]["auprc"])
        assert abs(float(row["top-1"]) - card["top1"]) <= 0.11
        assert float(row["top-1"]) >= float(encoders["random weights"]["top-1"]) + 15
        assert row["RankMe"] == f"{card['rank_me']:.0f}"
        assert card["rank_me"] > 20
        assert (row["verdict"], row["eps"]) == (card["verdict"], f"{card['eps']:g}")
        assert (row["mean share"], row["empty sets"]) == (f"{card['mean_share']:.1f} %", f"{100 * card['empty_share']:.1f} %")
        assert row["AUPRC of Q"] == f"{100 * q['auprc']:.1f} ({low:.1f} to {high:.1f})"
        for score, report in card["report"].items():
            low, high = (100 * v for v in report["intervals"]["auroc"])
            assert aurocs[score][name] == f"{100 * report['auroc']:.1f} ({low:.1f} to {high:.1f})", (name, score)


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
        curves = pd.concat([arms.assign(moved=0.1)[["arm", "seed", "moved"]], arms.assign(moved=0.2)[["arm", "seed", "moved"]]])
        gaps = pd.DataFrame({"arm": ["both"], "against": ["control"], "figure": ["top1"], "mean": [top1]})
        summary = {"method": "byol", "n": 4, "eps": 1.0, "images": 8}
        inputs = open_embedded(workspace, "photos", "tiny").inputs
        save_result(
            workspace.results("photos", "tiny", "finetune"),
            plain,
            inputs,
            {"arms": arms, "differences": gaps, "curves": curves},
            summary,
        )
        monkeypatch.setattr(sys, "argv", asked)
        mending.keep()
        kept = {name: pd.read_parquet(tmp_path / f"measured/{name}.parquet") for name in ("arms", "differences")}
        assert kept["differences"]["mean"].tolist() == list(dict.fromkeys(kept["arms"]["top1"]))
        assert set(kept["arms"]["moved"]) == {0.2}  # how far the last epoch was
        return kept["arms"][["top1", "seed"]].to_numpy().tolist()

    assert keep(0.1) == [[0.1, 0]]
    assert keep(0.2, lambda1=1.0) == [[0.1, 0], [0.2, 0]]  # another setting: beside it
    assert keep(0.3, seeds=(0, 1)) == [[0.2, 0], [0.3, 0], [0.3, 1]]  # the first setting again, with a seed more
    kept = [[0.2, 0], [0.3, 0], [0.3, 1]]
    for k, changes in enumerate([{"batch_size": 128}, {"eps": 2.0}, {"processes": 2}]):  # each gives other encoders, or figures
        kept.append([0.5 + k, 0])
        assert keep(0.5 + k, **changes) == kept
    with pytest.raises(SystemExit, match="arms and seeds that are kept are missing"):
        keep(0.4)


def test_what_pages_say_of_fine_tunings_is_what_was_measured():
    found = pd.read_parquet(mending.MEASURED / "differences.parquet")
    small = found[
        found["group"].str.startswith("demo, 10 epochs") & (found["figure"] == "top1") & (found["against"] == "control")
    ]
    assert small.loc[small["arm"] == "both", "base"].nunique() == 8
    assert small[["low", "high"]].notna().all(axis=None)
    gains = small[(small["arm"] != "base") & (small["low"] > 0)]
    assert "no arm's top-1 is distinguishably higher than its control's" in EXPECT
    assert gains.empty, gains[["base", "arm", "group"]].to_string()


def test_the_tables_of_fine_tunings_by_hand(tmp_path, monkeypatch):
    about = {"group": "demo, 10 epochs", "method": "byol", "n": 100, "eps": 1.5, "eps_anew": 2.0, "command": "sslviz finetune"}
    arms = [
        {
            "base": base,
            "arm": arm,
            "seed": seed,
            "top1": top1,
            "auroc": 0.5,
            "lambda1": 1e-4,
            "eps_anew": 2.0,
            "mended": 3,
            "moved": 0.0 if arm == "base" else 0.015,
            "broken": 2,
            **about,
        }
        for base, values in (
            ("a", {"base": [0.7], "control": [0.6, 0.8], "both": [0.75, 0.79]}),
            ("b", {"base": [0.5], "control": [0.4]}),
        )
        for arm, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]
    gaps = [
        {"base": "a", "arm": "both", "against": "control", "figure": "top1", "mean": 0.07, "low": 0.01, "high": 0.13},
        {"base": "a", "arm": "lasso", "against": "control", "figure": "top1", "mean": 0.0, "low": -0.01, "high": 0.01},
        {"base": "b", "arm": "both", "against": "control", "figure": "top1", "mean": -0.2, "low": -0.3, "high": -0.1},
        {"base": "a", "arm": "control", "against": "base", "figure": "top1", "mean": 0.0, "low": -0.2, "high": 0.0003},
        {"base": "a", "arm": "both", "against": "control", "figure": "core_correct", "mean": 0.2, "low": 0.1, "high": 0.3},
    ]
    monkeypatch.setattr(mending, "MEASURED", tmp_path)
    pd.DataFrame(arms).to_parquet(tmp_path / "arms.parquet")
    pd.DataFrame(gaps).assign(group=about["group"]).to_parquet(tmp_path / "differences.parquet")
    lines = mending.whole().splitlines()
    assert lines[0] == "### Demo, 10 epochs"
    assert lines[2] == (
        "**Top-1 compared with the control's, by encoders. "
        "both: higher in 1, lower in 1 of 2; lasso: not distinguishable in 1 of 1.**"
    )
    assert "| a | 70.0 | 70.0 | +7.0 (+1.0 to +13.0) |" in lines
    assert "| b | 50.0 | 40.0 | -20.0 (-30.0 to -10.0) |" in lines
    assert "| top-1 | 70.0 | 70.0 | 77.0 |" in lines  # the mean over seeds
    assert "| seeds | - | 2 | 2 |" in lines
    assert "| mended | - | 3 | 3 |" in lines
    assert "| top-1 | 0 (-20.00 to +0.03) | +7.0 (+1.0 to +13.0) |" in lines  # a bound that is not zero does not read so
    assert "| weights moved, % of their norm | - | 1.5 |" in lines
    assert "| a | 2 | 2 | - | - | - | - | - | +0.2000 (+0.1000 to +0.3000) | - |" in lines
    assert "| b | - | 2 | - | - | - | - | - | - | - |" in lines
    rows = [line.split(" | ")[:4] for line in mending.short().splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        ["| a", "base", "70.0", "-"],
        ["| a", "control", "60.0, 80.0", "-"],
        ["| a", "both", "75.0, 79.0", "+7.0 (+1.0 to +13.0)"],
        ["| b", "base", "50.0", "-"],
        ["| b", "control", "40.0", "-"],
    ]


def test_the_guides_snippet_loads_an_encoder_of_the_workspace(workspace, tmp_path, monkeypatch):
    """As torchvision's own network, and with the same answer as here."""
    torch.manual_seed(0)
    net = resnet50()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net.pth")
    add_encoder(workspace, str(tmp_path / "net.pth"), "moco-200ep-both-s0")
    guide = (Path(__file__).parents[1] / "docs" / "finetuning.md").read_text()
    snippet = guide.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(workspace.root.parent)
    found = {}
    exec(snippet, found)
    ours = load_encoder(workspace, "moco-200ep-both-s0").backbone
    pictures = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(found["encoder"].eval()(pictures), ours(pictures), rtol=1e-3, atol=1e-3)


def test_the_rank_correlations_of_the_evidence_are_those_of_its_rows():
    lines = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text().splitlines()
    last = next(k for k, line in enumerate(lines) if line.startswith("| p, two-sided"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[last - 8 : last + 1]]
    table = pd.DataFrame([[float(cell.split()[0]) for cell in row[1:7]] for row in rows[:7]])
    found = [damage_record.rank_correlation(table[0], table[k]) for k in range(1, 6)]
    assert [f"{r:+.2f}" for r, _ in found] == rows[7][2:7]
    assert [f"{p:.3f}" for _, p in found] == rows[8][2:7]


def test_the_p_of_a_rank_correlation_by_hand():
    r, p = damage_record.rank_correlation(pd.Series([1, 2, 3, 4.0]), pd.Series([10, 20, 30, 40.0]))
    assert (r, p) == (pytest.approx(1), pytest.approx(2 / 24))  # one order of 24 is as high, one as low


def test_pairs_within_a_class_by_hand():
    score, correct, label = np.array([1.0, 1, 2, 0]), np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    assert demo_record.within_class(score, correct, label) == 0.75  # a tie and a win
    assert np.isnan(demo_record.within_class(score, np.ones(4, bool), label))
