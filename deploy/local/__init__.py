"""The one-machine stack: PostgreSQL and NATS from wheels, and both services, under one supervisor."""
