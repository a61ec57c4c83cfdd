"""How a caller wants to be answered: the header Prefer (RFC 7240), as far as it is honoured here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

WAIT_SECONDS_MAX: Final = 600
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class Preferences:
    """``respond_async``: 202 at once, not the result. ``wait_seconds``: the result if it is there in time, else 202.
    ``minimal``: where results are instead of what is in them."""

    respond_async: bool = False
    wait_seconds: int | None = None
    minimal: bool = False

    def patience(self, is_long: bool, default_seconds: float) -> float:
        """Seconds to wait for a result before the answer is 202."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async or is_long else default_seconds

    def applied(self, *, waited: bool, minimal: bool) -> str:
        """The header Preference-Applied; empty where there is nothing to say."""
        said = []
        if self.respond_async and not waited:
            said.append("respond-async")
        if self.wait_seconds is not None:
            said.append(f"wait={self.wait_seconds}")
        if self.minimal and minimal:
            said.append("return=minimal")
        return ", ".join(said)


def read_preferences(headers: Iterable[str]) -> Preferences:
    """From the values of all Prefer headers. What is not understood is ignored, as the RFC has it; of a preference that
    stands twice, the first counts."""
    found: dict[str, str] = {}
    for header in headers:
        for part in header.split(","):
            name, _, value = part.partition(";")[0].partition("=")
            if _TOKEN.fullmatch(name.strip()):
                found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        respond_async="respond-async" in found,
        wait_seconds=min(int(wait), WAIT_SECONDS_MAX) if _SECONDS.fullmatch(wait) else None,
        minimal=found.get("return", "").lower() == "minimal",
    )
