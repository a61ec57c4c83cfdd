"""Which operation of the ledger a call of ALwrity was: by its endpoint, else by the provider that it was counted on."""

import re
from functools import lru_cache
from typing import Final

AGGREGATED: Final = "aggregated"
#: Of which nothing says what it did; its endpoint is kept.
OTHER: Final = "other"

#: The first that the endpoint contains. From what ALwrity's code passes to its trackers, and Stability's own paths.
_ENDPOINTS: Final[tuple[tuple[str, str], ...]] = (
    ("/image-generation/edit", "edit"),
    ("/image-generation/character", "character"),
    ("/image-generation", "generate"),
    ("/image-editing", "edit"),
    ("/image-studio/edit", "edit"),
    ("/image-studio/face-swap", "face_swap"),
    ("/image-studio/upscale", "upscale"),
    ("/image-studio/control", "control"),
    ("/stable-image/generate", "generate"),
    ("/stable-image/edit", "edit"),
    ("/stable-image/upscale", "upscale"),
    ("/stable-image/control", "control"),
    ("/image-to-image", "edit"),
    ("face-swap", "face_swap"),
    ("upscale", "upscale"),
    ("/v2beta/3d", "image_to_3d"),
    ("image-to-3d", "image_to_3d"),
    ("/avatar-generation", "image_to_video"),
    ("/video-generation", "image_to_video"),
    ("/render/video", "image_to_video"),
    ("/audio-generation", "audio"),
    ("/stable-audio", "audio"),
    ("/research", "search"),
    ("/enhance-prompt", "text"),
    ("agent_action", "text"),
)
_PROVIDERS: Final = {
    **dict.fromkeys(("gemini", "openai", "anthropic", "mistral"), "text"),
    **dict.fromkeys(("tavily", "serper", "metaphor", "exa"), "search"),
    "firecrawl": "scrape",
    "stability": "generate",
    "image_edit": "edit",
    "video": "image_to_video",
    "audio": "audio",
}
_TEXT_TO_VIDEO: Final = re.compile(r"text-to-video|\bt2v\b")


@lru_cache(maxsize=1024)
def operation_of(endpoint: str, provider: str, model: str | None = None) -> str:
    """Names that the ledger's image operations have, and ``text``, ``search``, ``scrape``, ``audio`` and
    ``text_to_video``, which it counts and of which it has no limits by operation."""
    where = endpoint.lower()
    if where == "[aggregated]":
        return AGGREGATED
    found = next((operation for part, operation in _ENDPOINTS if part in where), None)
    found = found or _PROVIDERS.get(provider, OTHER)
    if found == "image_to_video" and _TEXT_TO_VIDEO.search(f"{where} {(model or '').lower()}"):
        return "text_to_video"
    return found
