"""The paths a user takes through what is computed, in Chromium against the real server."""

import io
import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from scipy.ndimage import binary_dilation

from sslviz.data import dataset as datasets
from sslviz.data.images import fit
from sslviz.data.masks import load_masks
from sslviz.encoders.run import load_encoder
from sslviz.heatmaps import explain, finish
from sslviz.jobs.analyze import AnalyzeSettings, analyze
from sslviz.jobs.compare import judged
from sslviz.jobs.interpret import InterpretSettings, interpret
from sslviz.jobs.project import ProjectSettings, project
from sslviz.progress import Progress
from sslviz.store.files import read_json
from sslviz.store.results import latest_result
from sslviz.ui.overlays import OUTLINES, heat_rgba
from sslviz.ui.pictures import picture_file
from tests.browser.watching import SSLVIZ, canvas_pixel, choose, drawn, metric, row_of, settled, thumbs_are_drawn
from tests.inputs import demo_part, photographs, small_encoder

HEATED = (
    "[...document.querySelectorAll('*')].flatMap(e => e.shadowRoot ? [...e.shadowRoot.querySelectorAll('img')] : [])"
    ".filter(i => i.src.startsWith('data:image/png') && i.naturalWidth === 64).length >= 8"
)
"""Pictures of 64 px under heat, in a component of their own."""


def test_from_a_link_on_a_fresh_server_to_the_worst_image(serve, page, scored):
    app = serve()
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(app.url("scores?dataset=photos&encoder=tiny"))  # the first request this server ever sees
    page.get_by_role("heading", name="Scores", exact=True).wait_for()
    page.get_by_role("link", name="Overview").wait_for()
    thumbs_are_drawn(page, 20)
    page.goto(f"{app.base}/overview")
    page.get_by_role("heading", name="The ten lowest Q-Scores").wait_for()
    assert page.get_by_text("Page not found").count() == 0
    thumbs_are_drawn(page, 10)
    worst = scored["worst"][0]
    page.locator(f"button[data-id='{worst['sample_id']}']").click()
    page.get_by_role("heading", name="Sample", exact=True).wait_for()
    page.get_by_text(worst["sample_id"]).wait_for()
    assert metric(page, "Q-Score") == f"{worst['q']:.4f}"
    settled(page)
    assert page.title() == "Sample · sslviz"
    page.keyboard.press("ArrowRight")
    page.get_by_text(scored["worst"][1]["sample_id"]).wait_for()
    assert "sample=" in page.evaluate("location.href")
    page.reload()
    page.get_by_text(scored["worst"][1]["sample_id"]).wait_for()
    cards = page.locator("button[data-id^='train/']")  # nearest train images: the keys that turn pages move among them
    cards.nth(1).wait_for()
    settled(page)
    second = cards.nth(1).get_attribute("data-id")
    cards.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_text(second, exact=True).wait_for()
    assert hosts <= {urlsplit(app.base).netloc, ""}


def test_a_step_of_the_course_is_opened_by_its_address_and_handed_on(gallery, page):
    app, scored = gallery
    page.goto(app.url("learn?dataset=photos&encoder=tiny&step=3&picture=2"))
    page.get_by_role("heading", name="3. Features that tell pictures apart").wait_for()
    settled(page)
    page.get_by_role("button", name="Next: The Q-Score of a picture").click()
    page.get_by_role("heading", name="4. The Q-Score of a picture").wait_for()
    settled(page)
    assert "step=4" in page.evaluate("location.href")
    lowest = scored["worst"][0]
    page.locator(".st-key-learn-picture button").first.click()
    page.get_by_text(lowest["sample_id"]).wait_for()
    assert metric(page, "Q-Score: the mean of the last column") == f"{lowest['q']:.4f}"
    page.reload()
    page.get_by_text(lowest["sample_id"]).wait_for()


def test_the_grid_works_by_keyboard(gallery, page):
    app, scored = gallery
    page.goto(app.url("scores?dataset=photos&encoder=tiny"))
    thumbs_are_drawn(page, 20)
    first, second = scored["worst"][0]["sample_id"], scored["worst"][1]["sample_id"]
    settled(page)
    page.locator(f"button[data-id='{first}']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Sample", exact=True).wait_for()
    page.get_by_text(second).wait_for()


def test_two_tabs_have_choices_of_their_own(gallery, chromium):
    app, _ = gallery
    context = chromium.new_context()
    first, second = context.new_page(), context.new_page()
    first.goto(app.url("?encoder=tiny"))
    second.goto(app.url("?encoder=other"))
    first.get_by_role("heading", name="The ten lowest Q-Scores").wait_for()
    second.get_by_text("no Q-Scores yet").wait_for()
    first.get_by_role("link", name="Scores", exact=True).click()
    first.get_by_role("tab", name="Images").wait_for()
    context.close()


def test_only_the_token_opens_the_door(gallery):
    app, _ = gallery

    def status(path, **headers):
        try:
            request = urllib.request.Request(app.base + path, headers=headers)
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    cookie = f"sslviz-{app.base.rsplit(':')[-1]}={app.token}"
    for path in ("/", "/_stcore/health", "/api/thumb/photos/0"):
        assert status(path) == 403
        assert status(path, Cookie=cookie) == 200
    assert status("/?token=wrong") == 403
    assert status("/", Cookie=cookie, Host="evil.example") == 403
    for path in ("/api/thumb/photos/999", "/api/thumb/none/0", "/api/thumb/..%2f..%2fetc/0", "/api/other/photos/0"):
        assert status(path, Cookie=cookie) in (400, 404)


def test_starting_and_stopping(serve, workspace):
    app = serve()
    assert app.base.startswith("http://127.0.0.1:")
    taken = int(app.base.rsplit(":")[-1])
    done = subprocess.run([*SSLVIZ, "app", "--port", str(taken)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"port {taken} on 127.0.0.1 cannot be used" in done.stderr
    second = serve()
    assert second.base != app.base  # a free port is found
    log = app.stop()
    assert app.process.returncode == 0
    assert "Traceback" not in log
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", taken)) != 0


def test_from_the_overview_to_a_counterfactual(serve, chromium, page, workspace, tmp_path):
    """Worst image -> its features -> a feature's link on a fresh server -> lasso -> sample -> what if; as `--json` says."""
    demo_part(workspace, 240, 80)
    analyze(AnalyzeSettings(dataset="demo", encoder="simclr-demo"), workspace, Progress())
    project(ProjectSettings(dataset="demo", encoder="simclr-demo"), workspace, Progress())
    command = [*SSLVIZ, "score", "--dataset", "demo", "--encoder", "simclr-demo", "--json"]
    scored = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    scores = latest_result(workspace.results("demo", "simclr-demo", "score")).table("scores").set_index("sample_id")
    app = serve()
    page.goto(app.url("?dataset=demo&encoder=simclr-demo"))
    page.get_by_role("heading", name="The ten lowest Q-Scores").wait_for()
    assert metric(page, "AUROC of Q") == f"{100 * scored['reports']['q']['auroc']:.1f} %"
    worst = scored["worst"][0]
    page.locator(f"button[data-id='{worst['sample_id']}']").click()
    page.get_by_text("What these features are strongest in").wait_for()
    assert metric(page, "Q-Score") == f"{worst['q']:.4f}"
    assert metric(page, "Firing").split(" / ")[0] == str(scores["n_chosen"][worst["sample_id"]])

    card = page.locator("button[aria-label], button[data-id]").filter(has_text=re.compile(r"^feature \d+")).first
    feature = card.get_attribute("data-id")
    card.click()
    page.get_by_role("heading", name=f"Feature {feature}").wait_for()
    link = page.evaluate("location.href")
    assert f"feature={feature}" in link

    second = serve()  # another server that has never shown anything, and a browser that has never been here
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    fresh = context.new_page()
    fresh.set_default_timeout(120_000)
    fresh.goto(second.url(link.split("/", 3)[3]))
    fresh.get_by_role("heading", name=f"Feature {feature}").wait_for()
    fresh.get_by_text("In which classes it fires").wait_for()
    fresh.wait_for_function(HEATED)

    fresh.get_by_role("link", name="Where it fires on the map").click()
    fresh.locator(".js-plotly-plot .nsewdrag").first.wait_for()
    expect(fresh.get_by_label("Feature", exact=True)).to_have_value(feature, timeout=60_000)
    chart = fresh.locator(".js-plotly-plot").first
    chart.scroll_into_view_if_needed()
    fresh.wait_for_function("document.querySelector('.js-plotly-plot')?._fullLayout?.dragmode === 'lasso'")
    box = chart.locator(".nsewdrag").first.bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.02)]
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    fresh.mouse.move(*places[0])
    fresh.mouse.down()
    for place in places[1:]:
        fresh.mouse.move(*place, steps=6)
    fresh.mouse.up()
    fresh.get_by_text(re.compile(r"\d+ images selected")).wait_for()
    picked = re.search(r"selection=(\w+)", fresh.evaluate("location.href"))[1]
    ids = read_json(workspace.root / "selections" / f"{picked}.json")["sample_ids"]
    fresh.get_by_text(f"{len(ids)} images selected").wait_for()
    assert 20 < len(ids) <= 320
    first = scores.loc[ids].reset_index().sort_values(["q", "sample_id"])["sample_id"].iloc[0]
    fresh.locator(f"button[data-id='{first}']").first.click()
    fresh.get_by_role("heading", name="Sample", exact=True).wait_for()
    fresh.get_by_text(f"1 of {len(ids)}", exact=True).wait_for()
    assert metric(fresh, "Q-Score") == f"{scores['q'][first]:.4f}"

    fresh.get_by_role("button", name="Change the picture").click()
    fresh.get_by_text("Your own change").wait_for()
    cards = fresh.locator("[data-testid=stMetric]", has_text="Firing in D")
    assert cards.count() == 6
    assert cards.first.locator("[data-testid=stMetricValue]").inner_text() == str(scores["n_chosen"][first])
    for name in ("place", "half hidden", "dark", "turned", "far"):
        assert fresh.locator("strong", has_text=re.compile(f"^{name}$")).is_visible()
    context.close()


def test_a_picture_of_ones_own_is_kept_in_memory_only(serve, page, workspace, tmp_path):
    photographs(tmp_path / "photos")
    datasets.add_folder(workspace, "photos", tmp_path / "photos")
    small_encoder(workspace)
    analyze(AnalyzeSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    app = serve()
    page.goto(app.url("sample?dataset=photos&encoder=tiny"))
    page.get_by_text("Your own", exact=True).click()
    before = sorted(p for p in workspace.root.rglob("*") if p.is_file())
    upload = page.locator("input[type=file]")
    upload.set_input_files(tmp_path / "photos/test/flower/000.jpg")  # one of the data set: its stored numbers are known
    page.get_by_text("Nearest train images").wait_for()
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores").set_index("sample_id")
    line = scores.loc["test/flower/000.jpg"]
    assert metric(page, "Q-Score") == f"{line['q']:.4f}"
    assert metric(page, "Firing") == f"{line['n_chosen']} / {line['n_firing']}"
    below = (scores.loc[scores["split"] == "train", "q"] < line["q"]).mean()
    assert metric(page, "Percentile") == f"{100 * below:.0f} %"
    assert sorted(p for p in workspace.root.rglob("*") if p.is_file()) == before
    (tmp_path / "no picture.png").write_text("hello")
    upload.set_input_files(tmp_path / "no picture.png")
    page.get_by_text("not a picture that can be read").wait_for()


def test_a_click_on_the_map_shows_the_image(serve, page, workspace, scored):
    project(ProjectSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    app = serve()
    page.goto(app.url("projection?dataset=photos&encoder=tiny"))
    page.get_by_text("Click an image, drag and zoom").click()
    page.wait_for_function(  # the chart before it goes a moment later
        "document.querySelectorAll('.js-plotly-plot').length === 1"
        " && document.querySelector('.js-plotly-plot')._fullLayout?.dragmode === 'pan'"
    )
    page.locator(".js-plotly-plot").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.js-plotly-plot').getBoundingClientRect().bottom <= innerHeight + 40")
    x, y, sample = page.evaluate(
        """() => { const g = document.querySelector('.js-plotly-plot'), t = g._fullData[0], l = g._fullLayout,
        r = g.getBoundingClientRect(); return [r.x + l.xaxis._offset + l.xaxis.d2p(t.x[0]),
        r.y + l.yaxis._offset + l.yaxis.d2p(t.y[0]), t.customdata[0][0]]; }"""
    )
    page.mouse.move(x - 40, y)
    page.mouse.move(x, y, steps=10)
    page.wait_for_function("document.querySelector('.js-plotly-plot .hoverlayer .hovertext')")
    page.mouse.click(x, y)
    page.get_by_text("The image you clicked").wait_for()
    page.locator(f"button[data-id='{sample}']").click()
    page.get_by_role("heading", name="Sample", exact=True).wait_for()
    page.get_by_role("link", name="Its place on the map").click()
    page.wait_for_function("document.querySelector('.js-plotly-plot')?._fullData?.some(t => t.name === 'this image')")


def test_two_encoders_side_by_side_to_an_image_only_one_gets_right(serve, page, workspace, scored):
    small_encoder(workspace, "other", seed=4)
    analyze(AnalyzeSettings(dataset="photos", encoder="other"), workspace, Progress())
    tables = [judged(workspace, datasets.load(workspace, "photos"), name) for name in ("tiny", "other")]
    mine, theirs = (table["correct"].astype(bool) for table in tables)
    only = sorted(mine[~mine & theirs].index)
    assert only
    app = serve()
    page.goto(app.url("overview?dataset=photos&encoder=tiny"))
    page.get_by_role("link", name="Compare: which encoder should I take?").click()
    page.get_by_role("heading", name="tiny beside other").wait_for()
    page.get_by_text(f"{len(only)} only other", exact=False).wait_for()
    page.get_by_role("radio", name="only other right").click()
    page.locator(f"button[data-id='{only[0]}']").wait_for()
    shown = page.evaluate(
        "[...document.querySelectorAll('*')].flatMap(e => [...(e.shadowRoot?.querySelectorAll('button[data-id]') ?? [])])"
        ".map(b => b.dataset.id)"
    )
    assert sorted(shown) == only
    page.get_by_role("radio", name="Q against Q").click()
    page.wait_for_function("document.querySelector('.js-plotly-plot')?._fullLayout?.dragmode === 'lasso'")
    drawn = page.evaluate(
        "document.querySelector('.js-plotly-plot')._fullData.flatMap(t => t.customdata.map((c, i) => [c[0], t.x[i]]))"
    )
    q = tables[0]["q"]
    assert {i: pytest.approx(x, abs=1e-6) for i, x in drawn} == q.to_dict()
    page.get_by_role("radio", name="only other right").click()
    page.locator(f"button[data-id='{only[0]}']").click()
    page.get_by_role("heading", name="Sample", exact=True).wait_for()
    page.get_by_text(only[0]).wait_for()


def test_where_it_looks_in_a_misclassified_image(serve, page, workspace):
    """Heat and outlines on the sample page: pixels at the mask's edge are what the numbers say."""
    demo_part(workspace, 240, 80)
    analyze(AnalyzeSettings(dataset="demo", encoder="simclr-demo"), workspace, Progress())
    interpret(InterpretSettings(dataset="demo", encoder="simclr-demo"), workspace, Progress())
    result = latest_result(workspace.results("demo", "simclr-demo", "interpret"))
    looks = result.table("looks")
    wrong = looks[looks["correct"].eq(False)].sort_values(["core_iou_map", "sample_id"])
    app = serve()
    page.goto(app.url("heatmaps?dataset=demo&encoder=simclr-demo"))
    page.get_by_text("Images the probe gets right").wait_for()
    choose(page, "Show", "misclassified")
    sample_id = wrong["sample_id"].iloc[0]
    page.locator(f"button[data-id='{sample_id}']").wait_for()
    page.get_by_role("heading", name="Image by image").scroll_into_view_if_needed()
    page.mouse.wheel(0, 500)
    thumbs_are_drawn(page, 4)
    page.locator(f"button[data-id='{sample_id}']").click()
    page.get_by_role("heading", name="Where the encoder looks").wait_for()
    drawn(page, "image heat core spurious", 70)

    both = load_masks(datasets.load(workspace, "demo")).read(sample_id, (96, 96), 64, 64)
    core = both["core"] >= 128
    inner = core & np.roll(core, 1, 1)
    edge = np.argwhere(core[1:-1, 1:-1] & ~inner[1:-1, 1:-1]) + 1  # marked, and not so left of it
    y, x = edge[len(edge) // 2]
    place = ((x * 7 + 0.5) / 448, (y * 7 + 3.5) / 448)
    assert canvas_pixel(page, *place) == list(OUTLINES["core"])
    spurious = both["spurious"] >= 128
    near_core = binary_dilation(core, iterations=3)
    inner = spurious & np.roll(spurious, 1, 1)
    edge = np.argwhere(spurious[1:-1, 1:-1] & ~inner[1:-1, 1:-1] & ~near_core[1:-1, 1:-1]) + 1
    v, u = edge[len(edge) // 2]
    other = ((u * 7 + 0.5) / 448, (v * 7 + 3.5) / 448)
    assert canvas_pixel(page, *other) == list(OUTLINES["spurious"])
    page.get_by_label("core outline").uncheck()
    drawn(page, "image heat spurious", 70)
    assert canvas_pixel(page, *other) == list(OUTLINES["spurious"])
    uncovered = {place: canvas_pixel(page, *place)}
    page.get_by_label("spurious outline").uncheck()
    drawn(page, "image heat", 70)
    uncovered[other] = canvas_pixel(page, *other)

    raw = result.table("maps").set_index("sample_id").loc[sample_id, "map"]
    heat = finish(torch.tensor(np.array(raw, np.float32).reshape(1, 8, 8)), (64, 64))[0].numpy()
    hot = np.unravel_index(heat.argmax(), heat.shape)
    there = ((hot[1] + 0.5) / 64, (hot[0] + 0.5) / 64)
    page.get_by_label("heat", exact=True).fill("0")
    drawn(page, "image heat", 0)
    bare = np.array(canvas_pixel(page, *there))
    for (left, top), seen in uncovered.items():  # without its outline, an edge is the picture under its heat
        picture = np.array(canvas_pixel(page, left, top))
        *colour, opacity = heat_rgba(heat)[int(top * 64), int(left * 64)].tolist()
        share = 0.7 * opacity / 255
        assert seen == pytest.approx(((1 - share) * picture + share * np.array(colour)).tolist(), abs=12)
    page.get_by_label("heat", exact=True).fill("60")
    drawn(page, "image heat", 60)
    red, green, blue = heat_rgba(heat)[hot][:3].tolist()  # the hottest place is opaque
    assert canvas_pixel(page, *there) == pytest.approx((0.4 * bare + 0.6 * np.array([red, green, blue])).tolist(), abs=3)

    before = page.url
    whole = canvas_pixel(page, *there)
    page.get_by_role("button", name="Next feature").click()
    page.get_by_role("button", name=re.compile(r"Open feature \d+")).wait_for()
    feature = int(re.search(r"\d+", page.get_by_role("button", name=re.compile("Open feature")).inner_text())[0])
    drawn(page, "image heat", 60, of=f"feature {feature}")  # the slider stays where it was
    content, _ = picture_file("demo", row_of(workspace, sample_id))
    seen = torch.from_numpy(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).copy()).permute(2, 0, 1)
    alone = explain(load_encoder(workspace, "simclr-demo"), fit(seen, 64, 64)[None], [feature])[0].numpy()
    rgba = heat_rgba(alone)[hot]
    share = 0.6 * rgba[3] / 255
    assert canvas_pixel(page, *there) == pytest.approx(((1 - share) * bare + share * rgba[:3]).tolist(), abs=4)
    assert alone[hot] > 0.9 or canvas_pixel(page, *there) != whole
    page.get_by_label("core outline").check()
    drawn(page, "image heat core", 60)
    assert page.url == before
    page.get_by_role("button", name=re.compile(r"Open feature \d+")).click()
    page.get_by_text("Strongest in, with heatmaps").wait_for()
    page.wait_for_function(HEATED)
