from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from sslviz.data import dataset as datasets
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace
from tests.inputs import folder, small_encoder

APP = str(Path(__file__).parents[2] / "app.py")


@pytest.fixture
def app(workspace, tmp_path_factory, monkeypatch):
    """The app on this test's workspace: app() is the overview, app(page, **query) another page."""

    empty = tmp_path_factory.getbasetemp() / "empty"

    def start(page=None, **query):
        st.cache_data.clear()
        st.cache_resource.clear()
        test = AppTest.from_file(APP, default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        if page is None:
            test.run()
        else:
            with monkeypatch.context() as elsewhere:  # AppTest begins on the overview, here that of an empty workspace
                elsewhere.setenv("SSLVIZ_WORKSPACE", str(empty))
                test.run()
            test.switch_page(f"pages/{page}.py")
            for _ in range(2):  # AppTest runs a switched-to page without app.py: the first run makes the frame,
                for key, value in query.items():  # and from the second on its widgets are the same ones
                    test.query_params[key] = value
                test.run()
        assert not test.exception
        return test

    return start


@pytest.fixture
def photos(tmp_path, workspace):
    layout = {f"{s}/{c}": n for s, n in (("train", 10), ("val", 6)) for c in ("disc", "ring")}
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", layout))
    small_encoder(workspace)
    return tmp_path / "photos"


@pytest.fixture
def scored(workspace, photos):
    embed(EmbedSettings(dataset="photos", encoder="tiny"), Workspace(), Progress())
    return score(ScoreSettings(dataset="photos", encoder="tiny"), Workspace(), Progress())


def text(test):
    """Everything a person reads on the page."""
    parts = [*test.title, *test.subheader, *test.markdown, *test.caption, *test.info, *test.warning, *test.error, *test.success]
    return "\n".join(str(part.value) for part in parts)
