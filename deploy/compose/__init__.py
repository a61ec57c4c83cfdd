"""Both services, two of each, with PostgreSQL and NATS, as containers of one machine; see compose.yaml."""
