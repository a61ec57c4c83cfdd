"""The scripts and styles of others that browsers are sent are those that the lock file names."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "contracts/web/static/vendor"
MODULES = ROOT / ".tools/web/node_modules"


def test_committed_files_are_what_npm_installs() -> None:
    if not MODULES.exists():
        pytest.skip("npm installed nothing here: sh deploy/web/vendor.sh --only-install")
    committed = [path for path in VENDOR.iterdir() if path.suffix in {".js", ".css"}]
    assert len(committed) == 5
    for file in committed:
        # Packages keep what they ship in dist/, or are nothing else.
        [original] = [*MODULES.glob(f"*/dist/{file.name}"), *MODULES.glob(f"*-dist/{file.name}")]
        assert file.read_bytes() == original.read_bytes(), file.name


def test_each_has_its_licence_beside_it() -> None:
    assert {path.stem for path in VENDOR.glob("*.LICENSE")} == {
        "chart.js", "htmx-ext-sse", "htmx.org", "swagger-ui-dist",
    }  # fmt: skip
