"""The one-machine stack on real processes. Our services are stand-ins here: this is about who starts and stops them."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from typer.testing import CliRunner

from deploy.local import unprivileged
from deploy.local.cli import app
from deploy.local.errors import (
    FolderInUseError,
    FolderVersionError,
    ForeignFolderError,
    NotReadyError,
    PortTakenError,
    RepeatedFailureError,
    UnreachableFolderError,
)
from deploy.local.folder import DataFolder, read_environment, read_state
from deploy.local.ports import HOST, claim, free_port
from deploy.local.postgres import postgres_programs
from deploy.local.processes import ManagedProcess
from deploy.local.servers import NatsServer, PostgresServer
from deploy.local.services import ServiceCommands
from deploy.local.stack import ExternalServers, StackOptions, running_stack

WAIT_SECONDS = 60.0
STAND_IN = """
import http.server, os, sys
if sys.argv[1] == "crash":
    sys.exit("stand-in: no such table")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ[sys.argv[1]])), Handler).serve_forever()
"""
# A process of its own, so that it can get signals and be killed: usage-stack with other service commands.
SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from deploy.local.cli import run_until_stopped
from tests.integration.test_local_stack import options
wanted = options(Path(sys.argv[1]), ledger=sys.argv[2])
sys.exit(asyncio.run(run_until_stopped(wanted, as_json="--json" in sys.argv)))
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")


def options(data: Path, *, ledger: str = "LEDGER_PORT", external: ExternalServers | None = None) -> StackOptions:
    stand_in = (sys.executable, "-c", STAND_IN)
    return StackOptions(
        data_dir=data,
        commands=ServiceCommands(
            migrate=(sys.executable, "-c", "pass"), ledger=(*stand_in, ledger), image=(*stand_in, "IMAGE_PORT")
        ),
        environment={"STACK_FOLDER": str(data)},
        external=external or ExternalServers(),
        durable=False,
        ready_timeout_seconds=WAIT_SECONDS,
    )


def supervise(data: Path, ledger: str = "LEDGER_PORT", *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(data), ledger, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def processes_on(data: Path) -> list[int]:
    """Of PostgreSQL, NATS and the stand-ins on a folder; a zombie has neither arguments nor environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(data) in words:
                found.append(int(entry.name))
    return found


def pids_of(data: Path) -> dict[str, int | None]:
    state = read_state(data)
    assert state is not None
    return asdict(state.pids)


def kill(process: ManagedProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: process.exit_code() is not None)


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.fixture
def supervisor_of() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(data: Path, ledger: str = "LEDGER_PORT", *more: str) -> subprocess.Popen[str]:
        started.append(supervise(data, ledger, *more))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# --- the servers ---


async def test_postgres_keeps_its_data_and_port_through_a_kill(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    try:
        url = server.url
        await ask(url, "create table kept as select 42 as answer")
        kill(server)
        server.start()
        assert server.url == url
        assert await ask(url, "select answer from kept") == 42
        assert await ask(url, "select current_setting('fsync')") == "on"
        assert stat.S_IMODE((server.data_dir / "password").stat().st_mode) == 0o600
    finally:
        server.stop()
    assert processes_on(tmp_path) == []


async def test_nats_keeps_its_messages_and_port_through_a_kill(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", sync_interval="always")
    server.start()
    try:
        url = server.url
        client = await nats.connect(url)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await client.jetstream().publish("kept", b"42")
        await client.close()
        kill(server)
        server.start()
        assert server.url == url
        client = await nats.connect(url)
        assert (await client.jetstream().get_msg("KEPT", 1)).data == b"42"
        await client.close()
    finally:
        server.stop()


async def test_a_lock_file_that_names_a_strangers_process_does_not_hinder(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", durable=False)
    server.start()
    kill(server)
    until(lambda: processes_on(tmp_path) == [])
    # Of the server's own user: PostgreSQL believes only in predecessors that it may signal.
    owner = server.cluster.stat().st_uid if os.geteuid() == 0 else None
    bystander = subprocess.Popen(["sleep", "60"], user=owner)
    try:
        lock = server.cluster / "postmaster.pid"
        lock.write_text("\n".join([str(bystander.pid), *lock.read_text().splitlines()[1:]]) + "\n")
        server.start()
        assert await ask(server.url, "select 1") == 1
        assert bystander.poll() is None
    finally:
        server.stop()
        bystander.kill()
        bystander.wait()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", durable=False, settings={"shared_buffers": "lots"})
    with pytest.raises(NotReadyError, match=r'(?s)exited with code 1.*invalid value for parameter "shared_buffers"'):
        server.start()


@as_root
@pytest.mark.parametrize("setpriv", [True, False])
async def test_programs_that_only_root_can_reach(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, setpriv: bool
) -> None:
    """Run where they are, with a capability; from a copy where the machine cannot give one."""
    private, cache = open_folder / "private", open_folder / "cache"
    private.mkdir(mode=0o700)
    programs = postgres_programs()
    package = programs.parents[1]
    for name in (package.name, f"{package.name}.libs"):
        other_versions = shutil.ignore_patterns("pginstall")
        shutil.copytree(package.with_name(name), private / name, symlinks=True, ignore=other_versions)
    private_programs = private / programs.relative_to(package.parent)
    monkeypatch.setattr("deploy.local.postgres.postgres_programs", lambda: private_programs)
    monkeypatch.setattr(unprivileged, "CACHE_FOLDER", cache)
    if not setpriv:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    server = PostgresServer(open_folder / "postgres", durable=False)
    server.start()
    try:
        assert await ask(server.url, "select 1") == 1
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(private if setpriv else cache)
    finally:
        server.stop()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@as_root
def test_without_setpriv_an_unreachable_data_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(unprivileged, "CACHE_FOLDER", tmp_path / "cache")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UnreachableFolderError, match="Choose a data folder"):
        PostgresServer(tmp_path / "postgres").start()


# --- ports and folders ---


def test_a_taken_port_names_its_flag() -> None:
    with socket.create_server((HOST, 0)) as taken, pytest.raises(PortTakenError, match=r"is taken.*--ledger-port"):
        claim(taken.getsockname()[1], "--ledger-port")


def test_free_ports_are_not_those_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < max(first, 32_768) for _ in range(50))


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ForeignFolderError, match="--data"):
        DataFolder.open(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("postgres_major", 17)])
def test_the_folder_of_another_version_is_refused(tmp_path: Path, key: str, value: int) -> None:
    DataFolder.open(tmp_path).close()
    version = json.loads((tmp_path / "version.json").read_text())
    (tmp_path / "version.json").write_text(json.dumps({**version, key: value}))
    with pytest.raises(FolderVersionError, match="another version"):
        DataFolder.open(tmp_path)


def test_one_folder_serves_one_stack(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path)
    with pytest.raises(FolderInUseError, match=f"pid {os.getpid()}"):
        DataFolder.open(tmp_path)
    first.close()
    DataFolder.open(tmp_path).close()


# --- the stack ---


def test_up_is_ready_survives_kills_and_stops_clean(
    tmp_path: Path, supervisor_of: Callable[..., subprocess.Popen[str]]
) -> None:
    supervisor = supervisor_of(tmp_path)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "ready\n"
    before = read_state(tmp_path)
    assert before is not None
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600

    for name, pid in asdict(before.pids).items():
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: pids_of(tmp_path)[name] != pid)  # type: ignore[misc]
    after = read_state(tmp_path)
    assert after is not None
    assert (after.ledger_url, after.image_url, after.nats_url) == (before.ledger_url, before.image_url, before.nats_url)
    assert after.database_url == before.database_url
    until(lambda: answers(str(after.database_url)))

    supervisor.send_signal(signal.SIGTERM)
    output, errors = supervisor.communicate(timeout=WAIT_SECONDS)
    assert (supervisor.returncode, output) == (0, "")
    assert errors.count("was ended by SIGKILL: starting it again") == 4
    assert processes_on(tmp_path) == []
    assert read_state(tmp_path) is None


def answers(database_url: str) -> bool:
    try:
        return asyncio.run(ask(database_url, "select 1")) == 1
    except (OSError, asyncpg.PostgresError):
        return False


def test_a_killed_supervisor_takes_all_with_it_and_the_next_one_starts(
    tmp_path: Path, supervisor_of: Callable[..., subprocess.Popen[str]]
) -> None:
    for _ in range(2):
        supervisor = supervisor_of(tmp_path)
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "ready\n"
        assert len(processes_on(tmp_path)) >= 4
        supervisor.kill()
        until(lambda: processes_on(tmp_path) == [])


def test_the_next_start_works_after_all_were_killed_at_once(
    tmp_path: Path, supervisor_of: Callable[..., subprocess.Popen[str]]
) -> None:
    supervisor = supervisor_of(tmp_path)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "ready\n"
    for pid in [supervisor.pid, *processes_on(tmp_path)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    supervisor = supervisor_of(tmp_path)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "ready\n"


def test_a_second_up_on_the_folder_is_refused(
    tmp_path: Path, supervisor_of: Callable[..., subprocess.Popen[str]]
) -> None:
    first = supervisor_of(tmp_path, "LEDGER_PORT", "--json")
    assert first.stdout is not None
    told = json.loads(first.stdout.readline())
    assert told["ready"]
    second = supervisor_of(tmp_path)
    _, errors = second.communicate(timeout=WAIT_SECONDS)
    assert second.returncode == 2
    assert f"in use by a running stack (pid {first.pid})" in errors
    assert read_state(tmp_path) is not None
    script = [sys.executable, "-m", "deploy.local.cli"]

    def asked(command: str, code: int) -> object:
        done = subprocess.run([*script, command, "--data", tmp_path, "--json"], check=False, capture_output=True)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout or "null")

    assert asked("status", 0) == told
    assert "postgres" in told["servers"]
    state = read_state(tmp_path)
    assert state is not None
    for url in (str(state.database_url), state.nats_url):
        password = urlsplit(url).password
        assert password
        assert password not in json.dumps(told)
    assert asked("down", 0) == {"stopped": first.pid}
    assert first.wait(WAIT_SECONDS) == 0
    assert asked("status", 1) == {"ready": False, "data": str(tmp_path)}


def test_the_ledgers_settings_are_in_a_file_for_the_command_and_its_owner(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "data")
    settings = {
        "LEDGER_DATABASE_URL": "postgresql://x:p$w'd@127.0.0.1:1/x",
        "LEDGER_SEALS_FILE": "/a folder/with spaces",
    }
    folder.write_environment("ledger.env", settings)
    folder.close()
    file = tmp_path / "data" / "ledger.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_environment(file) == settings
    shell = 'set -a; . "$1"; python3 -c "import json, os; print(json.dumps(dict(os.environ)))"'
    told = subprocess.run(["bash", "-c", shell, "-", str(file)], capture_output=True, check=True)
    assert settings.items() <= json.loads(told.stdout).items()


def test_doctor_of_a_folder_without_a_stack_says_what_to_do(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path), "--json"])
    assert (run.exit_code, run.stdout) == (1, "")
    assert "usage-stack up --data" in run.stderr

    folder = DataFolder.open(tmp_path / "data")
    servers = {name: f"{scheme}://127.0.0.1:{free_port()}" for name, scheme in (
        ("LEDGER_DATABASE_URL", "postgresql"), ("LEDGER_NATS_URL", "nats"),
    )}  # fmt: skip
    folder.write_environment("ledger.env", servers)
    folder.close()
    script = [sys.executable, "-m", "deploy.local.cli", "doctor", "--data", str(folder.path), "--json"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No stack runs on" in done.stderr
    failures = {one["id"] for one in json.loads(done.stdout)["findings"] if one["status"] == "failure"}
    assert failures >= {"postgres.reachable", "nats.reachable"}


def test_a_stop_while_it_starts_leaves_nothing(
    tmp_path: Path, supervisor_of: Callable[..., subprocess.Popen[str]]
) -> None:
    supervisor = supervisor_of(tmp_path)
    until(lambda: (tmp_path / "postgres").exists())
    supervisor.send_signal(signal.SIGINT)
    output, _ = supervisor.communicate(timeout=WAIT_SECONDS)
    assert (supervisor.returncode, output) == (0, "")
    assert processes_on(tmp_path) == []


def test_a_service_that_does_not_start_is_quoted(
    tmp_path: Path, supervisor_of: Callable[..., subprocess.Popen[str]]
) -> None:
    supervisor = supervisor_of(tmp_path, "crash")
    output, errors = supervisor.communicate(timeout=WAIT_SECONDS)
    assert (supervisor.returncode, output) == (2, "")
    assert "ledger exited with code 1" in errors
    assert "stand-in: no such table" in errors
    assert processes_on(tmp_path) == []


async def test_a_service_that_keeps_dying_ends_the_stack(tmp_path: Path) -> None:
    reports: list[str] = []
    dies_after_the_first = f"""
import os, sys
mark = os.environ["STACK_FOLDER"] + "/logs/started"
if os.path.exists(mark):
    sys.exit("stand-in: disk full")
open(mark, "w").close()
sys.argv[1] = "LEDGER_PORT"
{STAND_IN}
"""
    plain = options(tmp_path)
    ledger = (sys.executable, "-c", dies_after_the_first, "")
    broken = replace(plain, commands=replace(plain.commands, ledger=ledger))

    async def run() -> None:
        async with running_stack(broken, reports.append) as stack:
            os.kill(stack.state.pids.ledger or 0, signal.SIGKILL)
            await asyncio.wait_for(stack.wait(), WAIT_SECONDS)

    with pytest.raises(RepeatedFailureError, match=r"(?s)ledger .* 5th time.*stand-in: disk full"):
        await run()
    assert 4 <= len(reports) <= 5
    assert processes_on(tmp_path) == []


async def test_servers_of_the_environment_are_used_instead(tmp_path: Path) -> None:
    database = PostgresServer(tmp_path / "postgres", durable=False)
    database.start()
    broker = NatsServer(tmp_path / "nats")
    broker.start()
    try:
        external = ExternalServers.from_environment(
            {"LEDGER_DATABASE_URL": database.url, "LEDGER_NATS_URL": broker.url}
        )
        async with running_stack(options(tmp_path / "stack", external=external)) as stack:
            assert (stack.state.database_url, stack.state.nats_url) == (database.url, broker.url)
            assert (stack.state.pids.nats, stack.state.pids.postgres) == (None, None)
            assert not (tmp_path / "stack" / "postgres").exists()
        assert (database.running, broker.running) == (True, True)
    finally:
        broker.stop()
        database.stop()
