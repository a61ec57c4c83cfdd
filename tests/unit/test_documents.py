"""What pages and runbooks name in passing is there: commands with their options, targets of make, settings, routes,
problems, and in runbooks also metrics, lines of the logs and whatever else is a name."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import pytest

from contracts.problems import PROBLEM_TYPES
from deploy.docs import command_reference, settings_reference
from deploy.docs.markdown import lines_outside_code
from image_service.access import RULES as IMAGE_RULES
from ledger_service.api.access import RULES as LEDGER_RULES
from tests.documents import PAGES, ROOT, blocks_of

_SPAN: Final = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_ROUTE: Final = re.compile(r"^(GET|PUT|POST|DELETE) (/v1/[^\s?]*)")
_PROBLEM: Final = re.compile(r"\b[45]\d\d `([a-z_]+)`")
#: Variables of the services as they stand in texts; those of tests and of others' programs have other prefixes.
_VARIABLE: Final = re.compile(r"\b(?:LEDGER|IMAGE)_[A-Z][A-Z_]*[A-Z]\b")
#: Told of as what was once, or in words of others: decisions are history, and so are lines of the changelog.
HISTORY: Final = re.compile(r"^(?:deploy/decisions/|CHANGELOG\.md)")
RUNBOOKS: Final = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "deploy/runbooks").glob("*.md")))
CURRENT: Final = (*(page for page in PAGES if not HISTORY.match(page)), *RUNBOOKS)
#: Names in runbooks that are other programs'.
OF_OTHERS: Final = frozenset(
    {"idle_in_transaction_session_timeout", "pg_prepared_xacts", "pg_stat_activity", "pg_test_fsync", "wait_event_type"}
)
LEVELS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical"})


def prose(page: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return "".join(line for _, line, is_prose in lines_outside_code(text) if is_prose)


def spans(page: str) -> Iterator[str]:
    for found in _SPAN.findall(prose(page)):
        yield " ".join(found.split())


@cache
def commands() -> dict[str, Any]:  # Any: click's commands, as typer has them
    return dict(command_reference.walk())


def wrong_in(line: str) -> str | None:
    """What is wrong with a command of ours; None where all of it is there."""
    words = re.sub(r"\s#.*|[|>&;].*", "", line).split()
    name = words.pop(0)
    while words and f"{name} {words[0]}" in commands():
        name = f"{name} {words.pop(0)}"
    command = commands()[name]
    if hasattr(command, "list_commands"):
        is_known = not words or words[0].startswith("-") or not re.fullmatch(r"[a-z-]+", words[0])
        return None if is_known else f"there is no command {name} {words[0]}"
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    unknown = [word for word in words if re.match(r"--[a-z]", word) and word.partition("=")[0] not in known]
    return f"{name} has no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", CURRENT)
def test_commands_and_their_options_are_there(page: str) -> None:
    lines = [span for span in spans(page) if re.match(r"(?:ledger|usage-stack) [a-z]", span)]
    for block in blocks_of(page):
        if block.language == "sh":
            joined = block.text.replace("\\\n", " ")
            lines += [line for line in joined.splitlines() if re.match(r"(?:ledger|usage-stack) [a-z]", line)]
    assert [(line, wrong_in(line)) for line in lines if wrong_in(line)] == []


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert wrong_in("ledger verify --account acme   # --no-such") is None
    assert wrong_in("ledger verify --acount acme") == "ledger verify has no option --acount"
    assert wrong_in("ledger dead-letters revive 42") == "there is no command ledger dead-letters revive"


@pytest.mark.parametrize("page", CURRENT)
def test_targets_of_make_are_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for span in spans(page) for word in re.findall(r"^make ([a-z-]+)", span)}
    for block in blocks_of(page):
        named |= set(re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", CURRENT)
def test_settings_are_there(page: str) -> None:
    named = set(_VARIABLE.findall((ROOT / page).read_text(encoding="utf-8")))
    assert named <= set(settings_reference.variables())


@pytest.mark.parametrize("page", CURRENT)
def test_routes_and_problems_are_there(page: str) -> None:
    routes = {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in (*LEDGER_RULES, *IMAGE_RULES)}
    named = {found.groups() for span in spans(page) if (found := _ROUTE.match(span))}
    plain = {(method, re.sub(r"\{[^}]*\}|<[^>]*>", "{}", path)) for method, path in named}
    fits = {one for one in plain for route in routes if one[0] == route[0] and _fits(one[1], route[1])}
    assert plain - fits == set()
    codes = set(_PROBLEM.findall(prose(page)))
    assert codes <= {kind.code for kind in PROBLEM_TYPES}


class Said(NamedTuple):
    """By the code."""

    #: What is logged, told by metrics or said to callers, and the fields of what they get.
    names: frozenset[str]
    #: The events of its logs.
    logged: frozenset[str]


@cache
def in_the_code() -> Said:
    names, logged = set(), set()
    for package in ("contracts", "image_service", "ledger_service", "deploy"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                match node:
                    case ast.Constant(value=str(text)):
                        names.add(text)
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        names.add(name)
                    case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(event)), *_]):
                        if level in LEVELS:
                            logged.add(event)
    return Said(frozenset(names), frozenset(logged))


def unknown_names(text: str) -> list[str]:
    """Names in spans of code that nothing in the code is called."""
    named = {
        name
        for span in _SPAN.findall(text)
        if not span.startswith(("select ", "ledger ", "GET ", "PUT ", "POST ", "DELETE ", "/"))
        for name in re.findall(r"(?<![\w/.-])[a-z]+(?:_[a-z]+)+(?![\w/-])", span)
    }
    return sorted(named - in_the_code().names - OF_OTHERS)


@pytest.mark.parametrize("page", RUNBOOKS)
def test_names_in_runbooks_are_there(page: str) -> None:
    assert unknown_names(prose(page)) == []


@pytest.mark.parametrize("page", RUNBOOKS)
def test_lines_of_the_log_in_runbooks_are_logged(page: str) -> None:
    said = re.findall(
        r"(?:^- The(?: \w+'s)? log[^:]*: |log says )((?:`[a-z_]+`(?:, | and | or )?)+)", prose(page), re.MULTILINE
    )
    named = {name for words in said for name in re.findall(r"`([a-z_]+)`", words)}
    assert named <= in_the_code().logged


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert unknown_names(
        "see `ledger_ingest_lag_sekonds` and `rate(ledger_dead_letters_total[5m])`, `pg_stat_activity`"
    ) == ["ledger_ingest_lag_sekonds"]
    assert {"ingest_waits", "sealing_waits", "cannot_start"} <= in_the_code().logged
    assert "ingest_wartet" not in in_the_code().logged


def _fits(named: str, path: str) -> bool:
    """Values may stand for parameters (``/v1/periods/2025-11:close``), and … for the rest."""
    as_values = re.escape(path).replace(r"\{\}", "[^/]+")
    as_patterns = re.escape(named).replace(r"\{\}", "[^/]+").replace("…", ".+")
    return bool(re.fullmatch(as_values, named) or re.fullmatch(as_patterns, path))
