"""The demo job, on a small rendering in place of the shipped files."""

import shutil

import pytest

from sslviz.data import dataset as datasets
from sslviz.data.demo import files
from sslviz.errors import InputError, NotFound
from sslviz.jobs import inputs, runner
from sslviz.jobs.demo import DemoSettings, demo, start_demo
from sslviz.jobs.interpret import InterpretSettings, interpret
from sslviz.progress import Progress

SHIPPED = files.shipped()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A demo of 60 pictures, and two of the real encoders."""
    place = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "SPLITS", {"train": 40, "test": 20})
        patch.setattr(files, "N_COUNTERFACTUAL_SCENES", 2)
        files.render_files(place, Progress(), processes=1)
    for name in ("simclr-demo", "supervised-demo"):
        shutil.copytree(SHIPPED / "encoders" / name, place / "encoders" / name)
    return place


@pytest.fixture
def small(tmp_path, monkeypatch, rendered):
    """Launched runs are written down, not started."""
    monkeypatch.setattr(files, "SPLITS", {"train": 40, "test": 20})
    monkeypatch.setattr(files, "N_COUNTERFACTUAL_SCENES", 2)
    shutil.copytree(rendered, tmp_path / "shipped")
    monkeypatch.setattr(files, "shipped", lambda: tmp_path / "shipped")
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    return tmp_path / "shipped"


def test_the_demo_is_unpacked_analyzed_and_followed_up(workspace, small):
    result = demo(DemoSettings(), workspace, Progress())
    assert (result["n"], result["images"], result["differing_rows"]) == (60, 60, None)
    others = ["supervised-demo"]
    assert workspace.encoders() == ["simclr-demo", *others]
    found = datasets.load(workspace, "demo")
    assert found.facts["counts"] == {"train": 40, "test": 20}
    assert sorted(found.titles) == sorted({s.split("/")[1] for s in files.scenes("train")})
    assert inputs.result_state(workspace, found, "simclr-demo", "score")[0] == "fresh"
    first, heat, then = sorted(runner.list_runs(workspace), key=lambda run: run["created"])
    assert (first["job"], first["settings"]["encoder"]) == ("project", "simclr-demo")
    assert (heat["job"], heat["settings"]["encoder"]) == ("interpret", "simclr-demo")
    assert interpret(InterpretSettings(**heat["settings"]), workspace, Progress())["n"] == 20  # masks came along
    assert (then["job"], then["settings"]["encoders"], then["settings"]["project"]) == ("compare", others, True)
    assert [first["id"], heat["id"], then["id"]] == result["runs"]


def test_the_app_starts_the_demo_once(workspace, small):
    first = start_demo(workspace)
    assert start_demo(workspace) == first  # a second start joins
    demo(DemoSettings(), workspace, Progress())
    assert start_demo(workspace) is None


def test_the_demo_again_computes_nothing(workspace, small):
    demo(DemoSettings(), workspace, Progress())
    assert demo(DemoSettings(), workspace, Progress())["embed"]["computed"] == 0


def test_rendering_here_is_compared_with_what_is_shipped(workspace, small):
    result = demo(DemoSettings(render=True), workspace, Progress())
    assert result["differing_rows"] == 0
    assert (workspace.dataset("demo") / "rendered" / "test.parquet").exists()
    (small / "test.parquet").write_bytes((small / "train.parquet").read_bytes())
    said = []
    progress = Progress()
    progress.warn = said.append
    assert demo(DemoSettings(render=True), workspace, progress)["differing_rows"] == 40
    assert "40 rendered rows are not equal to the shipped ones" in said[0]


def test_an_unknown_demo_encoder_is_named(workspace, small):
    with pytest.raises(NotFound, match=r'"simklr-demo". Did you mean "simclr-demo"'):
        demo(DemoSettings(encoder="simklr-demo"), workspace, Progress())


def test_stale_scores_of_the_demo_are_made_again(workspace, small):
    demo(DemoSettings(), workspace, Progress())
    next((workspace.dataset("demo") / "images").rglob("*.webp")).unlink()
    datasets.refresh(workspace, "demo")
    assert start_demo(workspace) is not None


def test_somebody_elses_data_set_of_that_name_is_left_alone(workspace, small, tmp_path):
    from tests.inputs import folder

    datasets.add_folder(workspace, "demo", folder(tmp_path / "mine", {"train/a": 2}))
    with pytest.raises(InputError, match="another data set"):
        demo(DemoSettings(), workspace, Progress())
    assert not (workspace.dataset("demo") / "images").exists()
