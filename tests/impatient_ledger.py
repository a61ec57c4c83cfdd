"""``python -m tests.impatient_ledger``: the ledger, which waits for its servers no longer than a moment."""

from ledger_service import main, starting

starting.ATTEMPTS_MAX = 2  # type: ignore[misc]  # Final, but here
main.main()
