"""Pages' forms as a browser sends them, without a browser."""

from typing import Any, Final

import httpx

from contracts.access.bearer import SESSION_COOKIE
from tests.tokens import TOKEN

#: A browser says so of what a page of ours sends; the pages refuse forms that come from elsewhere.
SAME_SITE: Final = {"Sec-Fetch-Site": "same-origin"}


def form_client(
    url: httpx.URL | str,
    token: str = TOKEN,
    *,
    page: str | None = None,
    **options: Any,  # as httpx declares them
) -> httpx.AsyncClient:
    """Somebody signed in with the token; what is sent comes from ``page``, where one is given."""
    headers = SAME_SITE if page is None else {**SAME_SITE, "Referer": f"{url}{page}"}
    return httpx.AsyncClient(base_url=url, cookies={SESSION_COOKIE: token}, headers=headers, **options)
