"""The pages of the ledger: what people look at, made of the answers of its own HTTP API.

A page is a module here with its `Page`, a template of the same name in templates/, and a line in `PAGES`.
"""

from pathlib import Path
from typing import Final

from contracts.web import api_reference, oidc, signing_in
from contracts.web.pages import Page
from contracts.web.rendering import Site
from ledger_service.pages import (
    accounts,
    corrections,
    dead_letters,
    decisions,
    denials,
    in_doubt,
    limits,
    live,
    near_limits,
    operation,
    overview,
    plans,
    seals,
    sources,
    statements,
    status,
    usage,
    usage_log,
    webhooks,
)

#: In the order of the menu.
PAGES: Final[tuple[Page, ...]] = (
    overview.PAGE,
    usage.PAGE,
    usage_log.PAGE,
    operation.PAGE,
    *corrections.PAGES,
    statements.PAGE,
    limits.PAGE,
    near_limits.PAGE,
    denials.PAGE,
    decisions.PAGE,
    *plans.PAGES,
    *accounts.PAGES,
    live.PAGE,
    status.PAGE,
    in_doubt.PAGE,
    *dead_letters.PAGES,
    *sources.PAGES,
    seals.PAGE,
    *webhooks.PAGES,
    api_reference.PAGE,
    *signing_in.PAGES,
    *oidc.PAGES,
)

SITE: Final = Site("Usage ledger", Path(__file__).parent)
