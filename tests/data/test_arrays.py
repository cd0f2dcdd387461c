"""Each kind of file as its own library writes it."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal

from sslviz.data import dataset as datasets
from sslviz.data.arrays import read_arrays
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
    torch.save({"features": torch.tensor(H).requires_grad_(), "ids": IDS, "labels": LABELS, "splits": SPLITS, "epoch": 7}, path)


def frame():
    return pd.DataFrame({"sample_id": IDS, "label": pd.Categorical(LABELS), "split": SPLITS}, index=np.arange(5, 17))


def parquet_of_lists(path):
    frame().assign(embedding=list(H)).to_parquet(path)


def parquet_of_columns(path):
    pd.concat([frame(), pd.DataFrame(H, columns=[f"f{j}" for j in range(9)], index=frame().index)], axis=1).to_parquet(path)


def hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=H, compression="gzip")
        for name, values in (("ids", IDS), ("labels", LABELS), ("splits", SPLITS)):
            file[name] = values
        file.create_group("more")["X"] = H * 2


WRITERS = {"h.npz": npz, "h.pt": pt, "lists.parquet": parquet_of_lists, "columns.parquet": parquet_of_columns, "h.h5": hdf5}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_data_set(workspace, tmp_path, name):
    WRITERS[name](tmp_path / name)
    import_arrays(ImportSettings(file=str(tmp_path / name), dataset="rows", encoder="e"), workspace, Progress())
    samples = datasets.load(workspace, "rows").samples
    assert samples["sample_id"].tolist() == IDS
    assert samples["label_name"].tolist() == LABELS
    assert samples["split"].tolist() == SPLITS
    store = EmbeddingStore(workspace.embeddings("rows", "e"))
    rows = store.rows().set_index("sample_id").loc[IDS, "row"]
    assert_array_equal(store.read(rows.to_numpy()), H)


def test_a_tensor_alone_also_of_half_precision(tmp_path):
    torch.save(torch.tensor(H).bfloat16(), tmp_path / "h.pt")
    assert_array_equal(read_arrays(tmp_path / "h.pt")["h"], torch.tensor(H).bfloat16().float().numpy())


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
        with pytest.raises(Untrusted, match="holds Python objects"):
            read_arrays(tmp_path / name)


def test_no_file_reads_another(tmp_path):
    H.tofile(tmp_path / "secret.bin")
    hdf5(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["h"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "X")
        file["H"] = h5py.SoftLink("/h")
    assert read_arrays(tmp_path / "h.h5") == {}
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file.create_dataset("h", H.shape, H.dtype, external=[(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(Untrusted, match='"h": its numbers lie in another file'):
        read_arrays(tmp_path / "h.h5")
    layout = h5py.VirtualLayout(H.shape, H.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "X", H.shape)
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file.create_virtual_dataset("h", layout)
    with pytest.raises(Untrusted, match='"h": its numbers lie in another file'):
        read_arrays(tmp_path / "h.h5")


@pytest.mark.parametrize("lists", [[[1.0, 2.0], [3.0]], [[1.0, 2.0], None]])
def test_lists_of_unequal_length_are_no_matrix(tmp_path, lists):
    pd.DataFrame({"h": lists}).to_parquet(tmp_path / "h.parquet")
    with pytest.raises(InputError, match='column "h": lists are missing or of unequal length'):
        read_arrays(tmp_path / "h.parquet")


def test_what_is_no_such_file_is_said(tmp_path):
    (tmp_path / "h.npy").write_text("1 2 3")
    with pytest.raises(InputError, match=r"is no \.npy, \.npz, \.pt, Parquet or HDF5 file"):
        read_arrays(tmp_path / "h.npy")
    with pytest.raises(NotFound):
        read_arrays(tmp_path / "none.npy")
