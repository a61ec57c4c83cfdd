"""The versions that were released, as deploy/releases.toml names them."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("releases.toml")
#: Where a tree of any version has its migrations.
MIGRATIONS: Final = "ledger_service/store/migrations"


@dataclass(frozen=True)
class Release:
    """One version; releases.toml says what each field is."""

    version: str
    tag: str
    commit: str
    schema: str
    migrations: str
    rolls_back: bool


def releases() -> list[Release]:
    """Newest first."""
    return [Release(**entry) for entry in tomllib.loads(FILE.read_text(encoding="utf-8"))["release"]]


def digest_of(migrations: Iterable[tuple[str, bytes]]) -> str:
    """Of migrations by name, in any order."""
    digest = sha256()
    for name, sql in sorted(migrations):
        digest.update(f"{name} {sha256(sql).hexdigest()}\n".encode())
    return digest.hexdigest()


def migrations_in(tree: Path) -> list[tuple[str, bytes]]:
    """Those of a checked-out version."""
    return [(file.name, file.read_bytes()) for file in (tree / MIGRATIONS).glob("*.sql")]


def main() -> None:
    """Shows what the entry of the version at hand would say."""
    found = migrations_in(Path(__file__).parents[1])
    print(f'schema = "{max(found)[0][:4]}"\nmigrations = "{digest_of(found)}"')  # noqa: T201  what it is for


if __name__ == "__main__":
    main()
