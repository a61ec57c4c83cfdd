"""Forms with files (multipart/form-data, RFC 7578), the same wherever they come."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from contracts.problems import INVALID_REQUEST, ProblemError

#: Readers of forms decode by whatever Python has under the name that is given, which may fail, or make text that is
#: none of Unicode's.
_CHARSETS: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})


#: Of each file; what is beyond goes to the disk. A service takes in hundreds of forms at once, from who sends slowly
#: too, and Starlette's own megabyte, times their files, would be all of its memory.
FILE_MEMORY_BYTES_MAX: Final = 64 * 1024


class _Parser(MultiPartParser):
    spool_max_size = FILE_MEMORY_BYTES_MAX


@asynccontextmanager
async def form_of(
    request: Request, *, files_max: int, fields_max: int, field_bytes_max: int
) -> AsyncIterator[FormData]:
    """The form; its files are there until the context ends. Raises ProblemError."""
    media_type, said = parse_options_header(request.headers.get("content-type", ""))
    if said.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise ProblemError(INVALID_REQUEST, "the form cannot be read: its charset has to be utf-8")
    bounds = {"max_files": files_max, "max_fields": fields_max, "max_part_size": field_bytes_max}
    try:
        if media_type == b"multipart/form-data":
            async with aclosing(request.stream()) as stream:
                form = await _Parser(request.headers, stream, **bounds).parse()
        else:
            form = await request.form(**bounds)
    except (HTTPException, MultiPartException) as error:
        said_why = error.detail if isinstance(error, HTTPException) else error.message
        raise ProblemError(INVALID_REQUEST, f"the form cannot be read: {said_why}") from error
    try:
        yield form
    finally:
        await form.close()
