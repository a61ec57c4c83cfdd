"""``python -m tests.faults.child ledger|image``: the shipped service, its network through proxies, its points armed.

FAULTS_WIRES: JSON, variable of the environment → port that its URL shall have. FAULTS_POINTS: see tests.faults.points.
"""

import asyncio
import json
import os
import runpy
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.faults.points import Trap, set_traps

TASKS_SECONDS = 2.0


def through(url: str, port: int) -> str:
    """The same URL at another port of this machine."""
    parts = urlsplit(url)
    place, _, _ = parts.netloc.rpartition(":")
    return parts._replace(netloc=f"{place}:{port}").geturl()


def count_tasks(trap: Trap, file: Path) -> None:
    """Keeps the number of the service's tasks in a file, for whoever looks for leaks; for ever."""
    while True:
        if trap.loop is not None:
            file.write_text(str(len(asyncio.all_tasks(trap.loop))))
        time.sleep(TASKS_SECONDS)


def main() -> None:
    service = sys.argv[1]
    for name, port in json.loads(os.environ.get("FAULTS_WIRES", "{}")).items():
        if name in os.environ:
            os.environ[name] = through(os.environ[name], port)
    folder = Path(os.environ["FAULTS_POINTS"])
    trap = Trap(folder / service)
    set_traps(service, trap)
    threading.Thread(target=count_tasks, args=(trap, folder.with_name(f"tasks-{service}")), daemon=True).start()
    module = f"{service}_service"
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
