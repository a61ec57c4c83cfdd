"""When a delivery to a webhook is tried again. By itself, as settings name it and every command reads those."""

from collections.abc import Sequence
from typing import Final

#: Before the second, third … try, in seconds; after the last there is none. Three days in all.
RETRY_SECONDS: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
#: By how much a wait grows at most, by chance, so that what failed together does not come together again.
JITTER: Final = 0.2
RETRY_AFTER_SECONDS_MAX: Final = 86_400.0


def wait_seconds(
    tries: int, retry_after_seconds: float | None, chance: float, retry_seconds: Sequence[float] = RETRY_SECONDS
) -> float | None:
    """Until the next try after so many; None: there is none. Who asks for more time gets it, up to a day."""
    if tries > len(retry_seconds):
        return None
    planned = retry_seconds[tries - 1] * (1 + JITTER * chance)
    return max(planned, min(retry_after_seconds or 0.0, RETRY_AFTER_SECONDS_MAX))
