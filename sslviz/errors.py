"""What can go wrong, as a tree. A message says what, where, what was expected and what to type next.

SslvizError              everything this package raises on purpose
├── InputError           (also a ValueError) something given to us is wrong: command line exit 2, red box in the app
│   ├── NotFound         a name or file that is not there; the nearest names are listed
│   ├── Stale            a result whose inputs have changed since it was made
│   ├── Untrusted        a file that would run code, or a path that leads outside an allowed folder
│   └── Busy             somebody else is writing the same thing; the message says who
├── RunFailed            work that went bad on good input (a loss that is not finite): exit 1
└── Cancelled            somebody pressed stop: exit 130

Any other exception is a bug of ours and is shown as one.
"""

from collections.abc import Iterable
from difflib import get_close_matches

UNREAD = "cannot be read"
"""How the reason begins where a file itself, not what it holds, was at fault."""


class SslvizError(Exception):
    """Everything this package raises on purpose; the message is one line for people."""

    exit_code = 1


class InputError(SslvizError, ValueError):
    """Something given to us is wrong."""

    exit_code = 2


class NotFound(InputError):
    """A name or file that is not there."""


class Stale(InputError):
    """A result whose inputs have changed since it was made."""


class Untrusted(InputError):
    """A file that would run code, or a path outside the allowed folders."""


class Busy(InputError):
    """Somebody else is writing the same thing."""


class RunFailed(SslvizError):
    """Work that went bad on good input."""


class Cancelled(SslvizError):
    """Somebody pressed stop."""

    exit_code = 130


EXPECTED = (SslvizError, OSError)
"""What a person gets to read as a line: ours, and what the file system says (full, forbidden, too long a name)."""


def said(error: SslvizError | OSError) -> str:
    """The line."""
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}."


def of_memory(error: BaseException) -> str:
    """What to say where memory did not suffice; "" for another error."""
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return "out of memory. Choose a smaller --batch-size, or stop other programs on that machine." if full else ""


def in_one_line(error: BaseException, most: int = 160) -> str:
    """What another library says, for the middle of a sentence: at most so many characters; its kind where it says nothing."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= most else words[: most - 1] + "…"


def shown(names: Iterable[object], most: int = 5) -> str:
    """The first of many names for a sentence; says how many there are when it leaves some out."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f", … ({len(every)} in all)" if len(every) > most else "")


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str) -> NotFound:
    """The error for a name that is not among `known`: nearest spelling first, else all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        hint = f'Did you mean "{near[0]}"?'
    elif names:
        hint = "Available: " + ", ".join(names[:12]) + (", …." if len(names) > 12 else ".")
    else:
        hint = "There is none yet."
    return NotFound(f'unknown {kind} "{name}". {hint} {remedy}'.strip())
