"""ALwrity's databases for tests: samples that its own code wrote, and files of the same schema made to measure.

The oracle here reads them with SQL of its own, and shares no code with the import.
"""

import lzma
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

SAMPLES: Final = Path(__file__).parent / "samples" / "alwrity"
Row = dict[str, Any]  # a row as it goes into SQLite: any type in any column
#: (user, period) → calls that succeeded, that failed, and dollars.
Totals = dict[tuple[str, str], tuple[int, int, Decimal]]

LOG_COLUMNS: Final = (
    "id", "user_id", "provider", "endpoint", "method", "model_used", "actual_provider_name", "tokens_input",
    "tokens_output", "tokens_total", "cost_input", "cost_output", "cost_total", "response_time", "status_code",
    "request_size", "response_size", "user_agent", "ip_address", "error_message", "retry_count", "timestamp",
    "billing_period",
)  # fmt: skip
_PROVIDERS: Final = (
    "gemini", "openai", "anthropic", "mistral", "wavespeed", "tavily", "serper", "metaphor", "firecrawl", "stability",
    "exa", "video", "image_edit", "audio",
)  # fmt: skip
TABLES: Final = {
    "api_usage_logs": LOG_COLUMNS,
    "usage_summaries": (
        "id", "user_id", "billing_period", *(f"{one}_calls" for one in _PROVIDERS),
        *(f"{one}_cost" for one in _PROVIDERS), "total_calls", "total_tokens", "total_cost", "created_at", "updated_at",
    ),
    "subscription_plans": (
        "id", "name", "tier", "ai_text_generation_calls_limit", *(f"{one}_calls_limit" for one in _PROVIDERS),
        "gemini_tokens_limit", "monthly_cost_limit",
    ),
    "user_subscriptions": ("id", "user_id", "plan_id", "billing_cycle", "current_period_start", "status", "is_active"),
    "api_provider_pricing": (
        "id", "provider", "model_name", "cost_per_input_token", "cost_per_request", "cost_per_image", "is_active",
        "effective_date",
    ),
    "subscription_renewal_history": ("id", "user_id", "plan_name", "renewal_type", "new_period_start", "created_at"),
    "usage_alerts": ("id", "user_id", "alert_type", "billing_period"),
}  # fmt: skip


def sample(name: str, folder: Path) -> Path:
    """One of the samples, unpacked."""
    path = folder / f"alwrity_{name}.db"
    path.write_bytes(lzma.decompress((SAMPLES / f"{name}.db.xz").read_bytes()))
    return path


def call(row_id: int, **fields: Any) -> Row:
    """A row of api_usage_logs: a picture by Stability in October."""
    return {
        "id": row_id, "user_id": "user_ada", "provider": "stability", "endpoint": "/image-generation", "method": "POST",
        "model_used": "stable-diffusion", "actual_provider_name": "stability", "tokens_input": 0, "tokens_output": 0,
        "tokens_total": 0, "cost_input": 0.0, "cost_output": 0.0, "cost_total": 0.04, "response_time": 1.5,
        "status_code": 200, "request_size": 50, "response_size": 1000, "retry_count": 0,
        "timestamp": f"2026-10-{row_id % 28 + 1:02d} {row_id % 24:02d}:00:00.{row_id % 1000000:06d}",
        "billing_period": "2026-10", **fields,
    }  # fmt: skip


def summary(**fields: Any) -> Row:
    return {
        "id": 1, "user_id": "user_ada", "billing_period": "2026-10", "total_calls": 0, "total_cost": 0.0,
        "created_at": "2026-10-02 10:00:00", "updated_at": "2026-10-30 10:00:00", **fields,
    }  # fmt: skip


def write(path: Path, logs: Iterable[Row] = (), without: Iterable[str] = (), **tables: Iterable[Row]) -> Path:
    """A database of ALwrity's schema. ``without``: columns (``table.column``) and tables that an older one lacks."""
    lacking = set(without)
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in TABLES.items():
            if table in lacking:
                continue
            there = [one for one in columns if f"{table}.{one}" not in lacking]
            # No types, as SQLite would not hold to them either.
            connection.execute(f"create table {table} ({', '.join(there)})")
            rows = logs if table == "api_usage_logs" else tables.get(table, ())
            connection.executemany(
                f"insert into {table} values ({', '.join('?' * len(there))})",
                [tuple(row.get(one) for one in there) for row in rows],
            )
        connection.commit()
    return path


def totals(*paths: Path) -> Totals:
    """What the log rows of the files say, each row of a user once."""
    seen: set[tuple[Any, ...]] = set()
    found: dict[tuple[str, str], list[Any]] = defaultdict(lambda: [0, 0, Decimal(0)])
    for path in paths:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(
                "select user_id, id, timestamp, substr(timestamp, 1, 7), status_code, cost_total, endpoint, "
                "error_message from api_usage_logs"
            ).fetchall()
        for user, row_id, at, month, status, cost, endpoint, said in rows:
            if (user, row_id, at) in seen:
                continue
            seen.add((user, row_id, at))
            succeeded, failed = (1, 0) if 200 <= status < 300 else (0, 1)
            if endpoint == "[AGGREGATED]":
                succeeded, failed = (int(one) for one in re.findall(r"\d+ calls: (\d+) success, (\d+) failed", said)[0])
            one = found[user, month]
            one[0], one[1] = one[0] + succeeded, one[1] + failed
            one[2] += Decimal(repr(cost)).quantize(Decimal("1e-9"))
    return {key: (calls, failures, cost) for key, (calls, failures, cost) in found.items()}


def wrap(path: Path, before: str) -> None:
    """What ALwrity's LogWrappingService does to the rows before a time."""
    with closing(sqlite3.connect(path)) as connection:
        groups = connection.execute(
            "select user_id, provider, billing_period, count(*), sum(status_code between 200 and 299), min(timestamp) "
            "from api_usage_logs where timestamp < ? and endpoint <> '[AGGREGATED]' group by 1, 2, 3",
            [before],
        ).fetchall()
        for user, provider, period, count, succeeded, oldest in groups:
            where = (user, provider, period, before)
            cost = 0.0
            of_group = "where user_id = ? and provider = ? and billing_period = ? and timestamp < ? and "
            for [one] in connection.execute(
                f"select cost_total from api_usage_logs {of_group} endpoint <> '[AGGREGATED]' order by timestamp", where
            ):
                cost += one
            connection.execute(f"delete from api_usage_logs {of_group} endpoint <> '[AGGREGATED]'", where)
            [next_id] = connection.execute("select coalesce(max(id), 0) + 1000 from api_usage_logs").fetchone()
            row = call(
                next_id, user_id=user, provider=provider, endpoint="[AGGREGATED]", method="AGGREGATED",
                model_used=f"[{count} calls aggregated]", actual_provider_name=None, cost_total=cost,
                status_code=200 if succeeded * 2 > count else 500, request_size=None, response_size=None,
                error_message=f"Aggregated {count} calls: {succeeded} success, {count - succeeded} failed",
                timestamp=oldest, billing_period=period,
            )  # fmt: skip
            connection.execute(
                f"insert into api_usage_logs values ({', '.join('?' * len(LOG_COLUMNS))})",
                [row.get(one) for one in LOG_COLUMNS],
            )
        connection.commit()


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
