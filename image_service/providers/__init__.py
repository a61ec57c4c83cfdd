"""Who does the work: protocols per capability in base.py, one file per provider, and the registry of them."""
