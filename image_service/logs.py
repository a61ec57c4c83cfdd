"""Logs: one JSON object per line on stderr, ours and the libraries'. stdout is for people."""

import logging
import sys
from contextlib import suppress
from typing import BinaryIO

import orjson
import structlog
from structlog.typing import EventDict

from contracts.tracing import add_trace


def configure_logs() -> None:
    """To be called once, at start."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_to_bytes)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(_Tolerant(sys.stderr.buffer)),  # type: ignore[arg-type]  # write and flush are all it needs
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_to_text),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _Tolerant:
    """Whoever read the log may have gone; that must not make an operation fail that is done and recorded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        with suppress(OSError, ValueError):
            self._file.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


def _to_bytes(event: EventDict, **_: object) -> bytes:
    return orjson.dumps(event, default=str)


def _to_text(event: EventDict, **_: object) -> str:
    return _to_bytes(event).decode()
