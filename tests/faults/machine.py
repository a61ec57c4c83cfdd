"""What a fault needs of the machine, and may not get: a clock that can be set for one process, a disk that fills up."""

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

COMMAND_SECONDS: Final = 60
DISK_BYTES: Final = 1536 * 1024 * 1024
_NANOS: Final = 10**9


class UnavailableError(Exception):
    """This machine cannot do it; says why."""


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except FileNotFoundError as error:
        raise UnavailableError(f"there is no {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"{' '.join(command)}: {error.stderr.strip()}") from error


class Clocks:
    """The wall clocks of single processes, by name: those of the services, and of each program that is preloaded."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """UnavailableError where there is no C compiler to make the library with."""
        # Not below pytest's folder, which is closed to the user that PostgreSQL runs as.
        self._folder = Path(tempfile.mkdtemp(prefix="usage-ledger-clocks-"))
        self._folder.chmod(0o755)
        library = self._folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        try:
            _run("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl")
        except UnavailableError:
            self.close()
            raise
        for name in names:
            self.set(name, 0.0)
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CLOCKS": str(self._folder)}

    def set(self, name: str, seconds: float) -> None:
        """How far its clock is ahead of the machine's."""
        file = self._folder / name
        file.touch(0o644)
        with file.open("r+b") as opened:  # in place: it is mapped
            opened.write(int(seconds * _NANOS).to_bytes(8, "little", signed=True))

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class SmallDisk:
    """A file system of its own, in a file, at ``place``; ``fill`` leaves no room on it, ``empty`` gives it back."""

    def __init__(self, place: Path, image: Path) -> None:
        """UnavailableError where this user may not mount."""
        self._place, self._filler = place, place / "filler"
        self._image = image
        place.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        try:
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
            _run("mount", "-o", "loop", str(image), str(place))
        except UnavailableError:
            image.unlink()
            raise
        shutil.rmtree(place / "lost+found")

    def fill(self) -> int:
        """How many bytes it took."""
        written = 0
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                written += file.write(bytes(1024 * 1024)) or 0
        return written

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(("umount", "-l", str(self._place)), check=False, capture_output=True, timeout=COMMAND_SECONDS)
        self._image.unlink(missing_ok=True)
