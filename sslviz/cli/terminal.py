"""What every command shares: the two consoles, the end with one line and an exit code."""

import sys
from typing import Any, NoReturn

from rich.console import Console

from sslviz.errors import Cancelled

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def fail(message: str, code: int) -> NoReturn:
    err.print(message, style="red" if code != Cancelled.exit_code else "yellow", markup=False)
    sys.exit(code)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:z.1f}"


def in_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {in_line(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "; ".join(in_line(v) for v in value)
    return str(value)
