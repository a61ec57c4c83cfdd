"""The ledger: decides limit checks, records what happened, answers what was used."""
