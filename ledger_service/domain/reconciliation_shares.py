"""Whose bill the corrections of an operation were for, where several providers billed it.

In totals a correction counts for who did the work. What a reconciliation proposed for the bill of another one is known
by its id, which is made of what was proposed: so that nothing is proposed twice, of either bill.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from contracts.adjustments import AdjustmentKind
from contracts.identifiers import hashed_uuid7

#: Of an id, all but its time: when an operation began or ended, as the invoice has it.
_CONTENT: Final = (1 << 80) - 1


class Correction(NamedTuple):
    """What was recorded, in nano-dollars."""

    entry_id: UUID
    cost: int


class _Stand(NamedTuple):
    """What the operation came to in all, and at one provider."""

    total: int
    amount: int


def proposal_id(
    at: int, provider: str, kind: AdjustmentKind, entry_id: UUID, amount: int, cost: int, corrections: int
) -> UUID:
    """Of the correction of an entry that stood at this ``amount`` at the provider, after so many ``corrections``: rated
    again by somebody else meanwhile, the same cost is another correction. ``at``: in microseconds."""
    text = repr((provider, kind.value, str(entry_id), amount, cost, corrections))
    return hashed_uuid7(at // 1000, text.encode())


def corrections_by_provider(
    entry_id: UUID, last: str, billed: Mapping[str, int], corrections: Sequence[Correction]
) -> dict[str, list[int]]:
    """What each of the corrections, in their order, adds for the provider whose bill it was for, of those that
    ``billed`` the operation; ``last`` did the work, and has all that were not proposed for another one's bill."""
    found: dict[str, list[int]] = {provider: [] for provider in (*billed, last)}
    total = sum(billed.values())
    stands = {provider: [_Stand(total, amount)] for provider, amount in billed.items()}
    for correction in corrections:
        total += correction.cost
        whose = last
        for provider, before in stands.items():
            if provider != last and _was_proposed(provider, entry_id, correction, total, before):
                whose = provider
        found[whose].append(correction.cost)
        for provider, before in stands.items():
            before.append(_Stand(total, billed[provider] + sum(found[provider])))
    return found


def _was_proposed(provider: str, entry_id: UUID, correction: Correction, total: int, before: Sequence[_Stand]) -> bool:
    """For this provider's bill, at any of the stands before: another correction may have come between."""
    for count, stand in enumerate(before):
        costs = (
            (AdjustmentKind.RERATE, total - (stand.total - stand.amount)),
            (AdjustmentKind.ADJUSTMENT, correction.cost),
        )
        for kind, cost in costs:
            id_ = proposal_id(0, provider, kind, entry_id, stand.amount, cost, count)
            if (id_.int ^ correction.entry_id.int) & _CONTENT == 0:
                return True
    return False
