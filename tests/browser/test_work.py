"""The paths a user takes to have something computed, in Chromium against the real server."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from sslviz.data import dataset as datasets
from sslviz.jobs import runner
from sslviz.jobs.analyze import AnalyzeSettings, analyze
from sslviz.jobs.compare import judged
from sslviz.jobs.compress import CompressSettings, compress
from sslviz.jobs.pretrain import PretrainSettings, pretrain
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.files import read_table
from sslviz.store.results import latest_result
from tests.browser.watching import SSLVIZ, metric, settled, thumbs_are_drawn
from tests.inputs import folder, small_encoder
from tests.jobs.test_finetune import PRETRAINED, InFolder


@contextmanager
def held(workspace, run_id):
    """A run's process stands still: it must not come to its end while a page that is slow on a busy machine is looked at."""
    pid = runner.read_run(workspace, run_id)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_embed_cancel_reload_resume_to_the_first_chart(serve, page, workspace, tmp_path):
    layout = {f"{s}/{c}": n for s, n in (("train", 240), ("val", 60)) for c in ("disc", "ring")}
    datasets.add_folder(workspace, "many", folder(tmp_path / "many", layout, side=24))
    small_encoder(workspace, "slow", width=64, size=48)
    app = serve()
    page.goto(app.url("?dataset=many&encoder=slow"))
    page.get_by_role("button", name="Embed", exact=True).click()
    store = EmbeddingStore(workspace.embeddings("many", "slow"))
    while not ((runs := runner.list_runs(workspace)) and runs[0]["done"] and store.done()):
        page.wait_for_timeout(50)
    (run,) = runs
    with held(workspace, run["id"]):
        page.get_by_text(re.compile(r"embedding · [1-9]\d* of 600")).wait_for()
        page.reload()  # a lost session: the run goes on and is found again
        page.get_by_text(re.compile(r"embedding · [1-9]\d* of 600")).wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Stopping …").wait_for()
    page.get_by_text(re.compile("embed cancelled")).wait_for()
    kept = len(store.done())
    assert kept >= 1
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("Embeddings: fresh").wait_for(timeout=180_000)
    (run,) = runner.list_runs(workspace)
    assert run["result"]["kept"] >= kept * 256
    settled(page)
    page.get_by_role("button", name="Score", exact=True).click()
    page.get_by_role("heading", name="The ten lowest Q-Scores").wait_for(timeout=180_000)
    page.get_by_role("link", name="Scores", exact=True).click()
    page.get_by_role("tab", name="Charts").click()
    page.locator(".js-plotly-plot .bars").first.wait_for()
    page.get_by_role("link", name="Overview").click()
    said = subprocess.run(
        [*SSLVIZ, "runs", "show", runner.list_runs(workspace)[0]["id"], "--json"], capture_output=True, text=True, check=True
    )
    report = json.loads(said.stdout)["result"]["reports"]["q"]
    assert metric(page, "AUROC of Q") == f"{100 * report['auroc']:.1f} %"


def test_the_form_takes_a_folder_and_a_checkpoint(serve, page, workspace, tmp_path):
    folder(tmp_path / "my photos", {f"{s}/{c}": 6 for s in ("train", "val") for c in ("disc", "ring")})
    small_encoder(workspace, "made")
    (workspace.encoder("made") / "weights.safetensors").rename(tmp_path / "own.safetensors")
    (workspace.encoder("made") / "encoder.json").unlink()
    app = serve()
    page.goto(app.url("data"))
    page.get_by_label("Folder of images").fill(str(tmp_path / "my photos"))
    page.get_by_label("Checkpoint file").fill(str(tmp_path / "own.safetensors"))
    page.get_by_label("Checkpoint file").press("Enter")
    page.get_by_role("button", name="Inspect the checkpoint").click()
    page.get_by_test_id("stAlertContentSuccess").get_by_text("small ResNet, width 8, 32 features").wait_for()
    page.get_by_role("button", name="Analyze").click()
    page.get_by_role("heading", name="The ten lowest Q-Scores").wait_for(timeout=180_000)
    thumbs_are_drawn(page, 10)
    assert workspace.datasets() == ["my-photos"]
    assert page.get_by_label("Data set").input_value() == "my-photos"


def test_the_server_never_opens_the_gpu(workspace, photos):
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        f"test = AppTest.from_file({str(Path(__file__).parents[2] / 'app.py')!r}, default_timeout=60).run()\n"
        "assert not test.exception\n"
        "import sslviz.ui.server, sslviz.ui.pictures\n"
        "torch = sys.modules.get('torch')\n"
        "print('cuda', bool(torch and torch.cuda.is_initialized()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cuda", "False"]


def test_a_curve_is_read_and_a_compressed_encoder_taken_away(serve, page, workspace, scored, tmp_path):
    result = compress(CompressSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    table = latest_result(workspace.results("photos", "tiny", "compress")).table("curve")
    app = serve()
    page.goto(app.url("compression?dataset=photos&encoder=tiny"))
    page.wait_for_function("document.querySelector('.js-plotly-plot')?._fullData?.length > 4")
    assert metric(page, "Full width") == f"{100 * result['top1']:.1f} %"
    drawn = page.evaluate(
        "document.querySelector('.js-plotly-plot')._fullData.filter(t => t.name === 'lower tail').map(t => [[...t.x], [...t.y]])"
    )
    lower = table[table["kind"] == "lower tail"].sort_values("reduction")
    full = table.loc[table["kind"] == "full", "top1"].item()
    x, y = drawn[-1]
    assert x == pytest.approx([0, *(100 * lower["reduction"])])
    assert y == pytest.approx([100 * full, *(100 * lower["top1"])])

    place = page.locator(".js-plotly-plot").first.evaluate(
        """g => { const t = g._fullData.findLast(t => t.name === 'lower tail'), l = g._fullLayout, r = g.getBoundingClientRect();
        return [r.x + l.xaxis._offset + l.xaxis.d2p(t.x[5]), r.y + l.yaxis._offset + l.yaxis.d2p(t.y[5])]; }"""
    )
    page.mouse.move(place[0] - 30, place[1])
    page.mouse.move(*place, steps=8)
    features = int(lower["n_features"].iloc[4])
    page.wait_for_function(
        "n => document.querySelector('.js-plotly-plot .hoverlayer')?.textContent.includes(n + ' features')", arg=features
    )

    page.get_by_role("button", name="Make the compressed encoder").click()
    page.get_by_text("its last stage cut to", exact=False).first.wait_for()
    name = "tiny-discriminative-40"
    kept = [int(line.split(",")[0]) for line in (workspace.encoder(name) / "features.csv").read_text().splitlines()[1:]]
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the features (CSV)").click()
    saved = Path(download.value.path()).read_text().splitlines()
    assert [int(line.split(",")[0]) for line in saved[1:]] == kept
    page.get_by_role("link", name="Analyze it").click()
    page.get_by_role("heading", name="Overview", exact=True).wait_for()
    expect(page.get_by_label("Encoder")).to_have_value(name, timeout=60_000)


def test_fine_tuning_is_launched_watched_stopped_resumed_and_compared(serve, page, workspace, tmp_path):
    """From the form to before and after; the page survives a reload, and its numbers are those of the job."""
    layout = {f"{s}/{c}": n for s, n in (("train", 40), ("test", 30)) for c in ("disc", "ring")}
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", layout, side=16))
    pretrain(PretrainSettings(**PRETRAINED), workspace, InFolder(tmp_path / "pretrained"))
    analyze(AnalyzeSettings(dataset="pets", encoder="small"), workspace, Progress())
    app = serve()
    page.goto(app.url("finetune?dataset=pets&encoder=small"))
    page.get_by_label("Epochs", exact=True).fill("30")
    page.get_by_label("Epochs", exact=True).press("Enter")
    page.get_by_text("--epochs 30").wait_for()
    page.get_by_text("More settings").click()
    page.get_by_label("Batch size", exact=True).fill("40")
    page.get_by_label("Batch size", exact=True).press("Enter")
    page.get_by_text("--batch-size 40").wait_for()
    page.get_by_role("button", name="Fine-tune", exact=True).click()
    curve = "[aria-label='own self-supervised loss, by epoch'], [alt='own self-supervised loss, by epoch']"
    page.get_by_role("button", name="Cancel").wait_for()
    (run,) = runner.list_runs(workspace)
    metrics = workspace.run(run["id"]) / "control-s0" / "metrics.parquet"
    points = ".js-plotly-plot .points path"
    before = 1
    for _ in range(2):  # it moves
        seen = len(read_table(metrics)) if metrics.exists() else 0
        while not metrics.exists() or len(read_table(metrics)) == seen:
            page.wait_for_timeout(50)
        with held(workspace, run["id"]):
            page.locator(curve).first.wait_for()
            page.wait_for_function("([s, n]) => document.querySelectorAll(s).length > n", arg=[points, before])
            before = page.locator(points).count()
    with held(workspace, run["id"]):
        page.reload()
        page.locator(curve).first.wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Stopping …").wait_for()
    page.get_by_text("finetune cancelled").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Cancel").wait_for()
    page.get_by_role("heading", name="Before and after, on the same images").wait_for(timeout=300_000)

    summary = latest_result(workspace.results("pets", "small", "finetune")).content["summary"]
    said = subprocess.run(
        [*SSLVIZ, "runs", "show", runner.list_runs(workspace)[0]["id"], "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout)["result"]["arms"] == summary["arms"]
    page.get_by_text(summary["verdict"]).wait_for()
    assert [row["encoder"] for row in summary["arms"]] == ["small", "small-control-s0", "small-both-s0"]
    assert {"small-control-s0", "small-both-s0"} < set(workspace.encoders())
    still_wrong = sum(
        not a and not b
        for a, b in zip(
            *(
                judged(workspace, datasets.load(workspace, "pets"), name)["correct"].sort_index().tolist()
                for name in ("small", "small-both-s0")
            ),
            strict=True,
        )
    )
    page.get_by_text("still wrong", exact=True).click()
    page.get_by_text(f"{still_wrong} of 60 images: wrong before and after both, seed 0").wait_for()
    thumbs_are_drawn(page, 1)
