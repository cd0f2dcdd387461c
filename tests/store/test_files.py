import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sslviz.errors import Busy, InputError, NotFound
from sslviz.store import results
from sslviz.store.files import is_held, only_writer, read_json, read_table, whole_file, write_json
from sslviz.store.fingerprints import fingerprint
from sslviz.store.results import latest_result, save_result
from sslviz.store.workspace import Workspace, check_name, name_from_path


def test_a_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "a" / "x.json"
    write_json(target, {"v": 1})
    with pytest.raises(ZeroDivisionError), whole_file(target) as beside:
        beside.write_text(f"half {1 / 0}")
    assert read_json(target) == {"v": 1}
    assert [p.name for p in target.parent.iterdir()] == ["x.json"]


def test_damaged_files_of_ours_are_named(tmp_path):
    (tmp_path / "x.json").write_text("{half")
    with pytest.raises(InputError, match="x.json is damaged"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="x.parquet is damaged"):
        read_table(tmp_path / "x.parquet")


def test_one_writer_at_a_time_and_the_second_hears_who(tmp_path):
    with only_writer(tmp_path / "target", "the target", "run abc"):
        assert is_held(tmp_path / ".target.lock")
        with (
            pytest.raises(Busy, match="the target is being written by run abc, process"),
            only_writer(tmp_path / "target", "the target"),
        ):
            pass
    with only_writer(tmp_path / "target", "the target"):
        pass


def test_a_dead_holders_lock_is_taken_over(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from sslviz.store.files import only_writer\n"
        "with only_writer(Path(sys.argv[1]), 'it', 'the dead'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=False)
    assert "the dead" in (tmp_path / ".t.lock").read_text()
    with only_writer(tmp_path / "t", "it"):
        pass


def test_fingerprints_follow_content_and_not_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a" * 81, "x\ny", "-x"])
def test_names_stay_inside_the_workspace(name, workspace):
    with pytest.raises(InputError, match="cannot be used"):
        check_name("data set", name)
    for place in (workspace.dataset, workspace.encoder, workspace.run):
        with pytest.raises(InputError):
            place(name)


def test_names_from_paths(tmp_path):
    (tmp_path / "moco_v2.pth.tar").write_text("")
    (tmp_path / "日本 x").mkdir()
    assert name_from_path(tmp_path / "moco_v2.pth.tar") == "moco_v2"
    assert name_from_path(tmp_path / "my photos") == "my-photos"
    names = [name_from_path(tmp_path / odd) for odd in ("日本", "한국", "日本 x", "한국 x", "~~~")]
    assert len(set(names)) == 5  # letters that cannot stand in a name still tell folders apart
    for name in names:
        assert check_name("data set", name) == name


def test_a_newer_workspace_is_not_touched(tmp_path):
    (tmp_path / "workspace.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="made by a newer sslviz"):
        Workspace(tmp_path)


def test_a_workspace_that_cannot_be_written():
    with pytest.raises(InputError, match="cannot be written"):
        Workspace("/proc/sslviz").create()


def test_unknown_names_list_the_nearest(workspace):
    workspace.encoder("simclr").mkdir(parents=True)
    (workspace.encoder("simclr") / "encoder.json").write_text("{}")
    with pytest.raises(NotFound, match='unknown encoder "simclt". Did you mean "simclr"'):
        workspace.existing_encoder("simclt")


def test_results_are_keyed_by_settings_and_inputs(tmp_path):
    table = pd.DataFrame({"x": [1]})
    first = save_result(tmp_path, {"eps": 1}, {"embeddings": "a"}, {"t": table}, {})
    second = save_result(tmp_path, {"eps": 2}, {"embeddings": "a"}, {"t": table}, {})
    other_input = save_result(tmp_path, {"eps": 2}, {"embeddings": "b"}, {"t": table}, {})
    assert len({first.key, second.key, other_input.key}) == 3
    assert (first.folder / "result.json").exists()
    assert latest_result(tmp_path).key == other_input.key
    assert latest_result(tmp_path / "none") is None
    write_json(other_input.folder / "result.json", {**other_input.content, "format": 0})
    assert latest_result(tmp_path) is None  # another version's result is made again, not misread
    (tmp_path / "latest.json").write_text('{"current": "../../etc"}')
    assert latest_result(tmp_path) is None


def test_tables_that_are_not_made_again_go(tmp_path):
    table = pd.DataFrame({"x": [1]})
    save_result(tmp_path, {}, {"embeddings": "a"}, {"scores": table, "neighbours": table}, {})
    again = save_result(tmp_path, {}, {"embeddings": "b"}, {"scores": table}, {})
    assert [path.name for path in again.folder.glob("*.parquet")] == ["scores.parquet"]


def test_arrays_are_there_before_a_result_is_the_latest(tmp_path, monkeypatch):
    there, write = [], results.write_json
    monkeypatch.setattr(results, "write_json", lambda path, content: there.append(weights.exists()) or write(path, content))
    weights = tmp_path / fingerprint({}) / "weights.npz"
    made = save_result(tmp_path, {}, {}, {}, {}, {"weights": {"bias": np.arange(3)}})
    assert there == [True, True]
    assert np.load(made.folder / "weights.npz")["bias"].tolist() == [0, 1, 2]
