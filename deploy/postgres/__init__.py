"""PostgreSQL for the ledger: who may do what in it, and a server's settings for production."""
