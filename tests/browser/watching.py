"""What tests in Chromium wait for and read from a page."""

import sys

from playwright.sync_api import TimeoutError as PlaywrightTimeout

from sslviz.data import dataset as datasets

SSLVIZ = [sys.executable, "-c", "from sslviz.cli import main; main()"]


def metric(page, label):
    return page.locator("[data-testid=stMetric]", has_text=label).locator("[data-testid=stMetricValue]").inner_text()


def settled(page):
    """Wait until the page's script has run to its end, and is not run again at once, as after a page's first visit: before that,
    keys, lists and downloads may be those of the run before."""
    page.evaluate("window.stillSince = null")
    page.wait_for_function(
        """() => {
            const running = document.querySelector('[data-testid=stApp]')?.dataset.testScriptState !== 'notRunning';
            window.stillSince = running ? null : window.stillSince ?? performance.now();
            return !running && performance.now() - window.stillSince > 700;
        }"""
    )


def thumbs_are_drawn(page, at_least):
    page.wait_for_function(
        "n => [...document.querySelectorAll('*')].flatMap(e => e.shadowRoot ? [...e.shadowRoot.querySelectorAll('img')] : [])"
        ".filter(i => i.complete && i.naturalWidth > 0).length >= n",
        arg=at_least,
    )


def canvas_pixel(page, x, y):
    """RGB of the overlay's canvas at a place given as shares of its side."""
    return page.evaluate(
        """([x, y]) => { for (const e of document.querySelectorAll('*')) { const c = e.shadowRoot?.querySelector('canvas')
        if (c?.dataset.drawn) return [...c.getContext('2d')
            .getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3); } }""",
        [x, y],
    )


def drawn(page, layers, opacity, of=""):
    """The overlay shows these layers, its heat of what `of` says."""
    page.wait_for_function(
        """([layers, opacity, of]) => [...document.querySelectorAll('*')].some(e => {
        const c = e.shadowRoot?.querySelector('canvas')
        return c && c.dataset.drawn === layers && c.dataset.opacity === opacity && c.ariaLabel.endsWith(of) })""",
        arg=[layers, str(opacity), of],
    )


def choose(page, label, option):
    """Choose in a select box. Streamlit closes a list that is open while the page is drawn again: open it until it stays."""
    for _ in range(20):
        settled(page)
        page.get_by_label(label, exact=True).click()
        try:
            return page.get_by_role("option", name=option).click(timeout=6_000)
        except PlaywrightTimeout:
            page.keyboard.press("Escape")
    raise AssertionError(f"{label}: no option {option}")


def row_of(workspace, sample_id):
    samples = datasets.load(workspace, "demo").samples["sample_id"]
    return int(samples.index[samples == sample_id][0])
