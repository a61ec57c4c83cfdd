"""`ledger doctor`: facts about an installation, and what is to be said about them. Pure: facts come in as data."""
