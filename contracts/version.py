"""Which version this is. It stands in pyproject.toml alone; deploy/guides/upgrades.md says what its numbers promise."""

import tomllib
from pathlib import Path
from typing import Final

_DISTRIBUTION: Final = "usage-ledger"


def _read() -> str:
    # The file beside this code first: what pip noted of an editable install is the version of the day it was made.
    beside = Path(__file__).parents[1] / "pyproject.toml"
    if beside.is_file():
        project = tomllib.loads(beside.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == _DISTRIBUTION:
            return str(project["version"])
    from importlib import metadata  # takes longer to load than all of this to run

    return metadata.version(_DISTRIBUTION)


VERSION: Final = _read()
