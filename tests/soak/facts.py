"""What the soak's load and its verifier both know: the plans, who is on them, and which accounts keep to their word."""

import random
from collections.abc import Mapping
from typing import Any, Final

Body = dict[str, Any]

OPERATIONS: Final = ("generate", "edit", "upscale")
PROVIDERS: Final = ("stability", "wavespeed", "local")
MODELS: Final = ("core", "sdxl/turbo")
PLANS: Final = 8
COST_NANOS_MAX: Final = 200_000_000
UNITS_MAX: Final = 8
#: Users, projects and api keys of an account. A check names one of each.
MEMBERS: Final = 3
#: Checks a second that the machine may be expected to do; sizes the limits per minute, nothing else.
CHECKS_PER_SECOND: Final = 2500

_WINDOWS: Final = ("minute", "hour", "day", "month", "billing_period", "lifetime")
_SCOPES: Final = ("account", "user", "project", "api_key")
_METERS: Final = ("cost", "calls", "units")
_MEAN: Final = {"calls": 1.0, "units": (UNITS_MAX + 1) / 2, "cost": COST_NANOS_MAX / 4}
_MOST: Final = {"calls": 1, "units": UNITS_MAX, "cost": COST_NANOS_MAX}
_ZONES: Final = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati")


def account_id(index: int) -> str:
    """Accounts of even numbers are strict: never an outcome above its estimate, or after its hold, or unchecked."""
    return f"{'loose' if index % 2 else 'strict'}-{index:05d}"


def is_strict(account: str) -> bool:
    return account.startswith("strict-")


def plan_id(number: int) -> str:
    return f"soak-{number % PLANS}"


def account_body(index: int, plan: int) -> Body:
    """The account on the plan, in one of some time zones."""
    anchor = f"2025-{index % 12 + 1:02d}-{index % 28 + 1:02d}"
    return {"plan_id": plan_id(plan), "time_zone": _ZONES[index % len(_ZONES)], "billing_anchor": anchor}


def make_plans(seed: int, checks_per_account: int, checks: int) -> Mapping[str, list[Body]]:
    """Plans whose every limit is near what a random load asks for, so that each binds for some, at some time.

    Each has a limit on every scope, and one or two more; meters and windows are mixed so that all pairs occur.
    """
    chance = random.Random(seed)
    minutes = max(1.0, checks / CHECKS_PER_SECOND / 60)
    plans = {}
    for number in range(PLANS):
        limits = []
        scopes = [*_SCOPES, *chance.sample(_SCOPES, 1 + number % 2)]
        for place, scope in enumerate(scopes):
            # Walks through all pairs of meter and window, whatever the number of plans.
            step = number * 5 + place * 7
            meter, window = _METERS[step % 3], _WINDOWS[(step // 3 + place) % 6]
            demand = checks_per_account * _MEAN[meter] / (1 if scope == "account" else MEMBERS)
            if window == "minute":
                demand /= minutes
            maximum = max(int(demand * chance.uniform(0.1, 0.7)), _MOST[meter] * 3)
            selector = chance.choice(
                [
                    {},
                    {},
                    {"operation": ["generate", "edit"]},
                    {"provider": ["stability", "local"]},
                    {"model": ["core"], "operation": ["upscale", "generate"]},
                ]
            )
            limits.append(
                {
                    "limit_id": f"{scope}-{meter}-{window}-{place}",
                    "meter": meter,
                    "scope": scope,
                    "window": window,
                    "selector": selector,
                    "maximum": dollars(maximum) if meter == "cost" else maximum,
                    "mode": "soft" if chance.random() < 0.12 else "hard",
                }
            )
        plans[plan_id(number)] = limits
    return plans


def dollars(nanos: int) -> str:
    """``40_000_000 → "0.040000000"``."""
    return f"{nanos // 10**9}.{nanos % 10**9:09d}"
