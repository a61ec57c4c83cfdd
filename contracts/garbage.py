"""Python's collector of cyclic garbage, in a process that serves for long."""

import gc
from typing import Final

#: Requests and batches make and drop thousands of objects, few of them in cycles: look for those seldom.
_ALLOCATIONS: Final = 50_000


def spare_what_lasts() -> None:
    """Collect seldom, and never look again at what is there now: call it once all that lasts is made.

    To look through an application and what it imported takes a tenth of a second, in which nobody is answered.
    """
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 20)
