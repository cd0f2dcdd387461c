import shutil

import numpy as np
import pytest
import scipy.stats

from sslviz.data import dataset as datasets
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights
from sslviz.errors import Busy, InputError, NotFound, Stale
from sslviz.jobs.compare import CompareSettings, compare, controls, differing, judged, row
from sslviz.jobs.inputs import result_state
from sslviz.jobs.probe import ProbeSettings, probe
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace
from tests.inputs import folder, picture, pixels, small_encoder

LAYOUT = {"train/cat": 14, "train/dog": 14, "test/cat": 8, "test/dog": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with one data set and two encoders, compared."""
    root = tmp_path_factory.mktemp("compare")
    workspace = Workspace(root / "w").create()
    datasets.add_folder(workspace, "pets", folder(root / "pets", LAYOUT))
    for k, name in enumerate(("one", "two")):
        small_encoder(workspace, name, seed=k + 1)
    stages = []

    class Stages(Progress):
        def stage(self, name, total=0):
            stages.append(name)

    result = compare(CompareSettings(dataset="pets", encoders=["one", "two"]), workspace, Stages())
    assert [name for name in stages if name.endswith(": embedding")] == [
        f"{encoder} ({k} of 4): embedding" for k, encoder in enumerate((r["encoder"] for r in result["rows"]), start=1)
    ]
    return workspace, result


def test_each_line_is_that_encoders_own_result(place):
    workspace, result = place
    names = [r["encoder"] for r in result["rows"]]
    assert names[:2] == ["one", "two"]
    dataset = datasets.load(workspace, "pets")
    for line in result["rows"]:
        _, _, score = result_state(workspace, dataset, line["encoder"], "score")
        _, _, probe = result_state(workspace, dataset, line["encoder"], "probe")
        assert line["top1"] == probe.content["summary"]["top1"]
        assert line["rank_me"] == score.content["summary"]["rank_me"]
        assert line["reports"]["q"]["base_rate"] == pytest.approx(line["top1"])


def test_controls_are_the_same_network_untrained_and_the_pixels_themselves(place):
    workspace, result = place
    untrained, raw = (r["encoder"] for r in result["rows"][2:])
    assert load_spec(workspace, untrained).architecture == load_spec(workspace, "one").architecture
    assert load_spec(workspace, untrained).input == load_spec(workspace, "one").input
    ours, theirs = (load_weights(workspace, load_spec(workspace, n)) for n in (untrained, "one"))
    assert ours.keys() == theirs.keys()
    assert not any(np.allclose(ours[k], theirs[k]) for k in ours if k.endswith("conv1.weight"))
    picture_16 = pixels(picture(3, 16, 16))
    embedded = load_encoder(workspace, raw).embed(picture_16[None])[0]
    np.testing.assert_allclose(embedded.numpy(), picture_16.numpy().reshape(-1) / 255, atol=1e-6)
    assert [r["features"] for r in result["rows"]][2:] == [32, 768]


def test_each_pair_is_counted_image_by_image(place):
    workspace, result = place
    names = [r["encoder"] for r in result["rows"]]
    assert [p["encoders"] for p in result["pairs"]] == [[a, b] for i, a in enumerate(names) for b in names[i + 1 :]]
    dataset = datasets.load(workspace, "pets")
    tables = {}
    for name in names:
        _, _, score = result_state(workspace, dataset, name, "score")
        _, _, probe = result_state(workspace, dataset, name, "probe")
        right = probe.table("predictions").set_index("sample_id")["correct"]
        q = score.table("scores").set_index("sample_id")["q"]
        near = score.table("neighbours").set_index("sample_id")["neighbours"]
        tables[name] = {i: (bool(right[i]), q[i], set(near[i])) for i in right.index if i.startswith("test/")}
    for found in result["pairs"]:
        a, b = (tables[name] for name in found["encoders"])
        assert found["n"] == len(a) == 16
        assert found["probes"]["only_first"] == sum(a[i][0] and not b[i][0] for i in a)
        assert found["probes"]["only_second"] == sum(b[i][0] and not a[i][0] for i in a)
        shared = [len(a[i][2] & b[i][2]) / 10 for i in a]
        assert found["shared_neighbours"] == pytest.approx(sum(shared) / len(shared))
        ranks = [scipy.stats.rankdata([t[i][1] for i in a]) for t in (a, b)]
        assert found["q_correlation"] == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_without_labels_pairs_say_what_can_be_said(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    datasets.add_folder(workspace, "loose", folder(tmp_path / "loose", {"train": 12, "test": 6}))
    for k, name in enumerate(("one", "two")):
        small_encoder(workspace, name, seed=k + 1)
    (found,) = compare(CompareSettings(dataset="loose", encoders=["one", "two"], controls=False), workspace, Progress())["pairs"]
    assert (found["n"], found["probes"]) == (6, None)
    assert 0 <= found["shared_neighbours"] <= 1
    assert -1 <= found["q_correlation"] <= 1


def test_without_names_all_scored_encoders_and_nothing_is_computed_again(place, monkeypatch):
    workspace, result = place

    def no(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("sslviz.jobs.analyze.analyzed", no)
    again = compare(CompareSettings(dataset="pets"), workspace, Progress())
    assert {r["encoder"] for r in again["rows"]} == {r["encoder"] for r in result["rows"]}
    alone = compare(CompareSettings(dataset="pets", encoders=["two"], controls=False), workspace, Progress())
    assert [r["encoder"] for r in alone["rows"]] == ["two"]


def test_an_encoder_that_another_run_works_on_is_waited_for(place, monkeypatch):
    workspace, _ = place
    small_encoder(workspace, "shared", seed=9)
    from sslviz.jobs import analyze as module

    asked, real = [], module.analyzed

    def busy_once(settings, *rest):
        asked.append(settings.encoder)
        if len(asked) == 1:
            raise Busy("the other one holds it")
        return real(settings, *rest)

    monkeypatch.setattr(module, "analyzed", busy_once)
    monkeypatch.setattr("sslviz.jobs.compare._PAUSE", 0)
    result = compare(CompareSettings(dataset="pets", encoders=["shared"], controls=False), workspace, Progress())
    assert asked == ["shared", "shared"]
    assert result["rows"][0]["encoder"] == "shared"


def test_a_picture_that_comes_while_it_works_is_worked_into_it(place, monkeypatch):
    """Else the scores would never be fresh for the data set as it was at the start."""
    workspace, _ = place
    small_encoder(workspace, "during", seed=8)
    root = datasets.load(workspace, "pets").root
    from sslviz.jobs import analyze as module

    asked, real = [], module.analyzed

    def adds_one(settings, *rest):
        asked.append(settings.encoder)
        assert len(asked) < 4
        picture(77, kind=1).save(root / "test" / "cat" / "late.png")
        return real(settings, *rest)

    monkeypatch.setattr(module, "analyzed", adds_one)
    result = compare(CompareSettings(dataset="pets", encoders=["during"], controls=False), workspace, Progress())
    (root / "test" / "cat" / "late.png").unlink()
    datasets.refresh(workspace, "pets")
    assert result["rows"][0]["encoder"] == "during"


def test_a_probe_that_is_not_the_scores_own_is_no_probe_of_theirs(tmp_path):
    """A class went: no probe can be fitted any more, and the one of before knows other images."""
    workspace = Workspace(tmp_path / "w").create()
    root = folder(tmp_path / "pets", LAYOUT)
    datasets.add_folder(workspace, "pets", root)
    small_encoder(workspace, "one", seed=1)
    settings = CompareSettings(dataset="pets", encoders=["one"], controls=False)
    assert compare(settings, workspace, Progress())["rows"][0]["top1"] is not None
    for split in ("train", "test"):
        shutil.rmtree(root / split / "dog")
    dataset, _ = datasets.refresh(workspace, "pets")
    assert compare(settings, workspace, Progress())["rows"][0]["top1"] is None
    assert judged(workspace, dataset, "one")["correct"].isna().all()


def test_what_was_not_made_alike_is_said(place):
    workspace, result = place
    assert result["notes"] == []
    names, dataset = ["one", "two"], datasets.load(workspace, "pets")
    probe(ProbeSettings(dataset="pets", encoder="two", protocol="sgd100"), workspace, Progress())
    score(ScoreSettings(dataset="pets", encoder="two", upper=90, rivals=False), workspace, Progress())
    try:
        assert differing([row(workspace, dataset, name) for name in names]) == [
            "not made alike, score upper: 95.0 for one; 90.0 for two",
            "not made alike, rivals by neighbours: there for one; left out for two",
            "not made alike, probe protocol: lbfgs for one; sgd100 for two",
        ]
    finally:
        probe(ProbeSettings(dataset="pets", encoder="two"), workspace, Progress())
        score(ScoreSettings(dataset="pets", encoder="two"), workspace, Progress())


def test_stale_scores_are_no_line(place):
    workspace, _ = place
    small_encoder(workspace, "later", seed=5)
    with pytest.raises(Stale, match="by later are missing: no score yet"):
        row(workspace, datasets.load(workspace, "pets"), "later")


def test_stale_scores_are_made_again_as_they_were(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    root = folder(tmp_path / "pets", LAYOUT)
    datasets.add_folder(workspace, "pets", root)
    small_encoder(workspace, "one")
    compare(CompareSettings(dataset="pets", encoders=["one"], controls=False), workspace, Progress())
    score(ScoreSettings(dataset="pets", encoder="one", eps=1.0, lower=40), workspace, Progress())
    picture(91).save(root / "train/cat/more.png")
    found = compare(CompareSettings(dataset="pets", encoders=["one"], controls=False), workspace, Progress())
    made = result_state(workspace, datasets.load(workspace, "pets"), "one", "score")
    assert made[0] == "fresh"
    assert (made[2].content["settings"]["eps"], made[2].content["settings"]["lower"]) == (1.0, 40)
    assert found["rows"][0]["eps"] == 1.0


def test_nothing_to_compare_is_said(workspace, tmp_path):
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", {"train/a": 2}))
    with pytest.raises(InputError, match="no encoder is scored"):
        compare(CompareSettings(dataset="pets"), workspace, Progress())
    with pytest.raises(NotFound, match='unknown encoder "nobody"'):
        compare(CompareSettings(dataset="pets", encoders=["nobody"]), workspace, Progress())


def test_each_network_has_a_control_of_its_own_and_always_the_same(workspace, tmp_path):
    weights = []
    for place in (workspace, Workspace(tmp_path / "other").create()):
        for name, width in (("wide", 32), ("narrow", 16)):
            small_encoder(place, name, feature_dim=width)
        found = [controls(place, name)[0] for name in ("wide", "narrow")]
        assert [load_spec(place, name).feature_dim for name in found] == [32, 16]
        weights.append([load_weights(place, load_spec(place, name)) for name in found])
    for ours, theirs in zip(*weights, strict=True):
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
