"""What all commands of `ledger` and `usage-stack` have in common: --json, exit codes, completion by a real shell."""

import ast
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from contracts.exit_codes import ExitCode
from deploy.docs import command_reference
from tests.documents import ROOT

PROGRAMS: Final = Path(sys.executable).parent
#: Commands whose output is for people alone, each with its reason.
WITHOUT_JSON: Final[Mapping[str, str]] = {}
SHELL_SECONDS: Final = 30


def commands() -> dict[str, Any]:  # Any: typer has click's types under private names only
    """All but groups, by their whole name."""
    return {name: one for name, one in command_reference.walk() if not hasattr(one, "list_commands")}


# --- --json


def test_every_command_has_json_or_a_reason() -> None:
    without = {name for name, one in commands().items() if not any("--json" in each.opts for each in one.params)}
    assert without == set(WITHOUT_JSON)
    assert {"ledger doctor", "ledger seals verify", "usage-stack up"} <= set(commands())


def test_the_option_is_written_down_in_one_place() -> None:
    declared = [
        path.relative_to(ROOT).as_posix()
        for folder in ("ledger_service", "deploy/local")
        for path in (ROOT / folder).rglob("*.py")
        if 'typer.Option("--json"' in path.read_text()
    ]
    assert declared == ["ledger_service/commands/json_output.py"]


# --- exit codes


def exits(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Exit", "sys.exit")
    ]


def test_no_command_ends_with_a_number_of_its_own() -> None:
    places = [*(ROOT / "ledger_service/commands").glob("*.py"), ROOT / "deploy/local/cli.py"]
    found = {path: exits(path) for path in places}
    assert sum(map(len, found.values())) > 10
    numbers = [
        f"{path.name}: {ast.unparse(call)}"
        for path, calls in found.items()
        for call in calls
        if not call.args
        or any(isinstance(node, ast.Constant) and isinstance(node.value, int) for node in ast.walk(call))
    ]
    assert numbers == []


@pytest.mark.parametrize("program", list(command_reference.APPS))
def test_help_and_reference_tell_every_exit_code(program: str) -> None:
    helped = CliRunner(env={"COLUMNS": "200"}).invoke(command_reference.APPS[program], ["--help"])
    pages = [command_reference.page(), (ROOT / "deploy/guides/command-line.md").read_text()]
    for code in ExitCode:
        assert f"{code.value}  {code.meaning}" in helped.output
        for page in pages:
            assert f"| {code.value} | {code.meaning} |" in " ".join(page.split())


def test_exit_codes_are_those_that_scripts_were_told() -> None:
    told = {"DONE": 0, "FAILED": 1, "WRONG_OPTIONS": 2, "WARNINGS": 3, "INTERRUPTED": 130}
    assert {code.name: code.value for code in ExitCode} == told


def test_wrong_options_end_with_2_and_a_server_that_is_away_with_1() -> None:
    app = command_reference.APPS["ledger"]
    away = CliRunner(env={"LEDGER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    assert away.invoke(app, ["no-such-command"]).exit_code == ExitCode.WRONG_OPTIONS
    assert away.invoke(app, ["verify", "--jobs", "many"]).exit_code == ExitCode.WRONG_OPTIONS
    refused = away.invoke(app, ["tokens", "list", "--json"])
    assert (refused.exit_code, refused.stdout) == (ExitCode.FAILED, "")
    assert "LEDGER_DATABASE_URL" in refused.stderr


# --- completion


def bash(script: str) -> str:
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=SHELL_SECONDS, check=True
    )
    assert done.stderr == ""
    return done.stdout


def completed(*lines: str) -> dict[str, list[str]]:
    """What bash is offered for each of these lines, of one program, in a shell of its own."""
    program = lines[0].split()[0]
    asked = "".join(
        f'COMP_WORDS=({" ".join(words)} "{last}"); COMP_CWORD={len(words)}; COMPREPLY=(); {function} {program}\n'
        f'printf "%s " "${{COMPREPLY[@]}}"; echo\n'
        for line in lines
        for *words, last in [line.split(" ")]
        for function in [f"_{program.replace('-', '_')}_completion"]
    )
    told = bash(f"set -e\nsource <({program} --show-completion bash)\n{asked}").splitlines()
    return dict(zip(lines, (line.split() for line in told), strict=True))


def test_bash_completes_commands_options_and_values() -> None:
    offered = completed("ledger tokens cr", "ledger doctor --accept clock.")
    assert list(offered.values()) == [["create"], ["clock.postgres", "clock.nats"]]
    assert completed("usage-stack do") == {"usage-stack do": ["doctor", "down"]}


def test_names_are_completed_without_importing_any_command() -> None:
    script = (
        "import sys, runpy\nsys.argv = ['ledger']\n"
        "try:\n    runpy.run_module('ledger_service.cli', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(sorted(one for one in sys.modules if one.startswith('ledger_service.commands.')))"
    )
    variables = {"_LEDGER_COMPLETE": "complete_bash", "COMP_WORDS": "ledger ", "COMP_CWORD": "1"}
    program = "_LEDGER_CLI_COMPLETE"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **variables, program: "complete_bash"},
        capture_output=True, text=True, timeout=SHELL_SECONDS, check=True,
    )  # fmt: skip
    assert "doctor\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "['ledger_service.commands.lazily']"


def test_in_a_terminal_a_tab_completes_the_command(tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.environ |= {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PS1": "> ", "HOME": str(tmp_path), "TERM": "dumb"}
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        os.write(terminal, b"source <(ledger --show-completion bash); echo so''urced\n")
        _read_until(terminal, b"sourced")
        os.write(terminal, b"ledger unar\t")
        _read_until(terminal, b"ledger unarchive ")
    finally:
        os.write(terminal, b"\x03exit\n")
        os.close(terminal)
        os.waitpid(process, 0)


def _read_until(terminal: int, words: bytes) -> None:
    told, end = b"", time.monotonic() + SHELL_SECONDS
    while words not in told:
        assert time.monotonic() < end, told
        if select.select([terminal], [], [], 0.1)[0]:
            told += os.read(terminal, 4096)
