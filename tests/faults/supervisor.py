"""``python -m tests.faults.supervisor DATA PORTS``: usage-stack on given ports, its services to be tampered with.

PORTS: JSON, keywords of StackOptions. Ended with the process that started it, however that ends.
"""

import asyncio
import ctypes
import json
import signal
import sys
from pathlib import Path

from deploy.local.cli import run_until_stopped
from deploy.local.services import ServiceCommands
from deploy.local.stack import StackOptions, external_servers
from tests.e2e.driver import RAPID_FAILURES_MAX


def main() -> int:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
    options = StackOptions(
        Path(sys.argv[1]),
        **json.loads(sys.argv[2]),
        rapid_failures_max=RAPID_FAILURES_MAX,
        external=external_servers(),
        commands=ServiceCommands(ledger=_child("ledger"), image=_child("image")),
    )
    return asyncio.run(run_until_stopped(options))


def _child(service: str) -> tuple[str, ...]:
    return ("env", f"FAULTS_CLOCK={service}", sys.executable, "-m", "tests.faults.child", service)


if __name__ == "__main__":
    sys.exit(main())
