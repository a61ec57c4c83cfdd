"""What the ledger tells by itself, to webhooks and on NATS: one file for each kind, and its line here.

A payload is ``{"type", "timestamp", "data"}`` (https://www.standardwebhooks.com): ``timestamp`` is when it happened.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from contracts.notifications import (
    dead_letter_opened,
    limit_check_denied,
    limit_threshold_reached,
    period_closed,
    source_hole_found,
)
from contracts.notifications.kind import Kind

KINDS: Final[tuple[Kind, ...]] = (
    limit_threshold_reached.KIND,
    limit_check_denied.KIND,
    period_closed.KIND,
    dead_letter_opened.KIND,
    source_hole_found.KIND,
)
BY_NAME: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in KINDS})
#: What an endpoint is sent to try it; nobody subscribes to it.
TEST_TYPE: Final = "webhook.test"
