"""The pages of the image service: a gallery where each operation can be tried, as a client of the service's own API."""

from pathlib import Path
from typing import Final

from contracts.web import api_reference, oidc, signing_in
from contracts.web.pages import Page
from contracts.web.rendering import Site
from image_service.pages import gallery, tries

#: In the order of the menu.
PAGES: Final[tuple[Page, ...]] = (
    *gallery.PAGES,
    *tries.PAGES,
    api_reference.PAGE,
    *signing_in.PAGES,
    *oidc.PAGES,
)

SITE: Final = Site("Image service", Path(__file__).parent)
