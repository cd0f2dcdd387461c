"""The real server and a real Chromium. `CI=true` never skips; elsewhere a missing browser skips with the way to get one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest
from playwright.sync_api import sync_playwright

from sslviz.data import dataset as datasets
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace
from tests.inputs import folder, small_encoder

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium; make test installs it")
        pytest.skip("no Chromium here; make test installs it, or: apt-get install chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        arguments = [*ARGUMENTS, f"--crash-dumps-dir={profile}"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class App:
    """A running `sslviz app`."""

    def __init__(self, workspace, root):
        self.workspace, self.root = workspace, root
        self.start()

    def start(self, port=None):
        command = [sys.executable, "-c", "from sslviz.cli import main; main()", "app", "--workspace", str(self.workspace.root)]
        command += ["--root", str(self.root)] + (["--port", str(port)] if port else [])
        inside = {**os.environ, "SLURM_NTASKS": "3"}  # an allocation of a cluster, of whose tasks the app is none
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, env=inside
        )
        self.log = []
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"(http://[^/]+)/\?token=(\S+)", line):
                self.base, self.token = found[1], found[2]
                return
        raise AssertionError("".join(self.log))

    def url(self, path=""):
        return f"{self.base}/{path}{'&' if '?' in path else '?'}token={self.token}"

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=60)
        return "".join(self.log) + rest


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A running app on scored pictures, for tests that only look: (app, what `score` said)."""
    root = tmp_path_factory.mktemp("gallery")
    workspace = Workspace(root / "workspace").create()
    scored = score_photos(workspace, root)
    small_encoder(workspace, "other", seed=1)
    app = App(workspace, root)
    yield app, scored
    app.process.kill()
    app.process.communicate()


@pytest.fixture
def serve(workspace, tmp_path):
    running = []

    def start():
        running.append(App(workspace, tmp_path))
        return running[-1]

    yield start
    for app in running:
        app.process.kill()
        app.process.communicate()


@pytest.fixture
def page(chromium):
    """A page in a fresh browser profile; a test fails when the page's scripts raise."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(120_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def photos(tmp_path, workspace):
    register_photos(workspace, tmp_path)


@pytest.fixture
def scored(workspace, tmp_path):
    return score_photos(workspace, tmp_path)


def register_photos(workspace, root):
    layout = {f"{s}/{c}": n for s, n in (("train", 12), ("val", 8)) for c in ("disc", "ring", "bars")}
    datasets.add_folder(workspace, "photos", folder(root / "photos", layout))
    small_encoder(workspace)


def score_photos(workspace, root):
    register_photos(workspace, root)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    return score(ScoreSettings(dataset="photos", encoder="tiny"), workspace, Progress())
