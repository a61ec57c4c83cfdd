"""Which fields of a form a problem of the API is about."""

from collections.abc import Mapping

from contracts.problems import Problem


def fields_of(found: Problem, names: Mapping[str, str]) -> frozenset[str]:
    """The fields' names: ``query.from``, ``filter[0]`` → ``from``, ``filter``; ``names``: where the form has others."""
    own = (error.field.removeprefix("query.").partition("[")[0] for error in found.errors or ())
    return frozenset(names.get(name, name) for name in own)
