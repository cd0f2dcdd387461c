"""The pages of docs/ that are generated say what is measured."""

from benchmarks import mending


def test_the_tables_of_fine_tunings_are_those_of_the_kept_figures():
    assert mending.PAGE.read_text() == mending.page(), "run: make docs"
