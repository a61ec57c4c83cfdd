"""How the house is built: who may import whom, what stays pure, and what no file may contain."""

import ast
import io
import re
import shutil
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PRODUCTION = ("contracts", "ledger_service", "image_service", "deploy")
LINES_MAX = 400
# A test file is a list of rules, and a long list is not a second responsibility.
TEST_LINES_MAX = 700

#: Standard modules and libraries that the pure core may use: data, arithmetic, types. zoneinfo reads its tables only.
PURE = frozenset(
    {"abc", "bisect", "calendar", "collections", "dataclasses", "datetime", "decimal", "enum", "functools", "heapq"}
    | {"itertools", "json", "math", "operator", "orjson", "pydantic", "pydantic_core", "re", "types", "typing", "uuid"}
    | {"zoneinfo"}
    # Bytes and what is computed from them alone: Ed25519 signs the same text the same way each time.
    | {"base64", "binascii", "cryptography", "hashlib", "hmac", "struct", "zlib"}
)
#: What gives another answer each time it is called, or leaves the process.
IMPURE_NAMES = frozenset({"breakpoint", "eval", "exec", "input", "open", "print", "uuid1", "uuid4", "uuid7"})
IMPURE_METHODS = frozenset({"now", "utcnow", "today", "uuid1", "uuid4", "uuid7", "read_text", "write_text"})
READERS = ("deploy", "ledger_service.arrow_start", "contracts.settings_reading")
ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb", "putenv"})


class Module(NamedTuple):
    """A source file: its dotted name, where it is, and what it says."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of production code."""
    found = []
    for package in PRODUCTION:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append(Module(_dotted(path), path, text, ast.parse(text)))
    return tuple(found)


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """All it imports, as dotted names with their lines; also inside functions and for the type checker alone."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name.split(".")
                if module.path.name != "__init__.py":
                    package = package[:-1]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            # "from a import b" may mean the module a.b.
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(members: tuple[str, ...], offends: Callable[[str], bool]) -> list[str]:
    """Imports that offend, as ``file:line imports name``, of the modules within ``members``."""
    return [
        f"{module.place}:{line} imports {name}"
        for module in modules()
        if within(module.name, *members)
        for name, line in imports(module)
        if offends(name)
    ]


def test_there_is_something_to_look_at() -> None:
    assert {module.name.split(".")[0] for module in modules()} == set(PRODUCTION)
    assert any(within(module.name, "ledger_service.domain") for module in modules())


# --- who imports whom


def test_contracts_import_nothing_of_ours() -> None:
    others = ("ledger_service", "image_service", "deploy", "tests")
    assert offences(("contracts",), lambda name: within(name, *others)) == []


def test_only_the_client_and_access_in_contracts_do_input_and_output() -> None:
    """The rest is shapes and rules, which the ledger's pure core uses too; http_problems serves both services, and
    so do batching and the API of pages, which only wait."""
    io = ("asyncio", "httpx", "nats", "sqlite3", "socket", "threading", "queue", "concurrent", "fcntl", "asyncpg")
    shapes = tuple(
        module.name
        for module in modules()
        if within(module.name, "contracts")
        and module.name not in ("contracts", "contracts.access", "contracts.web")
        and not within(
            module.name,
            "contracts.client",
            *(f"contracts.access.{one}" for one in ("jwks", "authenticator", "oidc_login", "http_connections")),
        )
        and module.name not in ("contracts.access.nats_access", "contracts.public_hosts")
        and module.name not in ("contracts.batching", "contracts.web.own_api")
    )
    assert "contracts.events" in shapes
    assert offences(shapes, lambda name: within(name, *io, "contracts.client")) == []


def test_the_ledger_is_no_client_of_itself() -> None:
    assert offences(("ledger_service",), lambda name: within(name, "contracts.client")) == []


def test_services_never_import_each_other() -> None:
    assert offences(("ledger_service",), lambda name: within(name, "image_service")) == []
    assert offences(("image_service",), lambda name: within(name, "ledger_service")) == []


def test_services_import_neither_deployment_nor_tests() -> None:
    assert offences(("ledger_service", "image_service"), lambda name: within(name, "deploy", "tests")) == []
    assert offences(("deploy",), lambda name: within(name, "tests")) == []


def test_emulators_know_nothing_of_our_services() -> None:
    """They say what the providers do, not what our clients expect."""
    ours = ("image_service", "ledger_service", "deploy.local", "tests")
    assert offences(("deploy.emulators",), lambda name: within(name, *ours)) == []


@pytest.mark.parametrize(
    ("layer", "allowed"),
    [
        ("ledger_service.domain", ("contracts", "ledger_service.domain")),
        ("ledger_service.store", ("contracts", "ledger_service.domain", "ledger_service.store")),
        (
            "ledger_service.projections",
            ("contracts", "ledger_service.domain", "ledger_service.store", "ledger_service.projections"),
        ),
    ],
)
def test_ledger_layers_import_downwards(layer: str, allowed: tuple[str, ...]) -> None:
    ours = (*PRODUCTION, "tests")
    assert offences((layer,), lambda name: within(name, *ours) and not within(name, *allowed)) == []


def test_store_does_not_import_projections() -> None:
    assert offences(("ledger_service.store",), lambda name: within(name, "ledger_service.projections")) == []


def test_nothing_below_imports_the_ledgers_api() -> None:
    above = ("ledger_service.api", "ledger_service.rpc", "ledger_service.main", "ledger_service.__main__")
    below = tuple(
        module.name
        for module in modules()
        if within(module.name, "ledger_service")
        and module.name != "ledger_service"
        and not within(module.name, *above, "ledger_service.cli")
    )
    assert offences(below, lambda name: within(name, *above)) == []


# --- what is pure


def test_domain_imports_only_what_is_pure() -> None:
    ours = ("contracts", "ledger_service.domain")
    assert (
        offences(("ledger_service.domain",), lambda name: not within(name, *ours) and name.split(".")[0] not in PURE)
        == []
    )


def test_domain_does_no_input_output_and_asks_no_clock() -> None:
    found = []
    for module in modules():
        if not within(module.name, "ledger_service.domain"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
                found.append(f"{module.place}:{node.lineno} {node.id}")
            elif isinstance(node, ast.Attribute) and node.attr in IMPURE_METHODS:
                found.append(f"{module.place}:{node.lineno} .{node.attr}")
            elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
                found.append(f"{module.place}:{node.lineno} is asynchronous")
        found += [
            f"{module.place}:{line} {name}" for name, line in imports(module) if name.split(".")[-1] in IMPURE_NAMES
        ]
    assert found == []


def test_environment_is_read_in_config_only() -> None:
    """But for arrow_start, which sets what another library reads, and settings_reading, by which configs are read."""
    found = []
    for module in modules():
        if within(module.name, *READERS) or module.path.name == "config.py":
            continue
        found += [
            f"{module.place}:{node.lineno} .{node.attr}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
        ]
        found += [
            f"{module.place}:{line} {name}"
            for name, line in imports(module)
            if within(name, "pydantic_settings") or (within(name, "os") and name.split(".")[-1] in ENVIRONMENT)
        ]
    assert found == []


# --- what no file may be called, hold or lack


def test_modules_are_named_after_what_they_do() -> None:
    vague = re.compile(r"^_*(util|utils|utilities|helper|helpers|common|misc|shared|stuff)$")
    names = [(module.place, part) for module in modules() for part in module.name.split(".")]
    names += [(str(path.relative_to(ROOT)), path.stem) for path in (ROOT / "tests").rglob("*.py")]
    assert [place for place, part in names if vague.match(part)] == []


def test_every_package_is_a_package() -> None:
    folders = {module.path.parent for module in modules()}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def lines_max(place: str) -> int:
    return TEST_LINES_MAX if place.startswith("tests/") else LINES_MAX


def test_files_are_short() -> None:
    paths = [*(module.path for module in modules()), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {place: lines for place, lines in lengths.items() if lines >= lines_max(place)} == {}


def test_every_sql_file_has_its_module_beside_it() -> None:
    # journal_schema.sql belongs to journal.py; migrations are run in their order, by no module of their own.
    lonely = []
    for package in PRODUCTION:
        for path in (ROOT / package).rglob("*.sql"):
            if path.parent.name == "migrations":
                continue
            names = {path.stem, path.stem.removesuffix("_schema")}
            if not any(path.with_name(f"{name}.py").exists() for name in names):
                lonely.append(str(path.relative_to(ROOT)))
    assert sorted(lonely) == []


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def test_any_has_a_reason_beside_it() -> None:
    found = []
    for module in modules():
        comments, lines = _comments(module.text), module.text.splitlines()
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Name | ast.Attribute):
                continue
            if (node.id if isinstance(node, ast.Name) else node.attr) != "Any":
                continue
            # The reason stands on the line, or where there is no room for it, alone on the line above.
            above = node.lineno - 1
            reasoned = node.lineno in comments or (above in comments and lines[above - 1].lstrip().startswith("#"))
            if not reasoned:
                found.append(f"{module.place}:{node.lineno}")
    assert sorted(set(found)) == []


def test_ignored_types_have_a_reason_on_the_line() -> None:
    reasoned = re.compile(r"#\s*type:\s*ignore\[[\w\-, ]+\]\s*#\s*\S")
    found = [
        f"{module.place}:{line} {comment}"
        for module in modules()
        for line, comment in _comments(module.text).items()
        if re.search(r"#\s*type:\s*ignore", comment) and not reasoned.search(comment)
    ]
    assert found == []


# --- what belongs to one machine


#: Home folders and work folders; written so that it does not find itself.
_PRIVATE_PLACE = re.compile(r"(?<![\w.~/-])/(?:home|work|root|Users)/\w|[A-Z]:\\Users\\|file:///(?:home|work|root)/")
_SKIPPED = frozenset({".git", ".venv", ".tools", ".data", "build", "dist", "node_modules", "__pycache__"})


def _published_files() -> list[Path]:
    """What the repository holds or would take; without git, every file that is not built."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        if listed.returncode == 0:
            return [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in ROOT.rglob("*") if _SKIPPED.isdisjoint(path.relative_to(ROOT).parts)]


def private_places(text: str) -> list[str]:
    """The lines that name a folder of somebody's machine."""
    return [line.strip() for line in text.splitlines() if _PRIVATE_PLACE.search(line)]


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    files = [path for path in _published_files() if path.is_file()]
    assert ROOT / "pyproject.toml" in files
    found = {}
    for path in files:
        content = path.read_bytes()
        if b"\0" not in content and (places := private_places(content.decode("utf-8", "replace"))):
            found[str(path.relative_to(ROOT))] = places
    assert found == {}


@pytest.mark.parametrize("user_folder", ["home", "work", "root", "Users"])
def test_private_places_are_recognised(user_folder: str) -> None:
    assert private_places(f"x = '/{user_folder}/somebody/file'")
    assert private_places(f"see /{user_folder}/a")
    assert not private_places(f"see https://example.org/{user_folder}/a and ./{user_folder}/a and /{user_folder}")
