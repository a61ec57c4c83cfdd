"""What tokens cost, of models that are billed by them: a reviewed table, and what a usage comes to. Pure.

The ledger's catalogue has prices of units (an image, a second …), of which a token-billed model has none: its answer
says how many tokens it took, and the cost that is reported is those at these prices. What is held before is the most
that they can come to. To correct: one entry per model, with its source and the day it was read.
"""

from dataclasses import dataclass
from typing import Final

#: Of one kind, in one answer: no answer has as many, and more could cost what no event can say.
TOKENS_MAX: Final = 100_000_000


@dataclass(frozen=True)
class TokenPrices:
    """Nano-dollars a token; dollars for a million tokens are thousands of these."""

    text_in: int
    image_in: int
    image_out: int
    #: Words that come out, and thoughts.
    text_out: int
    source: str
    read_on: str


@dataclass(frozen=True)
class Tokens:
    """How many of each a call took, or may take at most."""

    text_in: int = 0
    image_in: int = 0
    image_out: int = 0
    text_out: int = 0


TOKEN_PRICES: Final = {
    # OpenAI names no price for text that this model puts out; were there any, it is taken at that of its images.
    "gpt-image-2": TokenPrices(
        5_000, 8_000, 30_000, 30_000,
        source="https://developers.openai.com/api/docs/pricing#image-generation", read_on="2026-11-23",
    ),
    "gemini-3.1-flash-image": TokenPrices(
        500, 500, 60_000, 3_000, source="https://ai.google.dev/gemini-api/docs/pricing", read_on="2026-11-23"
    ),
    "gemini-3-pro-image": TokenPrices(
        2_000, 2_000, 120_000, 12_000, source="https://ai.google.dev/gemini-api/docs/pricing", read_on="2026-11-23"
    ),
    "gemini-2.5-flash-image": TokenPrices(
        300, 300, 30_000, 2_500, source="https://ai.google.dev/gemini-api/docs/pricing", read_on="2026-11-23"
    ),
}  # fmt: skip


def cost_nanos(model: str, tokens: Tokens) -> int:
    """Nano-dollars. ``model`` is one of the table."""
    prices = TOKEN_PRICES[model]
    return (
        tokens.text_in * prices.text_in
        + tokens.image_in * prices.image_in
        + tokens.image_out * prices.image_out
        + tokens.text_out * prices.text_out
    )


def text_tokens_max(text: str) -> int:
    """A byte-level tokenizer makes at most one token of a byte."""
    return len(text.encode())


def count(value: object) -> int:
    """A number of tokens as it stands in an answer. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= TOKENS_MAX:
        raise ValueError("no number of tokens")
    return value
