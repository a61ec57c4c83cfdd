"""What the version policy asks of the code, where a test can tell: deploy/guides/upgrades.md."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from typer.testing import CliRunner

from contracts.version import VERSION
from deploy.local.cli import app as usage_stack
from deploy.releases import Release, digest_of, migrations_in, releases
from ledger_service.cli import app as ledger
from ledger_service.store.migrations import Migration, migrations

ROOT = Path(__file__).parents[2]
NEWEST = releases()[0]


def test_the_version_stands_in_one_place_and_commands_tell_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{VERSION}"\n' in text
    for app in (ledger, usage_stack):
        assert CliRunner().invoke(app, ["--version"]).output == f"{VERSION}\n"
    others = subprocess.run(
        ["grep", "-rlF", VERSION, "contracts", "ledger_service", "image_service", "deploy", "--include=*.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert others.stdout == ""


def test_an_installed_version_is_that_of_its_metadata(tmp_path: Path) -> None:
    """Where no pyproject.toml stands beside the code, or another project's."""
    (tmp_path / "contracts").mkdir()
    for name in ("__init__", "version"):
        (tmp_path / "contracts" / f"{name}.py").write_text((ROOT / "contracts" / f"{name}.py").read_text())
    info = tmp_path / "usage_ledger-7.8.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: usage-ledger\nVersion: 7.8.9\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "1"\n')
    say = "from contracts.version import VERSION; print(VERSION)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", say], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "7.8.9\n"


def test_the_production_overlay_takes_the_newest_release() -> None:
    overlay = yaml.safe_load((ROOT / "deploy/kubernetes/overlays/production/kustomization.yaml").read_text())
    assert {image["newTag"] for image in overlay["images"]} == {NEWEST.version}


def test_this_version_is_newer_than_every_release_or_one_of_them() -> None:
    known = [Version(one.version) for one in releases()]
    assert known == sorted(known, reverse=True)
    assert Version(VERSION) >= known[0]


@pytest.mark.parametrize("release", releases(), ids=lambda one: one.version)
def test_releases_are_named_as_git_does_and_can_be_gone_back_to_within_a_minor_version(release: Release) -> None:
    assert release.tag == f"v{release.version}"
    assert re.fullmatch(r"[0-9a-f]{40}", release.commit)
    this, that = Version(VERSION), Version(release.version)
    assert release.rolls_back == ((this.major, this.minor - that.minor) <= (that.major, 1) and that.minor > 0)


def test_migrations_of_the_newest_release_are_as_they_were() -> None:
    released = [(name, sql) for name, sql in migrations_in(ROOT) if name[:4] <= NEWEST.schema]
    assert digest_of(released) == NEWEST.migrations, "a released migration was changed, taken away or put in between"


@pytest.mark.parametrize(
    "migration", [one for one in migrations() if one.number > NEWEST.schema] or [None], ids=lambda one: one and one.name
)
def test_newer_migrations_leave_the_newest_release_at_work(migration: Migration | None) -> None:
    """Expand now, contract a version later: else its services could neither be replaced one by one, nor come back."""
    if migration is not None:
        assert migration.works_with <= NEWEST.schema, (
            f"{migration.name} has to begin with the line `-- works with: {NEWEST.schema}`, and to keep that promise"
        )


def test_numbers_are_each_given_once() -> None:
    numbers = [one.number for one in migrations()]
    assert sorted(set(numbers)) == numbers
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", one.name) for one in migrations())


def test_what_stands_in_a_migrations_first_line_counts() -> None:
    assert Migration("0042_x.sql", "-- works with: 0041\ncreate").works_with == "0041"
    assert Migration("0042_x.sql", "-- It\n-- works with: 0041\n").works_with == "0042"
    assert Migration("0042_x.sql", "create table x ()").works_with == "0042"
