"""Named queries in .sql files: ``-- name: lock`` begins one, the next name or the file's end ends it."""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_PACKAGES: Final = ("ledger_service.store", "ledger_service.projections")


def load(module: str) -> dict[str, str]:
    """The queries of the .sql file beside a module, by name: ``load(__name__)``."""
    package, _, name = module.rpartition(".")
    return _parse(files(package).joinpath(f"{name}.sql").read_text())


def every_query() -> Iterator[tuple[str, str]]:
    """All queries of the service as (``package.file:name``, SQL), for the test that prepares each."""
    for package in _PACKAGES:
        for file in sorted(files(package).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".sql"):
                for name, sql in _parse(file.read_text()).items():
                    yield f"{package}.{file.name}:{name}", sql


def _parse(text: str) -> dict[str, str]:
    parts = _NAME.split(text)[1:]
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}
