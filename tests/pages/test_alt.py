"""What is drawn on a page is also said, for people who do not see it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRAWN = {"dataframe", "plotly_chart", "image", "table"}


def test_every_chart_table_and_image_has_words():
    silent, n = [], 0
    for path in (*(ROOT / "sslviz" / "ui").glob("*.py"), *(ROOT / "pages").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in DRAWN:
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "reads":  # a table that is read
                continue
            if not any(isinstance(part, ast.Name) and part.id == "st" for part in ast.walk(node.func)):
                continue
            n += 1
            silent += [f"{path.name}:{node.lineno}"] * all(keyword.arg != "alt" for keyword in node.keywords)
    assert n > 20
    assert silent == []
