import subprocess
import sys

import pytest

import sslviz
from sslviz.errors import InputError, NotFound
from sslviz.jobs import JOBS
from sslviz.registry import Registry


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_sslviz_loads_neither_torch_nor_streamlit():
    out = run("import sslviz, sys; print(*sorted(m for m in ('torch', 'streamlit', 'pandas', 'numba') if m in sys.modules))")
    assert out == []


def test_help_loads_neither_torch_nor_pandas():
    code = (
        "import sys; sys.argv = ['sslviz', '--help']\n"
        "from sslviz.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('LOADED', *sorted(m for m in ('torch', 'streamlit', 'pandas', 'numba', 'sklearn') if m in sys.modules))"
    )
    assert run(code)[-1] == "LOADED"


def test_every_public_name_is_there_and_documented():
    for name in sslviz.__all__:
        assert getattr(sslviz, name).__doc__, name
    assert sorted(sslviz.__all__) == sslviz.__all__
    with pytest.raises(AttributeError):
        sslviz.nothing  # noqa: B018


def test_registry_refuses_twins_and_lists_the_nearest():
    registry = Registry("fruit")
    registry.register("apple")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("apple")(2)
    with pytest.raises(NotFound, match='unknown fruit "aple". Did you mean "apple"?'):
        registry["aple"]
    with pytest.raises(InputError, match="Available: apple"):
        registry["zzz"]


def test_each_job_has_an_example_and_a_sentence_for_each_setting():
    for name in JOBS:
        job = JOBS[name]
        assert job.example.startswith("sslviz ")
        assert job.summary.endswith(".")
        for field, info in job.settings.model_fields.items():
            assert info.description, f"{name}.{field}"
