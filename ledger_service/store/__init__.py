"""PostgreSQL, through asyncpg: one .py and .sql pair per subject."""
