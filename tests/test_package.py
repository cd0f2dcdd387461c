"""What a wheel holds, and that the app of an installed package is served from it."""

import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of a copy of this checkout, unpacked into an empty folder."""
    import shutil

    there = tmp_path_factory.mktemp("wheel")
    copy = there / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "workspace", "build", "*.egg-info", ".*_cache"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(there),
        str(copy),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = there.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(there / "site")
    return there / "site"


def test_the_wheel_has_every_module_page_and_asset(installed):
    ours = {p.relative_to(ROOT) for p in (ROOT / "sslviz").rglob("*") if p.suffix in {".py", ".js", ".css", ".typed"}}
    assert {p for p in ours if not (installed / p).exists()} == set()
    assert {p.name for p in (installed / "sslviz/_app/pages").glob("*.py")} >= {p.name for p in (ROOT / "pages").glob("*.py")}
    assert (installed / "sslviz/_app/app.py").exists()


def test_the_app_of_an_installed_package_starts(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "SSLVIZ_WORKSPACE": str(tmp_path / "w"), "HOME": str(tmp_path)}
    code = (
        "import sslviz, sys; assert sys.argv[1] in sslviz.__file__, sslviz.__file__\n"
        "sys.argv = ['sslviz', 'app']\nfrom sslviz.cli import main\nmain()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(installed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r"http://127.0.0.1:\d+/\?token=\S+", line):
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    log = "".join(lines) + rest
    assert "token=" in log
    assert "Traceback" not in log
    assert "mail" not in log


def test_what_a_library_says_fits_into_a_sentence():
    from sslviz.errors import in_one_line

    assert in_one_line(ValueError("a\n  b")) == "a b"
    assert in_one_line(KeyError()) == "KeyError"
    assert in_one_line(ValueError("abcdef"), 4) == "abc…"
