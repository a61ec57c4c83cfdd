"""The scripts of others that browsers are sent are those that the lock file names."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "contracts/web/static/vendor"
MODULES = ROOT / ".tools/web/node_modules"


def test_committed_scripts_are_what_npm_installs() -> None:
    if not MODULES.exists():
        pytest.skip("npm installed nothing here: sh deploy/web/vendor.sh --only-install")
    originals = [path for path in MODULES.glob("*/dist/*.js") if (VENDOR / path.name).exists()]
    assert {path.name for path in originals} == {path.name for path in VENDOR.glob("*.js")}
    for original in originals:
        assert (VENDOR / original.name).read_bytes() == original.read_bytes(), original.name


def test_each_has_its_licence_beside_it() -> None:
    assert {path.stem for path in VENDOR.glob("*.LICENSE")} == {"chart.js", "htmx-ext-sse", "htmx.org"}
