"""How PostgreSQL, which refuses to run as root, is run by root all the same.

It runs as another user, with one capability (read and traverse, no write) where it could not enter its folders
otherwise: a virtual environment in root's home, a data folder in somebody's private one. Where the machine cannot
give a capability to a process, the program is copied to a place that everybody can read. No folder's mode is changed.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import UnreachableFolderError

NOBODY = 65534
PROBE_TIMEOUT_SECONDS = 20.0
CACHE_FOLDER = Path("/var/cache/usage-ledger")
# The smaller capability first; the runtimes of containers withhold it, and grant the second.
_CAPABILITIES = (None, "dac_read_search", "dac_override")


@dataclass(frozen=True)
class Identity:
    """As whom a program runs, and where it lies for that user."""

    programs: Path  # the folder of executables
    prefix: Sequence[str] = ()  # comes before the command
    user: int | None = None  # what the child changes to where no prefix does it
    group: int | None = None


def choose_identity(programs: Path, data: Path, owner: tuple[int, int], death_signal: str) -> Identity:
    """How to run PostgreSQL's programs on the folder `data`, which belongs to `owner` (uid, gid) already.

    As ourselves unless we are root. UnreachableFolderError where no way was found.
    """
    if os.geteuid() != 0:
        return Identity(programs)
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        for capability in _CAPABILITIES:
            prefix = (setpriv, *_setpriv_flags(owner, death_signal, capability))
            if _works(Identity(programs, prefix), data):
                return Identity(programs, prefix)
    return _with_readable_copy(programs, data, owner)


def _setpriv_flags(owner: tuple[int, int], death_signal: str, capability: str | None) -> list[str]:
    flags = [f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups", "--pdeathsig", death_signal]
    if capability is None:
        return [*flags, "--inh-caps=-all"]
    # access(2), which PostgreSQL asks about its own files, honours a capability of an ordinary user only under
    # no_setuid_fixup.
    sets = f"-all,+{capability}"
    return [*flags, "--securebits=+no_setuid_fixup", f"--inh-caps={sets}", f"--ambient-caps={sets}"]


def _works(identity: Identity, data: Path) -> bool:
    """Whether initdb finds its files and the data folder can be entered."""
    script = 'cd "$1" && exec "$2" --show --pgdata="$1"'
    command = [*identity.prefix, "/bin/sh", "-c", script, "sh", str(data), str(identity.programs / "initdb")]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
            cwd="/",
            user=identity.user,
            group=identity.group,
            extra_groups=None if identity.user is None else [],
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _with_readable_copy(programs: Path, data: Path, owner: tuple[int, int]) -> Identity:
    for candidate in (programs, None):
        identity = Identity(candidate or _readable_copy(programs), user=owner[0], group=owner[1])
        if _works(identity, data):
            return identity
    raise UnreachableFolderError(
        f"PostgreSQL does not run as root, and the user it runs as instead (uid {owner[0]}) cannot enter {data}. "
        "Choose a data folder whose parent folders everybody may enter (for example under /var/lib), "
        "or run this as an ordinary user."
    )


def _readable_copy(programs: Path) -> Path:
    """The same programs under CACHE_FOLDER: PREFIX/bin, with the wheel's libraries beside the package as before."""
    installation = programs.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    changed_ns = max(path.stat().st_mtime_ns for path in (programs / "postgres", installation))
    target = CACHE_FOLDER / f"{installation.name}-{changed_ns}"
    if not target.exists():
        try:
            _copy(installation, libraries, target)
        except OSError as error:
            raise UnreachableFolderError(
                f"PostgreSQL's programs in {programs} are not readable for the user it runs as, and could not be "
                f"copied to {CACHE_FOLDER}: {error}. Install into a folder that everybody may read."
            ) from error
    return target / package.name / installation.name / programs.name


def _copy(installation: Path, libraries: Path, target: Path) -> None:
    CACHE_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=CACHE_FOLDER))
    try:
        package = temporary / installation.parent.name
        shutil.copytree(installation, package / installation.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, temporary / libraries.name, symlinks=True)
        for folder, _, files in os.walk(temporary):
            Path(folder).chmod(0o755)
            for name in files:
                file = Path(folder, name)
                if not file.is_symlink():
                    file.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
        with suppress(FileExistsError):
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
