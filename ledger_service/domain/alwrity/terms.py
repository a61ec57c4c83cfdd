"""ALwrity's plans, subscriptions and price list → plans, accounts and prices of the ledger."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Final, NamedTuple

from contracts.limits import Account, Limit, Meter, Plan, Selector, Window
from contracts.money import MAXIMUM_NANOS_MAX, format_nanos
from contracts.prices import Price, PriceKey, Variant
from ledger_service.domain.alwrity.operations import operation_of
from ledger_service.domain.alwrity.values import (
    BadValueError,
    Row,
    count,
    enum_value,
    maybe_moment,
    model_of,
    money,
    name_of,
    text,
)

PLANS: Final = "subscription_plans"
SUBSCRIPTIONS: Final = "user_subscriptions"
PRICING: Final = "api_provider_pricing"
FREE: Final = "free"

#: Which operations a limit of ALwrity is on. By provider, as it counts them; edits and videos by what they are, as it
#: checks them. Its providers ``mistral`` and ``gemini`` are Hugging Face and Google where the work is done.
_CALLS: Final[dict[str, Selector]] = {
    "gemini_calls_limit": Selector(provider=["gemini", "google"]),
    "openai_calls_limit": Selector(provider=["openai"]),
    "anthropic_calls_limit": Selector(provider=["anthropic"]),
    "mistral_calls_limit": Selector(provider=["mistral", "huggingface"]),
    "tavily_calls_limit": Selector(provider=["tavily"]),
    "serper_calls_limit": Selector(provider=["serper"]),
    "metaphor_calls_limit": Selector(provider=["metaphor"]),
    "firecrawl_calls_limit": Selector(provider=["firecrawl"]),
    "stability_calls_limit": Selector(provider=["stability"]),
    "exa_calls_limit": Selector(provider=["exa"]),
    "wavespeed_calls_limit": Selector(provider=["wavespeed"]),
    "image_edit_calls_limit": Selector(operation=["edit"]),
    "video_calls_limit": Selector(operation=["image_to_video"]),
}
_TEXT: Final = "ai_text_generation_calls_limit"
_TEXT_PROVIDERS: Final = ["gemini", "google", "openai", "anthropic", "mistral", "huggingface"]
#: Where this is there and not 0, ALwrity asks it and not the four of the text providers.
_OF_TEXT: Final = ("gemini_calls_limit", "openai_calls_limit", "anthropic_calls_limit", "mistral_calls_limit")
_COST: Final = "monthly_cost_limit"
#: The ledger has no meter of tokens, and no operation for speech.
_NOT_TAKEN: Final = (
    "audio_calls_limit", "gemini_tokens_limit", "openai_tokens_limit", "anthropic_tokens_limit", "mistral_tokens_limit",
)  # fmt: skip
_PRICES: Final = (
    ("cost_per_image", "image"), ("cost_per_request", "request"), ("cost_per_search", "search"),
    ("cost_per_page", "page"),
)  # fmt: skip
#: Where the work of what ALwrity counts on a provider of no such name is done.
_DONE_BY: Final = {"image_edit": "wavespeed", "video": "wavespeed", "audio": "wavespeed"}

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    PLANS: ("id", "name", "tier", *_CALLS, _TEXT, _COST, *_NOT_TAKEN),
    SUBSCRIPTIONS: ("id", "user_id", "plan_id", "billing_cycle", "current_period_start", "status", "is_active"),
    PRICING: (
        "id", "provider", "model_name", *(column for column, _ in _PRICES), "cost_per_input_token",
        "cost_per_output_token", "is_active", "effective_date",
    ),
}  # fmt: skip
NEEDED: Final[dict[str, tuple[str, ...]]] = {
    PLANS: ("id", "name"),
    SUBSCRIPTIONS: ("user_id", "plan_id"),
    PRICING: ("provider", "model_name"),
}
_SLUG: Final = re.compile(r"[^a-z0-9]+")


class FoundPlan(NamedTuple):
    """``left_out``: limits that the ledger has nothing for."""

    row_id: int
    plan_id: str
    tier: str
    plan: Plan
    left_out: tuple[str, ...]


class FoundAccount(NamedTuple):
    """A subscription; ``plan_row``: None where it is not active, as ALwrity then goes by the free plan."""

    user_id: str
    plan_row: int | None
    anchor: date
    remark: str | None


class FoundPrice(NamedTuple):
    key: PriceKey
    price: Price


def read_plan(row: Row, prefix: str) -> FoundPlan:
    """0 is *not allowed* on the free tier and *no limit* on the others; null is *no limit*. Raises BadValueError."""
    name = text(row, "name", 200) or ""
    slug = _SLUG.sub("-", name.lower()).strip("-")
    if not slug:
        raise BadValueError("name", "missing", "a plan without a name")
    tier = enum_value(row, "tier") or slug
    is_free = tier == FREE
    limits = []
    text_maximum = row.get(_TEXT)
    columns = dict(_CALLS)
    if text_maximum is not None and (text_maximum or is_free):
        columns[_TEXT] = Selector(provider=_TEXT_PROVIDERS)
        for one in _OF_TEXT:
            del columns[one]
    for column, selector in columns.items():
        maximum = count(row, column, 10**9)
        if row.get(column) is not None and (maximum or is_free):
            limits.append(_limit(column, Meter.CALLS, maximum, selector))
    if row.get(_COST) is not None:
        nanos = money(row, _COST, nanos_max=MAXIMUM_NANOS_MAX).nanos
        if nanos or is_free:
            limits.append(_limit(_COST, Meter.COST, format_nanos(nanos), Selector()))
    plan = Plan(name=f"{name} (ALwrity)", limits=limits)
    return FoundPlan(count(row, "id"), f"{prefix}{slug}", tier, plan, tuple(one for one in _NOT_TAKEN if row.get(one)))


def _limit(column: str, meter: Meter, maximum: int | str, selector: Selector) -> Limit:
    limit_id = column.removesuffix("_limit").replace("_", "-")
    return Limit(limit_id=limit_id, meter=meter, window=Window.BILLING_PERIOD, maximum=maximum, selector=selector)


def variant_id(found: FoundPlan) -> str:
    """For a plan whose name another plan with other limits has already."""
    return f"{found.plan_id}-{sha256(found.plan.model_dump_json().encode()).hexdigest()[:8]}"


def read_subscription(row: Row) -> FoundAccount:
    """Raises BadValueError."""
    began = maybe_moment(row, "current_period_start")
    anchor = date(2000, 1, 1) if began is None else began.date()
    if not date(2000, 1, 1) <= anchor < date(2200, 1, 1):
        raise BadValueError("current_period_start", "out_of_range", f"{anchor} is not of this or the next century")
    is_active = bool(row.get("is_active", 1)) if row.get("is_active") is not None else True
    remarks = []
    if not is_active:
        remarks.append("is not active: on the free plan, as ALwrity has it")
    if enum_value(row, "billing_cycle") == "yearly":
        remarks.append("pays by the year; its limits are by the month, as ALwrity's")
    status = enum_value(row, "status")
    if status not in (None, "active"):
        remarks.append(f"its status is {status}")
    user_id = str(row.get("user_id") or "")
    return FoundAccount(user_id, count(row, "plan_id") if is_active else None, anchor, "; ".join(remarks) or None)


def account_on(plan_id: str, anchor: date) -> Account:
    return Account(plan_id=plan_id, time_zone="UTC", billing_anchor=anchor)


def read_price(row: Row, now: datetime) -> FoundPrice | None:
    """None where it is not active, is by tokens, or is for no model in particular. Raises BadValueError."""
    provider, model = enum_value(row, "provider"), text(row, "model_name", 100)
    nanos, unit = next(
        ((found.nanos, unit) for column, unit in _PRICES if (found := money(row, column)).nanos), (0, "")
    )
    if not nanos or provider is None or model in (None, "default") or row.get("is_active") == 0:
        return None
    operation = "generate" if row.get("cost_per_image") else operation_of("", provider, model)
    # gemini-grounding-search is a price of a search under a provider of text.
    operation = "search" if operation == "text" and unit == "request" else operation
    begins = maybe_moment(row, "effective_date") or now
    begins = min(max(begins, datetime(2000, 1, 1, tzinfo=UTC)), now)
    assert model is not None
    key = PriceKey(provider=name_of(_DONE_BY.get(provider, provider)), operation=operation, model=model_of(model))
    variant = Variant.model_validate({"price": format_nanos(nanos)})
    return FoundPrice(key, Price(unit=unit, valid_from=begins, variants=[variant], source="ALwrity"))


def earliest_of_each(found: Iterable[FoundPrice]) -> list[FoundPrice]:
    """Of one price, the versions in which it changed: the first of equal ones that follow each other in time."""
    kept: list[FoundPrice] = []
    for one in sorted(found, key=lambda each: (str(each.key), each.price.valid_from)):
        last = kept[-1] if kept and kept[-1].key == one.key else None
        if last is not None and last.price.valid_from == one.price.valid_from:
            continue
        if last is None or last.price.variants != one.price.variants:
            kept.append(one)
    return kept
