"""Closing a period: an event in the log, after which nothing is booked in it."""

from datetime import UTC, date

from contracts.identifiers import uuid7
from contracts.periods import PeriodClosing, first_day
from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from ledger_service.authorship import author_now
from ledger_service.domain.ledger_events import NO_ACCOUNT, PERIOD_CLOSED, ledger_event
from ledger_service.store.accounts import find_account
from ledger_service.store.event_log import append_one
from ledger_service.store.periods import add_closing, find_closing, lock_periods
from ledger_service.store.pool import Connection


async def close_period(
    connection: Connection, account_id: str | None, period: str, author: str, reason: str
) -> PeriodClosing:
    """Closes a month in UTC, and all before it, for an account or for all (None).

    What commits before it is in the month's totals; what comes after is booked in the first month that is open.
    Idempotent: where the month is closed already, answers what closed it. Raises ProblemError where the month is not
    over, or nothing is known of the account.
    """
    account, month = account_id or NO_ACCOUNT, first_day(period)
    async with connection.transaction():
        if account_id is not None and await find_account(connection, account_id) is None:
            raise ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")
        now = (await lock_periods(connection)).astimezone(UTC)
        before = await find_closing(connection, account, month)
        if before is not None:
            return before
        if month >= date(now.year, now.month, 1):
            raise broken_rule("period", "not_over", f"{period} is not over yet: it can be closed once it is, in UTC")
        made = PeriodClosing(
            account_id=account_id, period=period, author=author, reason=reason, closed_at=now, event_id=uuid7()
        )
        data = {"account_id": account_id, "period": month, "author": author, "reason": reason}
        body = ledger_event(made.event_id, PERIOD_CLOSED, account, now, data, await author_now(connection))
        # Its position is drawn under the lock: outcomes with lower ones are in the month, those with higher ones not.
        await append_one(connection, account, made.event_id, PERIOD_CLOSED, None, now, body)
        await add_closing(connection, made, month)
    return made
