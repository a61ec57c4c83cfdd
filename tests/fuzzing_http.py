"""Schemathesis over a running service's OpenAPI document, bounded in time, with one place for credentials."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contracts.identifiers import uuid7
from tests.tokens import AUTHORIZED

#: Sent with every request: where a service asks for a token, this is the place.
HEADERS: dict[str, str] = AUTHORIZED
ANSWER_SECONDS_MAX = 10
EXAMPLES_PER_ROUND = 2
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Of a service that refuses for the time being, and says so: not what this looks for.
_BUSY = frozenset({502, 503})

load_all_checks()
schemathesis.openapi.format("uuid7", st.builds(lambda: str(uuid7())))


@dataclass
class Found:
    """What a run saw: answers by status, and every failure with the command that shows it again."""

    cases: int = 0
    operations: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


def fuzz(
    url: str, seconds: float, first_seed: int, known: Mapping[str, list[str]], headers: Mapping[str, str]
) -> Found:
    """Goes over all operations, again with other seeds until the time is over; each at least once.

    ``known``: path parameters for which something exists; half of the requests name it, so that they get further than
    to a 404.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers={**HEADERS, **headers})
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    found, end = Found(), time.monotonic() + seconds
    with requests.Session() as session:
        session.headers.update({**HEADERS, **headers})
        number = 0
        while number == 0 or time.monotonic() < end:
            for operation in operations:
                for mode in _modes(number):
                    if number == 0 or time.monotonic() < end:
                        _try(operation, mode, first_seed + number, found, session, url, known)
            number += 1
    return found


def _modes(number: int) -> Iterator[schemathesis.GenerationMode]:
    # In the first round every operation gets what it asks for, and then also what it does not.
    yield schemathesis.GenerationMode.POSITIVE
    if number:
        yield schemathesis.GenerationMode.NEGATIVE


def _try(
    operation: Any,
    mode: schemathesis.GenerationMode,
    with_seed: int,
    found: Found,
    session: requests.Session,
    url: str,
    known: Mapping[str, list[str]],
) -> None:
    @seed(with_seed)
    @settings(
        max_examples=EXAMPLES_PER_ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def run(case: schemathesis.Case, data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            if name in known and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(known[name]))
        found.cases += 1
        found.operations.add(operation.label)
        try:
            response = case.call(base_url=url, session=session, timeout=ANSWER_SECONDS_MAX)
        except requests.RequestException as error:
            found.failures[f"{operation.label} {type(error).__name__}"] = case.as_curl_command()
            return
        found.statuses[response.status_code] += 1
        checks = _CHECKS[1:] if response.status_code in _BUSY else _CHECKS
        try:
            case.validate_response(response, checks=checks)
        except schemathesis.core.failures.FailureGroup as group:
            for failure in group.exceptions:
                key = f"{operation.label} {response.status_code} {type(failure).__name__}"
                found.failures[key] = f"{failure}\n{case.as_curl_command()}"

    with suppress(Unsatisfiable):  # where it takes no input, nothing about it can be wrong
        run()
