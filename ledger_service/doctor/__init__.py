"""`ledger doctor`: gathers the facts that ledger_service.domain.doctor judges."""
