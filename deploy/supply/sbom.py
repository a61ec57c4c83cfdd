"""`make sbom`: what is in requirements.lock as a bill of materials, CycloneDX 1.6 in JSON.

Each component has the hashes that installing it is held to, what it needs, and whether the product needs it (scope
`required`) or its development alone (`excluded`). Nothing is asked of any network; the same lock file makes the same
components.
"""

import sys
import tomllib
from pathlib import Path
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from rich.console import Console

from deploy.supply.lock import LOCK, PROJECT, TOOLS, LockError, needed_at_run_time, read_lock

DEFAULT: Final = Path("build/sbom.cdx.json")
_PYPROJECT: Final = LOCK.with_name("pyproject.toml")


def make_bom(lock: str, pyproject: str) -> Bom:
    """Of the texts of both files. Raises LockError."""
    about = tomllib.loads(pyproject)["project"]
    product = Component(
        type=ComponentType.APPLICATION,
        name=about["name"],
        version=about["version"],
        bom_ref=about["name"],
        description=about["description"],
        licenses=[DisjunctiveLicense(id=about["license"])],
    )
    bom = Bom(components=[])
    bom.metadata.component = product
    pins = read_lock(lock)
    needed = needed_at_run_time(pins)
    components = {}
    for pin in pins:
        components[pin.name] = Component(
            type=ComponentType.LIBRARY,
            name=pin.name,
            version=pin.version,
            bom_ref=f"{pin.name}=={pin.version}",
            purl=PackageURL("pypi", name=pin.name, version=pin.version),
            scope=ComponentScope.REQUIRED if pin.name in needed else ComponentScope.EXCLUDED,
            # Of several files, of which one is installed: a component's own hashes would all have to fit it.
            properties=[Property(name="usage-ledger:lock:sha256", value=digest) for digest in pin.sha256],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=pin.sha256[0])] if len(pin.sha256) == 1 else [],
        )
        bom.components.add(components[pin.name])
    for pin in pins:
        for who in pin.wanted_by:
            if who in (PROJECT, TOOLS):
                bom.register_dependency(product, [components[pin.name]])
            elif who in components:
                bom.register_dependency(components[who], [components[pin.name]])
            else:
                raise LockError(f"{pin.name} is wanted by {who}, which is not locked")
    return bom


def written(bom: Bom) -> str:
    """As JSON that its schema allows. Raises LockError."""
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise LockError(f"not CycloneDX: {wrong}")
    return text


def main(argv: list[str]) -> int:
    console = Console(stderr=True, highlight=False)
    target = Path(argv[0]) if argv else DEFAULT
    try:
        bom = make_bom(LOCK.read_text(), _PYPROJECT.read_text())
        text = written(bom)
    except LockError as error:
        console.print(f"requirements.lock: {error}", style="red", markup=False)
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n")
    required = sum(one.scope is ComponentScope.REQUIRED for one in bom.components)
    console.print(f"{target}: {len(bom.components)} components, {required} of them in the product", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
