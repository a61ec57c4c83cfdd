"""What lasts is not looked at again by the collector."""

import subprocess
import sys

SCRIPT = """
import gc
from contracts.garbage import spare_what_lasts
lasting = [[] for _ in range(1000)]
spare_what_lasts()
assert gc.get_freeze_count() > 1000
assert not any(one is lasting for one in gc.get_objects())
assert gc.get_threshold()[0] > 10_000
"""


def test_what_was_made_before_is_spared() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
