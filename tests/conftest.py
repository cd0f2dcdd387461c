import os

import pytest

if "gpu" not in os.environ.get("PYTEST_ADDOPTS", ""):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # make gpu lets the tests see one
# The machine's cores are shared out by pytest-xdist. UMAP's numba would raise torch's own number of threads to its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from sslviz.store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_WORKSPACE", str(tmp_path / "workspace"))
    return Workspace().create()
