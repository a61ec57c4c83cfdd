"""The reference of a service's HTTP API, to read and to try: Swagger UI, as npm has it, made of ``/openapi.json``.

FastAPI's own page loads it from elsewhere and starts it inline; this one is served like all others, under their policy.
"""

from contracts.web.pages import Page, Shown, View, Visit

PATH = "/docs"


async def _show(visit: Visit) -> Shown:
    del visit
    return View("api_reference.html")


#: Open to all, as the document that it shows.
PAGE = Page(PATH, "HTTP API", _show, menu="HTTP API", group="For programs", is_open=True)
