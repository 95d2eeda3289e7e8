"""`import kafka` as another name of this package.

A finder on `sys.meta_path` answers `kafka` and everything below it with the *same* module objects: `kafka.errors` is
`ottla.errors`, so that classes are identical under both names, and what is pickled names `ottla`.

A process that is spawned (multiprocessing) has no such finder, but it gets this one's `sys.path`; so a folder goes in
front of it that holds nothing but a package `kafka`, which calls `install_as_kafka` when it is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader, MetaPathFinder
    from types import ModuleType
else:
    # They do nothing, and importing them takes a quarter of what this package takes.
    Loader = MetaPathFinder = object

__all__ = ["install_as_kafka"]

_SHIM = f"{__file__.rpartition('_alias')[0]}_as_kafka"


def _ours(name: str) -> str:
    return "ottla" + name[len("kafka") :]


class _Loader(Loader):
    """Hands out a module that is imported under its own name, and leaves it as it is."""

    def __init__(self) -> None:
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_ours(spec.name))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has given the module the alias's spec.
        module.__spec__ = self._spec


class _Finder(MetaPathFinder):
    """Finds `kafka` and what is below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != "kafka" and not fullname.startswith("kafka."):
            return None
        try:
            known = importlib.util.find_spec(_ours(fullname))
        except ModuleNotFoundError:
            return None
        if known is None:
            return None
        return ModuleSpec(fullname, _Loader(), is_package=known.submodule_search_locations is not None)


def install_as_kafka() -> None:
    """Make `import kafka` mean Ottla in this process, and in those that multiprocessing spawns from it.

    `kafka` and `ottla` are the same modules then: `kafka.errors.KafkaError is ottla.errors.KafkaError`. May be called
    more than once.

    Raises:
        RuntimeError: Another package `kafka` is imported already; call this first, in a fresh interpreter.
    """
    from pathlib import Path

    ottla = importlib.import_module("ottla")
    loaded = sys.modules.get("kafka")
    if loaded is not None and loaded is not ottla and Path(loaded.__file__ or "").parent.parent != Path(_SHIM):
        raise RuntimeError(
            f"another kafka is imported already, from {loaded.__file__}: call ottla.install_as_kafka() before the first"
            " `import kafka`, in a fresh interpreter"
        )
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if _SHIM not in sys.path:
        # After the script's own folder, so that its modules keep their names.
        sys.path.insert(1 if sys.path else 0, _SHIM)
    sys.modules["kafka"] = ottla
