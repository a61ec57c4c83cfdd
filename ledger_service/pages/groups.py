"""The groups of the menu, and which scopes open what stands in them."""

from typing import Final

from contracts.access.principal import Scope

SPEND: Final = "Spend"
LIMITS: Final = "Limits"
RUNNING: Final = "Running it"

#: Whoever may read usage: of the token's own account, or of all.
READERS: Final = frozenset({Scope.USAGE_READ, Scope.USAGE_READ_ALL})
#: Of all accounts alone.
ALL_READERS: Final = frozenset({Scope.USAGE_READ_ALL, Scope.ADMIN})
ADMINS: Final = frozenset({Scope.ADMIN})
