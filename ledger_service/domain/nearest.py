"""Which of two sets of moments belong together: an assignment that is best as a whole, in the time of a sort.

Of all ways to pair theirs with ours one to one, that with the least sum of distances is taken, where each moment that
is left over counts for half the tolerance. So no pair is further apart than the tolerance, and one line that is missing
in the middle of a busy hour leaves its own counterpart over and not some other.

How: read from left to right, let k be how many of theirs wait for a partner (below zero: of ours), and f(k) the least
cost so far. f is convex; only its slopes are kept, in two halves around k = 0. A step of time adds its length to each
slope on the right and takes it from each on the left; a moment of theirs, which may wait or stay alone, is one more
slope of minus what being alone costs, and one of ours one of plus that. Slopes beyond that cost decide nothing any
more. (Known as the slope trick.)
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence


def nearest(theirs: Sequence[int], ours: Sequence[int], tolerance: int) -> list[tuple[int, int]]:
    """Pairs of places in ``theirs`` and ``ours``, both of which are sorted. Moments and tolerance in one unit.

    A pair that is exactly the tolerance apart is one.
    """
    if not theirs or not ours:
        return []
    # Distances four times and being alone once plus one: a pair at the tolerance is then cheaper than two alone.
    alone = 2 * tolerance + 1
    moments = sorted([(at, 0) for at in theirs] + [(at, 1) for at in ours])
    bounds: list[int] = []
    left: deque[int] = deque()  # slopes of k <= 0, ascending, plus `passed`
    right: deque[int] = deque()  # slopes of k > 0, negated and ascending, plus `passed`: the same the other way round
    start = moments[0][0]
    for at, is_ours in moments:
        passed = 4 * (at - start)
        mine, other = (right, left) if is_ours else (left, right)
        least = passed - alone
        while mine and mine[0] < least:
            mine.popleft()
        bounds.append(len(mine))
        mine.appendleft(least)
        other.append(2 * passed - mine.pop())
    some_theirs, some_ours = _read_back(moments, bounds)
    return list(zip(_first_of_each(theirs, some_theirs), _first_of_each(ours, some_ours), strict=True))


def _read_back(moments: Sequence[tuple[int, int]], bounds: Sequence[int]) -> tuple[list[int], list[int]]:
    """From the end, where nobody waits: who waited, or was waited for, and who stayed alone."""
    j = sum(is_ours for _, is_ours in moments)
    i, waiting = len(moments) - j, 0
    found_theirs: list[int] = []
    found_ours: list[int] = []
    for (_, is_ours), bound in zip(reversed(moments), reversed(bounds), strict=True):
        if is_ours:
            j -= 1
            if waiting < bound:
                found_ours.append(j)
                waiting += 1
        else:
            i -= 1
            if waiting > -bound:
                found_theirs.append(i)
                waiting -= 1
    assert waiting == 0, "all that waited were met"
    return found_theirs[::-1], found_ours[::-1]


def _first_of_each(moments: Sequence[int], places: Sequence[int]) -> Iterator[int]:
    """Those of one moment may stand for each other: the first of them are taken."""
    taken = -1
    for place in places:
        taken = max(taken + 1, bisect_left(moments, moments[place]))
        yield taken
