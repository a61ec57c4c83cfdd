"""The error of a transaction that finds its own reads out of date."""


class OutrunError(Exception):
    """What was decided on has changed since it was read; the same transaction again will do."""
