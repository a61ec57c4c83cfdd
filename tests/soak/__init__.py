"""A long random load on the limit checks, and a verifier that shares nothing with them: ``python -m tests.soak``."""
