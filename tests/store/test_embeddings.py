import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslviz.errors import InputError, NotFound, Stale
from sslviz.store.embeddings import EmbeddingStore

WIDTH = 8


def samples(ids, size=1):
    return pd.DataFrame({"sample_id": ids, "size": size, "mtime_ns": 1})


def vector(sample_id, size=1):
    return np.random.default_rng([ord(c) for c in sample_id] + [size]).normal(size=WIDTH).astype(np.float32)


def fill(store, table, bad=(), only=None, chunk_rows=4, depends="e"):
    """Do what the embed job does, with vectors that follow from the ids; returns the ids computed."""
    plan = store.begin({"encoder": depends}, WIDTH, "float32", chunk_rows, table)
    computed = []
    for chunk, rows in plan.groupby("chunk"):
        if not rows["todo"].any() or (only is not None and chunk not in only):
            continue
        start = int(chunk) * chunk_rows
        values = np.full((rows["row"].max() - start + 1, WIDTH), np.nan, np.float32)
        for sample_id, row, size in rows[["sample_id", "row", "size"]].itertuples(index=False):
            if sample_id not in bad:
                values[row - start] = vector(sample_id, size)
        computed += rows.loc[rows["todo"], "sample_id"].tolist()
        part = rows[["sample_id", "row", "size", "mtime_ns"]].assign(sha256="s", width=1, height=1, error="", remark="")
        part.loc[part["sample_id"].isin(bad), "error"] = "damaged"
        store.write_chunk(int(chunk), values, part)
    if only is None:
        store.finish()
    return computed


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "set" / "enc")


def check(store, table, bad=()):
    rows = store.rows()
    assert set(rows["sample_id"]) == set(table["sample_id"]) - set(bad)
    sizes = table.set_index("sample_id")["size"]
    expected = np.array([vector(s, sizes[s]) for s in rows["sample_id"]])
    np.testing.assert_array_equal(store.read(rows["row"].to_numpy()), expected)


def test_rows_come_back_by_id_and_bad_files_are_absent(store):
    table = samples([f"s{i}" for i in range(10)])
    fill(store, table, bad=("s3", "s9"))
    check(store, table, bad=("s3", "s9"))
    assert pd.read_parquet(store.folder / "bad.parquet")["sample_id"].tolist() == ["s3", "s9"]


def test_a_stopped_run_goes_on_with_the_next_chunk(store):
    table = samples([f"s{i}" for i in range(10)])
    fill(store, table, only={0, 1})
    with pytest.raises(Stale, match="are not complete"):
        store.rows()
    assert fill(store, table) == ["s8", "s9"]
    check(store, table)
    assert fill(store, table) == []


@settings(max_examples=30, deadline=None)
@example(edits=[("drop", 6)])
@example(edits=[("drop", 3), ("change", 1)])
@given(edits=st.lists(st.tuples(st.sampled_from(["add", "drop", "change"]), st.integers(0, 20)), max_size=6))
def test_any_edit_recomputes_only_what_changed(tmp_path_factory, edits):
    store = EmbeddingStore(tmp_path_factory.mktemp("w") / "set" / "enc")
    now = {f"s{i}": 1 for i in range(7)}
    fill(store, samples(list(now)))
    for step, (edit, i) in enumerate(edits):
        before = dict(now)
        name = f"s{i}" if edit != "add" else f"n{step}"
        if edit == "drop" and len(now) > 1:
            now.pop(name, None)
        elif edit == "add" or name in now:
            now[name] = now.get(name, 0) + 1
        table = samples(list(now), list(now.values()))
        assert set(fill(store, table)) == {k for k in now if before.get(k) != now[k]}
        check(store, table)


def test_another_encoder_or_precision_starts_anew(store):
    table = samples(["a", "b"])
    fill(store, table)
    assert fill(store, table, depends="other") == ["a", "b"]


def test_a_lost_chunk_is_named_and_only_it_is_computed(store):
    table = samples([f"s{i}" for i in range(10)])
    fill(store, table)
    (store.folder / "embeddings.zarr" / "c" / "1" / "0").unlink()
    with pytest.raises(InputError, match=r'chunk 1 is missing: 4 rows \(4 to 7, from sample "s4"\).*sslviz embed'):
        store.read(store.rows()["row"].to_numpy())
    assert fill(store, table) == ["s4", "s5", "s6", "s7"]
    check(store, table)


def test_changed_bytes_and_foreign_files(store):
    table = samples([f"s{i}" for i in range(10)])
    fill(store, table)
    chunk = store.folder / "embeddings.zarr" / "c" / "0" / "0"
    (chunk.parent / "0.partial").write_bytes(b"half")
    check(store, table)
    whole = chunk.read_bytes()
    shutil.copy(store.folder / "embeddings.zarr" / "c" / "1" / "0", chunk)
    with pytest.raises(InputError, match="chunk 0 is not what was written"):
        store.read(np.arange(4))
    assert store.damaged_chunks() == [0]
    chunk.write_bytes(whole[:20])
    with pytest.raises(InputError, match="chunk 0"):
        store.read(np.arange(4))


def test_a_run_that_dies_while_rewriting_a_chunk_leaves_it_undone(store, monkeypatch):
    table = samples([f"s{i}" for i in range(4)])
    fill(store, table)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sslviz.store.embeddings.write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        store.write_chunk(0, np.zeros((4, WIDTH), np.float32), store.part(0))
    monkeypatch.undo()
    assert fill(store, table) == ["s0", "s1", "s2", "s3"]
    check(store, table)


def test_lost_metadata_does_not_lose_the_chunks(store):
    table = samples([f"s{i}" for i in range(10)])
    fill(store, table)
    (store.folder / "embeddings.zarr" / "zarr.json").unlink()
    with pytest.raises(InputError, match="cannot be opened"):
        store.read(np.arange(2))
    assert fill(store, table) == []
    check(store, table)


def test_a_chunk_of_zeros_is_done_and_told_from_a_lost_one(store):
    table = samples([f"s{i}" for i in range(4)])
    plan = store.begin({"encoder": "e"}, WIDTH, "float32", 4, table)
    part = plan[["sample_id", "row", "size", "mtime_ns"]].assign(sha256="s", width=1, height=1, error="", remark="")
    store.write_chunk(0, np.zeros((4, WIDTH), np.float32), part)
    store.finish()
    assert not store.begin({"encoder": "e"}, WIDTH, "float32", 4, table)["todo"].any()
    store.finish()
    np.testing.assert_array_equal(store.read(np.arange(4)), np.zeros((4, WIDTH)))


def test_a_chunk_whose_files_are_all_bad_is_done(store):
    table = samples([f"s{i}" for i in range(6)])
    bad = ("s0", "s1", "s2", "s3")
    fill(store, table, bad=bad)
    check(store, table, bad)
    assert fill(store, table, bad=bad) == []


def test_nothing_embedded_says_what_to_type(store):
    with pytest.raises(NotFound, match="no embeddings of set by enc yet. Compute them: sslviz embed --dataset set --encoder enc"):
        store.rows()


def test_a_chunk_is_a_twentieth_of_the_images_between_256_rows_and_sixteen_megabytes(store):
    """What a stopped run loses is one chunk."""
    for n, width, expected in ((400, 8, 256), (10_240, 8, 512), (200_000, 2048, 2048)):
        ids = [f"{i:06}" for i in range(n)]
        plan = store.begin({"encoder": str(n)}, width, "float32", None, samples(ids))
        assert plan["chunk"].value_counts().max() == min(n, expected)
