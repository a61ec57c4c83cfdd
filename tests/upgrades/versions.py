"""The code of other versions: the released ones out of the history, and one that is not written yet."""

import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from deploy.releases import MIGRATIONS, Release, digest_of, migrations_in, releases

REPOSITORY: Final = Path(__file__).parents[2]
#: What a service is made of.
PACKAGES: Final = ("contracts", "deploy", "image_service", "ledger_service", "pyproject.toml")


@dataclass(frozen=True)
class Version:
    """A tree of the code. ``tells``: what its services say at /livez; None: versions up to 0.1.0 say nothing."""

    name: str
    tree: Path
    tells: str | None

    @property
    def environment(self) -> dict[str, str]:
        """For our own interpreter to run this code: before the editable install, and before the folder we are in."""
        return {"PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": ""}

    @property
    def schema(self) -> str:
        """The number of its last migration."""
        return max(file.name for file in (self.tree / MIGRATIONS).glob("*.sql"))[:4]


def find(version: str) -> Release:
    [found] = [one for one in releases() if one.version == version]
    return found


def newest_release() -> Release:
    return releases()[0]


def released(release: Release, folder: Path) -> Version:
    """Its tree, out of the history. Skips the test where there is none: in a source archive, or a shallow clone."""
    archive = folder / f"{release.version}.tar"
    for name in (f"refs/tags/{release.tag}", release.commit):
        done = subprocess.run(
            ["git", "archive", "--format=tar", f"--output={archive}", name, "--", *PACKAGES],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            break
    else:
        pytest.skip(f"version {release.version} ({release.tag}, {release.commit[:7]}) is not in the history at hand")
    tree = folder / release.version
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    archive.unlink()
    assert digest_of(migrations_in(tree)) == release.migrations, f"{release.tag} is not what releases.toml says"
    return Version(release.version, tree, None if release.version in ("0.1.0", "0.0.9") else release.version)


def present() -> Version:
    """The code at hand."""
    from contracts.version import VERSION

    return Version("this", REPOSITORY, VERSION)


def future(folder: Path, migration: str, sql: str, *, column_in: Sequence[str] = ()) -> Version:
    """The code at hand with one more migration, as version 99.0.0.

    ``column_in``: projections to which that adds the column of_tomorrow, which this code then knows.
    """
    tree = folder / "99.0.0"
    for name in PACKAGES[:-1]:
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "pyproject.toml").write_text('[project]\nname = "usage-ledger"\nversion = "99.0.0"\n')
    (tree / MIGRATIONS / migration).write_text(sql)
    for name in column_in:
        declaration = tree / "ledger_service" / "projections" / f"{name}.py"
        known = declaration.read_text().replace("Projection(\n", 'Projection(\n    untold=("of_tomorrow",),\n', 1)
        assert "of_tomorrow" in known
        declaration.write_text(known)
    return Version("next", tree, "99.0.0")
