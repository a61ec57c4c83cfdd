"""Forms with files: how much of them is kept in memory."""

from tempfile import SpooledTemporaryFile
from typing import Any

import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request

from contracts.http_forms import FILE_MEMORY_BYTES_MAX, form_of
from contracts.problems import ProblemError

BOUNDS = {"files_max": 2, "fields_max": 2, "field_bytes_max": 100}


def request_of(*bodies: bytes, boundary: str = "b") -> Request:
    """A form with these files."""
    head = b'Content-Disposition: form-data; name="image"; filename="x"'
    body = b"".join(b"--b\r\n" + head + b"\r\n\r\n" + one + b"\r\n" for one in bodies) + b"--b--\r\n"
    headers = [(b"content-type", f"multipart/form-data; boundary={boundary}".encode())]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


async def test_of_a_large_file_nothing_stays_in_memory() -> None:
    small, large = b"x" * 1_000, b"y" * (FILE_MEMORY_BYTES_MAX + 1)
    async with form_of(request_of(small, large), **BOUNDS) as form:
        files = [one for one in form.getlist("image") if isinstance(one, UploadFile)]
        assert [await one.read() for one in files] == [small, large]
        spooled = [one.file for one in files if isinstance(one.file, SpooledTemporaryFile)]
        assert [one._rolled for one in spooled] == [False, True]  # type: ignore[attr-defined]  # not in its stub


async def test_a_form_that_breaks_its_bounds_or_is_none_is_a_problem() -> None:
    for request in (request_of(b"x", b"x", b"x"), request_of(b"x", boundary="other")):
        with pytest.raises(ProblemError, match="the form cannot be read"):
            async with form_of(request, **BOUNDS):
                pass
