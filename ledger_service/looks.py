"""How far behind something that is numbered is, when one can only ask now and then how far it has come. Pure."""

from collections import deque
from typing import Final

#: While it is behind, so many looks are remembered; beyond that every other one is forgotten.
LOOKS_MAX: Final = 512


class Looks:
    """Looks now and then at the last number that there is, and at the number that everything up to is done."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()
        self._first_at: float | None = None
        #: All that there was at this moment is done; None: not known yet.
        self.complete_at: float | None = None
        #: What there was to do at the latest look; None: there was no look yet.
        self.behind: int | None = None

    def saw(self, looked_at: float, last: int, done: int) -> None:
        """At ``looked_at`` there were numbers up to ``last``; since, all up to ``done`` were found done."""
        if self._first_at is None:
            self._first_at = looked_at
        self.behind = max(0, last - done)
        if len(self._looks) >= LOOKS_MAX:
            self._looks = deque(list(self._looks)[::2])
        self._looks.append((looked_at, last))
        while self._looks and self._looks[0][1] <= done:
            self.complete_at = self._looks.popleft()[0]

    def seconds_behind(self, now: float) -> float | None:
        """How long ago everything was done that there was then; where that is longer than there were looks, at least
        since the first of them."""
        since = self._first_at if self.complete_at is None else self.complete_at
        return None if since is None else max(0.0, now - since)
