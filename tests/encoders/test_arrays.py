"""Each kind of file as its own library writes it."""

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_array_equal

from sslviz.data import dataset as datasets
from sslviz.encoders.arrays import read_arrays, read_column
from sslviz.errors import InputError, NotFound, Untrusted
from sslviz.jobs.import_arrays import ImportSettings, import_arrays
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore

H = np.random.default_rng(0).random((12, 9)).astype(np.float32)
IDS = [f"s{i:02d}" for i in range(12)]
LABELS = ["cat", "dog", "cat"] * 4
SPLITS = ["train"] * 8 + ["test"] * 4


def npz(path):
    np.savez(path, embeddings=H, ids=np.array(IDS), labels=np.array(LABELS), splits=np.array(SPLITS))


def pt(path):
    more = {"history": [[1, 2], [3]], "sparse": 7, "epoch": 7}
    beside = {"ids": tuple(IDS), "labels": LABELS, "splits": np.array(SPLITS)}
    torch.save({"features": torch.tensor(H).requires_grad_(), **beside, **more}, path)


def frame():
    return pd.DataFrame({"sample_id": IDS, "label": pd.Categorical(LABELS), "split": SPLITS}, index=np.arange(5, 17))


def parquet_of_lists(path):
    frame().assign(embedding=list(H), tags=[["a"]] * 11 + [[]], width=640).to_parquet(path)


def parquet_of_vectors(path):
    frame().assign(vector=list(H), width=640).to_parquet(path)


def parquet_of_tensors(path):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(H)
    beside = {"id": pa.array(IDS, pa.large_string()), "label": LABELS, "split": [s.encode() for s in SPLITS]}
    pq.write_table(pa.table({**beside, "h": column}), path, row_group_size=5)


def parquet_of_columns(path):
    wide = pd.DataFrame(H, columns=[*"XYZ", *(f"f{j}" for j in range(6))], index=frame().index)
    pd.concat([frame(), wide], axis=1).rename_axis("row").to_parquet(path)


def hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=H, compression="gzip")
        file["ids"], file["splits"] = IDS, SPLITS
        kinds = h5py.enum_dtype({"cat": 3, "dog": 1})
        file.create_dataset("labels", data=[{"cat": 3, "dog": 1}[name] for name in LABELS], dtype=kinds)
        file.create_group("more")["X"] = H * 2
        file["note"] = h5py.Empty("f4")


def hdf5_with_a_block_of_its_own(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["h"] = H
        file["ids"], file["label"], file["split"] = IDS, LABELS, np.array([s.encode() for s in SPLITS])


WRITERS = {
    "h.npz": npz,
    "h.pt": pt,
    "lists.parquet": parquet_of_lists,
    "vectors.parquet": parquet_of_vectors,
    "tensors.parquet": parquet_of_tensors,
    "columns.parquet": parquet_of_columns,
    "h.h5": hdf5,
    "h.mat": hdf5_with_a_block_of_its_own,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_data_set(workspace, tmp_path, name):
    WRITERS[name](tmp_path / name)
    result = import_arrays(ImportSettings(file=str(tmp_path / name), dataset="rows", encoder="e"), workspace, Progress())
    said = {
        "vectors.parquet": ['column "vector" is taken as the embeddings'],
        "columns.parquet": ["the 9 columns of numbers (X, Y, Z, f0, f1, … (9 in all)) are taken as the embeddings"],
    }
    assert result["notes"] == said.get(name, [])
    samples = datasets.load(workspace, "rows").samples
    assert samples["sample_id"].tolist() == IDS
    assert samples["label_name"].tolist() == LABELS
    assert samples["split"].tolist() == SPLITS
    store = EmbeddingStore(workspace.embeddings("rows", "e"))
    rows = store.rows().set_index("sample_id").loc[IDS, "row"]
    assert_array_equal(store.read(rows.to_numpy()), H)


def test_a_tensor_alone_also_of_half_precision(tmp_path):
    torch.save(torch.tensor(H).bfloat16(), tmp_path / "h.pt")
    assert_array_equal(read_arrays(tmp_path / "h.pt").H, torch.tensor(H).bfloat16().float().numpy())


def test_what_the_settings_name_wins_over_the_file(workspace, tmp_path):
    npz(tmp_path / "h.npz")
    np.save(tmp_path / "y.npy", np.arange(12)[:, None] % 3)
    settings = ImportSettings(file=str(tmp_path / "h.npz"), labels=str(tmp_path / "y.npy"), dataset="rows", encoder="e")
    import_arrays(settings, workspace, Progress())
    assert datasets.load(workspace, "rows").samples["label"].tolist() == [0, 1, 2] * 4


def test_missing_labels_are_none_and_missing_ids_are_refused(workspace, tmp_path):
    labels = pd.array([1, None] * 6, dtype="Int64")
    pd.DataFrame({"h": list(H), "label": labels}).to_parquet(tmp_path / "h.parquet")
    import_arrays(ImportSettings(file=str(tmp_path / "h.parquet"), dataset="rows", encoder="e"), workspace, Progress())
    dataset = datasets.load(workspace, "rows")
    assert (dataset.classes, (dataset.samples["label"] >= 0).sum()) == (["1"], 6)
    for ids, words in ((labels, "ids are missing in some rows"), ([b"\xff%d" % i for i in range(12)], "no UTF-8 text")):
        pd.DataFrame({"h": list(H), "id": ids}).to_parquet(tmp_path / "i.parquet")
        with pytest.raises(InputError, match=words):
            import_arrays(ImportSettings(file=str(tmp_path / "i.parquet"), dataset="x", encoder="e"), workspace, Progress())


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_cut_off_is_said(tmp_path, name):
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match="is not a complete"):
        read_arrays(tmp_path / name)


class Runs:
    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"h": torch.ones(3, 9), "more": Runs()}, tmp_path / "h.pt")
    np.save(tmp_path / "h.npy", np.array([Runs()]), allow_pickle=True)
    for name in ("h.pt", "h.npy"):
        with pytest.raises(Untrusted, match="holds Python (objects|code)"):
            read_arrays(tmp_path / name)


def test_no_file_reads_another(tmp_path):
    H.tofile(tmp_path / "secret.bin")
    hdf5(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["h"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "X")
        file["H"] = h5py.SoftLink("/h")
    with pytest.raises(InputError, match="holds nothing; expected an array named"):
        read_arrays(tmp_path / "h.h5")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file.create_dataset("h", H.shape, H.dtype, external=[(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(Untrusted, match='"h": its values are gathered from elsewhere'):
        read_arrays(tmp_path / "h.h5")
    layout = h5py.VirtualLayout(H.shape, H.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "X", H.shape)
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file.create_virtual_dataset("h", layout)
    with pytest.raises(Untrusted, match='"h": its values are gathered from elsewhere'):
        read_arrays(tmp_path / "h.h5")


def test_a_text_in_a_file_is_no_path(workspace, tmp_path):
    (tmp_path / "secret.txt").write_text("\n".join(f"secret {i}" for i in range(12)))
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["h"], file["labels"] = H, str(tmp_path / "secret.txt")
    with pytest.raises(InputError, match=r"labels has shape \(\); expected one value a row"):
        import_arrays(ImportSettings(file=str(tmp_path / "h.h5"), dataset="rows", encoder="e"), workspace, Progress())


def test_nothing_larger_than_memory_is_read(tmp_path):
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file.create_dataset("h", (10**6, 10**6), "f4")  # not written: a few bytes
    torch.save({"h": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "h.pt")
    parquet_of_lists(tmp_path / "h.parquet")
    with pytest.raises(InputError, match="repeat fewer values"):
        read_arrays(tmp_path / "h.pt")
    np.savez_compressed(tmp_path / "h.npz", h=np.zeros((1000, 1000)))
    np.save(tmp_path / "h.npy", np.zeros((1000, 1000)))
    for name, most in (("h.h5", 1e9), ("h.npz", 7e6), ("h.npy", 7e6), ("h.parquet", 12 * 9 * 4 - 1)):
        with pytest.raises(InputError, match="the embeddings take"):
            read_arrays(tmp_path / name, most)
    assert read_arrays(tmp_path / "h.parquet", 12 * 9 * 4).H.shape == (12, 9)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"h": [[1.0, 2.0], [3.0]]}, 'column "h": lists are missing or of unequal length'),
        ({"h": [[1.0, 2.0], None]}, 'column "h": lists are missing or of unequal length'),
        ({"a": [[1.0]], "b": [[2.0]]}, r"several columns of lists \(a, b\)"),
        ({"a": ["x"], "b": [True]}, "no column of lists and none of numbers"),
        ({"h": pa.array([], pa.list_(pa.float32()))}, "has no rows"),
    ],
)
def test_tables_that_hold_no_matrix(tmp_path, columns, words):
    pq.write_table(pa.table(columns), tmp_path / "h.parquet")
    with pytest.raises(InputError, match=words):
        read_arrays(tmp_path / "h.parquet")


def test_lists_that_change_their_length_in_a_later_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("sslviz.encoders.arrays._PARQUET_ROWS", 2)
    pq.write_table(pa.table({"h": [[1.0, 2.0]] * 4 + [[3.0]] * 2}), tmp_path / "h.parquet")
    with pytest.raises(InputError, match="unequal length"):
        read_arrays(tmp_path / "h.parquet")


def test_what_is_no_such_file_is_said(tmp_path):
    (tmp_path / "h.npy").write_text("1 2 3")
    with pytest.raises(InputError, match=r"is no \.npy, \.npz, \.pt, Parquet or HDF5 file"):
        read_arrays(tmp_path / "h.npy")
    (tmp_path / "y.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="neither .npy nor text"):
        read_column(tmp_path / "y.txt")
    for read in (read_arrays, read_column):
        with pytest.raises(NotFound):
            read(tmp_path / "none.npy")


def test_rows_in_any_order_stay_with_their_ids(workspace, tmp_path):
    order = np.random.default_rng(1).permutation(12)
    np.savez(tmp_path / "h.npz", h=H[order], ids=np.array(IDS)[order], labels=np.array(LABELS)[order])
    import_arrays(ImportSettings(file=str(tmp_path / "h.npz"), dataset="rows", encoder="e"), workspace, Progress())
    store = EmbeddingStore(workspace.embeddings("rows", "e"))
    assert_array_equal(store.read(store.rows().set_index("sample_id").loc[IDS, "row"].to_numpy()), H)
    assert datasets.load(workspace, "rows").samples["label_name"].tolist() == LABELS
