"""How dead letters look in a terminal."""

from datetime import UTC, datetime, timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.json import JSON
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from contracts.dead_letters import DeadLetter, DeadLetterItem, LetterState

#: Of a body: what is larger is not indented, and cut.
JSON_BYTES_MAX: Final = 20_000
CHARACTERS_MAX: Final = 4_000
_COLOURS: Final = {LetterState.OPEN: "bold red", LetterState.REDRIVEN: "green", LetterState.DISCARDED: "dim"}
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def table(items: list[DeadLetterItem], now: datetime) -> Table:
    """Letters, one a row."""
    shown = Table("letter", "state", "code", "why", "account", "source", "from", header_style="bold")
    for title in ("times", "last came", "first came"):
        shown.add_column(title, justify="right", no_wrap=True)
    for item in items:
        shown.add_row(
            str(item.dead_letter_id),
            _state(item),
            item.code,
            Text(item.detail, overflow="ellipsis", no_wrap=True),
            item.account_id or "",
            Text(item.source or ""),
            item.origin,
            f"{item.received_count:,}",
            _ago(item.last_received_at, now),
            _ago(item.first_received_at, now),
        )
    return shown


def panel(letter: DeadLetter, now: datetime) -> RenderableType:
    """One letter, whole."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("state", _state(letter))
    facts.add_row("came", f"{_times(letter.received_count)}, last {_time(letter.last_received_at, now)}")
    facts.add_row("first", _time(letter.first_received_at, now))
    facts.add_row("over", letter.origin + (f" on {letter.subject}" if letter.subject else ""))
    if letter.account_id:
        facts.add_row("account", Text(f"{letter.account_id} (as it claims)"))
    if letter.source:
        facts.add_row("source", Text(f"{letter.source} (as it claims)"))
    if letter.redrive_count:
        facts.add_row("redriven", f"{_times(letter.redrive_count)}, last {_time(letter.last_redriven_at, now)}")
    if letter.recorded:
        facts.add_row("became", Text(f"event {letter.recorded.event_id} of account {letter.recorded.account_id}"))
    facts.add_row("bytes", f"{letter.body_bytes:,}, SHA-256 {letter.sha256}")
    parts: list[RenderableType] = [facts, "", Text(letter.detail, style="red")]
    if letter.errors:
        parts.append(_rules(letter))
    parts += ["", _body(letter)]
    if letter.actions:
        parts += ["", _actions(letter)]
    return Panel(Group(*parts), title=f"dead letter {letter.dead_letter_id} · {letter.code}", title_align="left")


def _rules(letter: DeadLetter) -> Table:
    rules = Table("where", "rule", "in words", box=None, header_style="dim", padding=(0, 2))
    for error in letter.errors:
        rules.add_row(Text(error.field or "body"), Text(error.rule), Text(error.message))
    return rules


def _body(letter: DeadLetter) -> RenderableType:
    if letter.text is None:
        return Text("its bytes are no text; `ledger dead-letters show --raw` writes them as they came", style="dim")
    if letter.body_bytes <= JSON_BYTES_MAX:
        try:
            return JSON(letter.text)
        except (ValueError, RecursionError):
            pass  # shown as it is
    # A terminal obeys what is not printable.
    text = "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in letter.text[:CHARACTERS_MAX])
    cut = Text("… cut; --raw has all of it" if len(letter.text) > CHARACTERS_MAX else "", style="dim")
    return Group(Text(text), cut)


def _actions(letter: DeadLetter) -> Table:
    actions = Table("when", "what", "outcome", "who", "why", box=None, header_style="dim", padding=(0, 2))
    for one in letter.actions:
        what = f"{one.action}, corrected" if one.corrected else one.action
        outcome = " ".join(part for part in (one.outcome, one.code) if part)
        actions.add_row(
            f"{one.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}", what, outcome, Text(one.author), Text(one.reason)
        )
    return actions


def _state(item: DeadLetterItem) -> Text:
    return Text(item.state.value, style=_COLOURS[item.state])


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _time(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({_ago(moment, now)})"


def _ago(moment: datetime, now: datetime) -> str:
    seconds = max(timedelta(), now - moment) // timedelta(seconds=1)
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "now"
