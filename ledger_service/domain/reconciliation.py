"""Which lines of a provider's invoice are which of our charges. Pure, and the same in whatever order both come.

Money in nano-dollars, moments in microseconds since 1970, in UTC. What is tried, in this order, each with what is left:

1. a line that was booked by an adjustment made for it (`line_ids`);
2. the provider's job id, whatever the time: all lines of the jobs that an operation ordered are the operation's;
3. model and amount, nearest in time within the tolerance (`nearest`);
4. model alone, nearest in time within the tolerance: one price is wrong, or the operation was in doubt.

Where a line and a charge both name jobs, and other ones, 3 and 4 never bring them together.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeVar
from uuid import UUID

from contracts.identifiers import hashed_uuid7
from ledger_service.domain.nearest import nearest


class Line(NamedTuple):
    """What the provider says: one line, or one of its parts. ``file`` and ``number`` (of the line) say where.
    ``amount``: what it charges; a credit is negative."""

    file: int
    number: int
    job_id: str | None
    at: int
    model: str
    quantity: str
    amount: int

    @property
    def content(self) -> tuple[str | None, int, str, str, int]:
        """All but the place: two lines that say the same are told apart by their order alone."""
        return (self.job_id, self.at, self.model, self.quantity, self.amount)


class Charge(NamedTuple):
    """What the ledger has an operation down at for this provider; or a free adjustment.

    ``amount``: with all corrections, of which there are ``corrections``. ``elsewhere``: what the same operation came to
    at other providers. ``in_doubt``: nobody knew what became of it, so that it stands at what was held.
    """

    account_id: str
    entry_id: UUID
    operation: str
    job_ids: tuple[str, ...]
    at: int
    model: str
    quantity: int
    amount: int
    elsewhere: int = 0
    corrections: int = 0
    in_doubt: bool = False
    is_adjustment: bool = False
    is_voided: bool = False


class Status(StrEnum):
    """What became of lines and charges, each of which has exactly one."""

    MATCHED = "matched"
    PRICE_DIFFERENCE = "price_difference"
    IN_DOUBT_FOUND = "in_doubt_found"
    IN_DOUBT_NOT_FOUND = "in_doubt_not_found"
    MISSING_WITH_US = "missing_with_us"
    MISSING_WITH_THEM = "missing_with_them"
    DUPLICATE = "duplicate"


class How(StrEnum):
    """By what lines and a charge were brought together; ``sum``: they were not, only their sums were compared."""

    BOOKED = "booked"
    JOB_ID = "job_id"
    AMOUNT = "amount"
    TIME = "time"
    SUM = "sum"


class Item(NamedTuple):
    """One finding. ``theirs`` and ``ours``: the sums of its lines and charges, of which sums name none."""

    status: Status
    how: How | None
    model: str
    at: int
    theirs: int
    ours: int
    line_count: int
    charge_count: int
    lines: tuple[Line, ...] = ()
    charge: Charge | None = None

    @property
    def difference(self) -> int:
        """What they bill more than we have."""
        return self.theirs - self.ours


class Terms(NamedTuple):
    """``start`` and ``end``: what is reconciled; findings with neither a line nor a charge within are left out."""

    provider: str
    start: int
    end: int
    tolerance: int

    def has(self, at: int) -> bool:
        return self.start <= at < self.end


Some = TypeVar("Some", Line, Charge)
Key = tuple[object, ...]
Pairs = list[tuple[Line, Charge]]


def reconcile(terms: Terms, lines: Iterable[Line], charges: Iterable[Charge]) -> Iterator[Item]:
    """All findings; what costs nothing and has no counterpart is none. Each line and each charge is in one at most."""
    theirs = sorted(lines, key=lambda one: (one.file, one.number))
    ours = sorted(charges, key=lambda one: (one.at, one.entry_id))
    for item in _all(terms, theirs, ours):
        if any(terms.has(line.at) for line in item.lines) or (item.charge is not None and terms.has(item.charge.at)):
            yield item


def _all(terms: Terms, all_lines: list[Line], charges: list[Charge]) -> Iterator[Item]:
    pairs = _booked(terms, all_lines, charges)
    lines, charges = _without(all_lines, charges, pairs)
    yield from (_found(How.BOOKED, charge, (line,)) for line, charge in pairs)

    of_jobs, lines, charges = _by_job(lines, charges)
    for charge, its_lines in of_jobs:
        yield from _of_one_job(charge, its_lines)

    for how, key, fits in ((How.AMOUNT, _model_and_amount, _is_owed), (How.TIME, _model, _may_differ)):
        # Whoever names a job looks first, among those that name none.
        for named in (True, False):
            pairs = _nearest_pairs(
                [one for one in lines if fits(one) and (one.job_id is not None) == named],
                [one for one in charges if fits(one) and not (named and one.job_ids)],
                key,
                terms.tolerance,
            )
            lines, charges = _without(lines, charges, pairs)
            yield from (_found(how, charge, (line,)) for line, charge in pairs)

    yield from _lines_left(lines, all_lines)
    for charge in charges:
        if charge.in_doubt:
            yield _alone(Status.IN_DOUBT_NOT_FOUND, charge)
        elif charge.amount:
            yield _alone(Status.MISSING_WITH_THEM, charge)


# --- 1. what was booked for a line


def line_ids(provider: str, lines: Iterable[Line], wanted: Collection[tuple[object, ...]]) -> Mapping[Line, UUID]:
    """The id of the adjustment that books a line, of those whose content is wanted: of the provider, of what the line
    says, and of how many lines said the same before it. Not of its place: tomorrow's export may begin elsewhere."""
    counts: Counter[tuple[object, ...]] = Counter()
    found = {}
    for line in lines:
        content = line.content
        if content in wanted:
            counts[content] += 1
            text = repr((provider, content, counts[content]))
            found[line] = hashed_uuid7(line.at // 1000, text.encode())
    return found


def _booked(terms: Terms, lines: list[Line], charges: list[Charge]) -> Pairs:
    adjustments = {charge.entry_id: charge for charge in charges if charge.is_adjustment}
    moments = {charge.at // 1000 for charge in adjustments.values()}
    wanted = {line.content for line in lines if line.at // 1000 in moments} if moments else set()
    ids = line_ids(terms.provider, lines, wanted)
    return [(line, adjustments[id_]) for line, id_ in ids.items() if id_ in adjustments]


# --- 2. jobs


def _by_job(
    lines: list[Line], charges: list[Charge]
) -> tuple[list[tuple[Charge, list[Line]]], list[Line], list[Charge]]:
    place_of: dict[str, int] = {}
    for place, charge in enumerate(charges):
        for job_id in charge.job_ids:
            place_of.setdefault(job_id, place)
    groups: dict[int, list[Line]] = defaultdict(list)
    left = []
    for line in lines:
        found = None if line.job_id is None else place_of.get(line.job_id)
        if found is None:
            left.append(line)
        else:
            groups[found].append(line)
    found_charges = [(charges[place], its_lines) for place, its_lines in sorted(groups.items())]
    return found_charges, left, [charge for place, charge in enumerate(charges) if place not in groups]


def _of_one_job(charge: Charge, lines: list[Line]) -> Iterator[Item]:
    if sum(line.amount for line in lines) != charge.amount:
        lines, repeated = _repetitions(lines)
        yield from (_only(Status.DUPLICATE, line) for line in repeated)
    yield _found(How.JOB_ID, charge, tuple(lines))


def _repetitions(lines: list[Line]) -> tuple[list[Line], list[Line]]:
    """Lines that charge a job the same amount once more: where nothing is credited, each of them is one too many."""
    if len(lines) == 1 or any(line.amount < 0 for line in lines):
        return lines, []
    seen: set[tuple[object, ...]] = set()
    once: list[Line] = []
    again: list[Line] = []
    for line in lines:
        what = (line.job_id, line.model, line.amount)
        (again if what in seen else once).append(line)
        seen.add(what)
    return once, again


# --- 3. and 4. the nearest


def _model_and_amount(one: Line | Charge) -> Key:
    return (one.model, one.amount)


def _model(one: Line | Charge) -> Key:
    return (one.model,)


def _is_owed(one: Line | Charge) -> bool:
    return one.amount != 0


def _may_differ(one: Line | Charge) -> bool:
    """Credits, and what somebody adjusted by hand, say nothing of another amount."""
    return one.amount > 0 and not (isinstance(one, Charge) and one.is_adjustment)


def _nearest_pairs(
    lines: Sequence[Line], charges: Sequence[Charge], key: Callable[[Line | Charge], Key], tolerance: int
) -> Pairs:
    some_lines, some_charges = _grouped(lines, key), _grouped(charges, key)
    pairs: Pairs = []
    for name, theirs in some_lines.items():
        ours = some_charges.get(name, [])
        places = nearest([one.at for one in theirs], [one.at for one in ours], tolerance)
        pairs += [(theirs[i], ours[j]) for i, j in places]
    return pairs


def _grouped(some: Sequence[Some], key: Callable[[Line | Charge], Key]) -> dict[Key, list[Some]]:
    groups: dict[Key, list[Some]] = defaultdict(list)
    for one in sorted(some, key=lambda one: one.at):  # stable: the order of those of one moment stays as it is
        groups[key(one)].append(one)
    return groups


def _without(lines: list[Line], charges: list[Charge], pairs: Pairs) -> tuple[list[Line], list[Charge]]:
    if not pairs:
        return lines, charges
    places = {(line.file, line.number) for line, _ in pairs}
    entries = {(charge.account_id, charge.entry_id) for _, charge in pairs}
    return (
        [one for one in lines if (one.file, one.number) not in places],
        [one for one in charges if (one.account_id, one.entry_id) not in entries],
    )


# --- what is left, and findings


def _lines_left(lines: list[Line], all_lines: list[Line]) -> Iterator[Item]:
    """A line that says what another one said before it is one too many; the first of them is not known here."""
    contents = {line.content for line in lines}
    before = Counter(line.content for line in all_lines if line.content in contents) if contents else Counter()
    before.subtract(line.content for line in lines)
    for line in lines:
        if line.amount:
            repeats = before[line.content] > 0
            yield _only(Status.DUPLICATE if repeats else Status.MISSING_WITH_US, line)
        before[line.content] += 1


def _found(how: How, charge: Charge, lines: tuple[Line, ...]) -> Item:
    theirs = sum(line.amount for line in lines)
    status = Status.MATCHED if theirs == charge.amount else Status.PRICE_DIFFERENCE
    if charge.in_doubt:
        status = Status.IN_DOUBT_FOUND
    return Item(status, how, charge.model, charge.at, theirs, charge.amount, len(lines), 1, lines, charge)


def _only(status: Status, line: Line) -> Item:
    return Item(status, None, line.model, line.at, line.amount, 0, 1, 0, (line,))


def _alone(status: Status, charge: Charge) -> Item:
    return Item(status, None, charge.model, charge.at, 0, charge.amount, 0, 1, (), charge)
