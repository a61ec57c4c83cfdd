"""Named queries in .sql files: ``-- name: lock`` begins one, the next name or the file's end ends it.

What several queries of a file share stands in it once, after ``-- part: columns``, and is where a line
``-- take: columns`` stands. Parts take no parts.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

_SECTION: Final = re.compile(r"^-- (name|part): ([a-z_]+)$", re.MULTILINE)
_TAKEN: Final = re.compile(r"^ *-- take: (.+)$", re.MULTILINE)
_PACKAGES: Final = ("ledger_service.store", "ledger_service.projections")


def load(module: str) -> dict[str, str]:
    """The queries of the .sql file beside a module, by name: ``load(__name__)``."""
    package, _, name = module.rpartition(".")
    return parse(files(package).joinpath(f"{name}.sql").read_text())


def every_query() -> Iterator[tuple[str, str]]:
    """All queries of the service as (``package.file:name``, SQL), for the test that prepares each."""
    for package in _PACKAGES:
        for file in sorted(files(package).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".sql"):
                for name, sql in parse(file.read_text()).items():
                    yield f"{package}.{file.name}:{name}", sql


def parse(text: str) -> dict[str, str]:
    """The queries of such a file. Raises KeyError for a part that it does not have."""
    pieces = _SECTION.split(text)[1:]
    sections = list(zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True))
    parts = {name: sql.strip("\n") for kind, name, sql in sections if kind == "part"}
    return {
        name: _TAKEN.sub(lambda taken: parts[taken[1]], sql).strip() for kind, name, sql in sections if kind == "name"
    }
