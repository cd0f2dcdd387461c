"""What a visitor waits for, in Chromium on the prepared demo, beside the targets: seconds, best of three.

python -m benchmarks.pages [--workspace workspace]     # without one, the demo is prepared in a temporary workspace first
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.machine import describe
from sslviz.jobs.demo import DemoSettings, demo
from sslviz.jobs.project import ProjectSettings, project
from sslviz.jobs.runner import ACTIVE, list_runs
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

SSLVIZ = [sys.executable, "-c", "from sslviz.cli import main; main()"]
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
DRAWN = (
    "n => [...document.querySelectorAll('*')].flatMap(e => e.shadowRoot ? [...e.shadowRoot.querySelectorAll('img')] : [])"
    ".filter(i => i.complete && i.naturalWidth > 0).length >= n"
)


def prepared(root: str) -> Workspace:
    workspace = Workspace(root).create()
    demo(DemoSettings(), workspace, Progress())
    project(ProjectSettings(dataset="demo", encoder="simclr-demo"), workspace, Progress())
    while any(r["status"] in ACTIVE for r in list_runs(workspace)):
        time.sleep(1)
    return workspace


def timed(act: Callable[[], None], ready: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    ready()
    return time.perf_counter() - start


def lasso(page: Page) -> None:
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    corners = [(0.1, 0.05), (0.9, 0.05), (0.9, 0.6), (0.1, 0.6), (0.1, 0.05)]
    x, y = corners[0]
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)


def visit(page: Page, base: str) -> dict[str, float]:
    found = {}
    heading = page.get_by_role("heading", name="The ten lowest Q-Scores")
    found["open the overview"] = timed(lambda: page.goto(base), heading.wait_for)
    for link, sign in (
        ("Features", "What the discriminative"),
        ("Scores", "Download all scores"),
        ("Sample", "Its representation"),
    ):
        page.wait_for_timeout(2000)  # what the page before still draws is not this one's time
        go, ready = page.get_by_role("link", name=link, exact=True), page.get_by_text(sign).first
        found[f"change to {link}"] = timed(go.click, ready.wait_for)
    where = page.get_by_text(re.compile(r"^[\d,]+ of 2,000$"))
    at = int(where.inner_text().split()[0].replace(",", ""))
    found["next sample"] = timed(
        page.get_by_role("button", name="Next").click, page.get_by_text(f"{at + 1:,} of 2,000", exact=True).wait_for
    )
    page.goto(f"{base}scores")
    found["the grid's thumbnails, page included"] = timed(
        lambda: page.goto(f"{base}scores"), lambda: page.wait_for_function(DRAWN, arg=24)
    )
    chart = page.locator(".js-plotly-plot .nsewdrag").first
    page.wait_for_timeout(2000)
    found["change to Map"] = timed(page.get_by_role("link", name="Map", exact=True).click, chart.wait_for)
    page.wait_for_timeout(2000)
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 200)")
    page.wait_for_timeout(500)
    lasso(page)
    found["lasso to grid"] = timed(page.mouse.up, lambda: page.wait_for_function(DRAWN, arg=12))
    return found


TARGETS = {
    "open the overview": 3.0,
    **{f"change to {name}": 1.0 for name in ("Features", "Scores", "Sample", "Map")},
    "next sample": 1.0,
    "the grid's thumbnails, page included": 1.0,
    "lasso to grid": 0.5,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.workspace or prepared(str(Path(folder) / "workspace")).root
        server = subprocess.Popen([*SSLVIZ, "app", "--workspace", str(root)], stdout=subprocess.PIPE, text=True)
        try:
            address = next(m for line in server.stdout if (m := re.search(r"(http://\S+/)\?token=\S+", line)))
            print(describe())
            with sync_playwright() as playwright:
                chromium = shutil.which("chromium") or shutil.which("google-chrome")
                browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
                rounds = []
                for _ in range(3):
                    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
                    page.goto(address[0])
                    page.get_by_role("heading").first.wait_for()
                    rounds.append(visit(page, address[1]))
                browser.close()
        finally:
            server.terminate()
            server.wait()
    for name, target in TARGETS.items():
        best = min(r[name] for r in rounds)
        print(f"{name}: {best:.2f} s (first visit {rounds[0][name]:.2f}); target {target:g} s; ratio {best / target:.2f}")


if __name__ == "__main__":
    main()
