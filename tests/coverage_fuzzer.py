"""A small coverage-guided fuzzer: what reaches a new line, or has a new outcome, is kept and changed further.

Lines are those of the modules named, followed with sys.monitoring, and before Python 3.12 with sys.settrace. What is
compiled (pydantic's core) shows no lines; its error types are outcomes, and guide as well as lines do.
"""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any

Target = Callable[[bytes], Iterable[Hashable]]
INPUT_BYTES_MAX = 100_000
_TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1E-9",
    b"\\u0000", b"\\ud800", b"\\udfff", b"\\uD83D\\uDE00", b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\r\n", b"9" * 400, b"0." + b"1" * 40, b"[" * 300, b'{"":' * 150, b"/**/",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, -(10**30), 1e308, math.nan, -math.inf,
    "", "0", "-0", "1e-9", "1e-10",
    "0.0000000001", "NaN", "9" * 400, "a\x00b", "a\nb", "é", "\U0001f600", "2000-01-01T00:00:00Z",
    "2199-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-11-01T00:00:00+99:99", "1.0", "usage.operation.failed.v1",
    [], {}, [[]], {"a": {}}, "x" * 5000,
)  # fmt: skip


class Fuzzer:
    """Feeds the target with changed seeds. ``corpus``: all that showed something new."""

    def __init__(self, target: Target, modules: Iterable[ModuleType], seeds: Iterable[bytes], seed: int) -> None:
        self._target = target
        self._files = frozenset(str(module.__file__) for module in modules)
        self._random = random.Random(seed)
        self._seen: set[Hashable] = set()
        self.corpus: list[bytes] = []
        self.inputs = 0
        self.slowest_seconds = 0.0
        for one in seeds:
            self._try(one)

    @property
    def features(self) -> int:
        """How many different lines and outcomes were seen."""
        return len(self._seen)

    def run(self, inputs: int, seconds_max: float) -> None:
        """Tries so many inputs, or for so long."""
        end = time.monotonic() + seconds_max
        for _ in range(inputs):
            if time.monotonic() > end:
                return
            self._try(self._changed(self._random.choice(self.corpus)))

    def _try(self, body: bytes) -> None:
        self.inputs += 1
        begin = time.monotonic()
        try:
            with _lines(self._files) as lines:
                outcomes = set(self._target(body))
        except Exception as error:
            error.add_note(f"on the input {body!r}")
            raise
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begin)
        new = (outcomes | lines) - self._seen
        if new:
            self._seen |= new
            self.corpus.append(body)

    def _changed(self, body: bytes) -> bytes:
        for _ in range(self._random.choice((1, 1, 2, 4))):
            body = self._random.choice((self._in_bytes, self._in_json, self._in_json))(body)
        return body[:INPUT_BYTES_MAX]

    def _in_bytes(self, body: bytes) -> bytes:
        pick, at = self._random.random(), self._random.randrange(len(body) + 1)
        end = min(len(body), at + self._random.choice((1, 1, 4, 30)))
        if pick < 0.3:
            return body[:at] + self._random.choice(_TOKENS) + body[at:]
        if pick < 0.5:
            return body[:at] + self._random.choice(_TOKENS) + body[end:]
        if pick < 0.65:
            return body[:at] + body[end:]
        if pick < 0.8:
            return body[:at] + bytes([self._random.randrange(256)]) + body[at + 1 :]
        if pick < 0.9:
            return body[:at] + body[at:end] * self._random.choice((2, 40)) + body[end:]
        other = self._random.choice(self.corpus)
        return body[:at] + other[self._random.randrange(len(other) + 1) :]

    def _in_json(self, body: bytes) -> bytes:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return self._in_bytes(body)
        objects = list(_objects(value))
        if not objects:
            return self._in_bytes(body)
        chosen, pick = self._random.choice(objects), self._random.random()
        name = self._random.choice([*chosen, "x", "metadata", "sourcesequence", "leaseid"])
        if pick < 0.7:
            chosen[name] = self._random.choice((*_VALUES, self._nested()))
        elif pick < 0.85:
            chosen.pop(name, None)
        else:
            chosen[name + self._random.choice(("\x00", "é", "2", ""))] = chosen.get(name)
        return json.dumps(value, ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass")

    def _nested(self) -> Any:
        value: Any = self._random.choice(_VALUES)
        for _ in range(self._random.choice((1, 3, 90))):
            value = [value] if self._random.random() < 0.5 else {"a": value}
        return value


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)


@contextmanager
def _lines(files: frozenset[str]) -> Iterator[set[Hashable]]:
    follow = _with_monitoring if sys.version_info >= (3, 12) else _with_trace
    with follow(files) as found:
        yield found


@contextmanager
def _with_trace(files: frozenset[str]) -> Iterator[set[Hashable]]:
    found: set[Hashable] = set()

    def in_frame(frame: FrameType, event: str, _: Any) -> Any:
        found.add((frame.f_code.co_filename, frame.f_lineno, event))
        return in_frame

    def on_call(frame: FrameType, _: str, __: Any) -> Any:
        return in_frame if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield found
    finally:
        sys.settrace(before)


@contextmanager
def _with_monitoring(files: frozenset[str]) -> Iterator[set[Hashable]]:
    found: set[Hashable] = set()
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # Python 3.12 has it, 3.11 not

    def on_line(code: CodeType, line: int) -> Any:
        if code.co_filename in files:
            found.add((code.co_filename, line))
        # Each line tells of itself once, for good: only what is new matters.
        return monitoring.DISABLE

    monitoring.use_tool_id(monitoring.COVERAGE_ID, "fuzzer")
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, on_line)
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)
    try:
        yield found
    finally:
        monitoring.set_events(monitoring.COVERAGE_ID, 0)
        monitoring.free_tool_id(monitoring.COVERAGE_ID)
