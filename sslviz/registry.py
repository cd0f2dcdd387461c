"""Name -> entry. A registry is a folder whose modules register themselves when imported."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Generic, TypeVar

from sslviz.errors import unknown_name

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name.

    With `package`, each module of that folder, but for those named in `beside`, is one entry of the same name: names are
    known without importing anything, and an entry's module is imported when the entry is first asked for.
    """

    def __init__(self, kind: str, package: str | None = None, beside: frozenset[str] = frozenset()) -> None:
        self.kind = kind
        self._package = package
        self._beside = beside
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that enters its argument under `name`; a name entered twice raises ValueError."""

        def enter(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f'{self.kind} "{name}" is registered twice')
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._entries, *self._module_names()})

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries and name in self._module_names():
            import_module(f"{self._package}.{name}")
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names(), "")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _module_names(self) -> list[str]:
        if self._package is None:
            return []
        paths = import_module(self._package).__path__
        return [module.name for module in iter_modules(paths) if module.name not in self._beside]
