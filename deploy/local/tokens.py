"""The tokens of a stack: one for whoever runs it, which may do everything, and the image service's own."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from contracts.access.principal import Scope
from contracts.access.service_tokens import make_token
from deploy.local.folder import DataFolder

DEV_TOKEN_FILE: Final = "dev-token"  # noqa: S105  a file's name
IMAGE_TOKEN_FILE: Final = "image-token"  # noqa: S105  as above
_IMAGE_SCOPES: Final = (Scope.LIMITS_CHECK, Scope.EVENTS_WRITE)


@dataclass(frozen=True)
class DevTokens:
    """Made on the first start, and kept. To replace one, remove its file: the next start revokes the old one."""

    all_scopes: str
    image_service: str
    #: Part of their names: several stacks may work on one database.
    stack: str

    @classmethod
    def of(cls, folder: DataFolder) -> "DevTokens":
        return cls(
            folder.kept_secret(DEV_TOKEN_FILE, make_token),
            folder.kept_secret(IMAGE_TOKEN_FILE, make_token),
            sha256(str(folder.path).encode()).hexdigest()[:8],
        )

    @property
    def for_migration(self) -> dict[str, str]:
        """What makes `ledger migrate` tell the ledger of them."""
        known = [
            {"name": f"dev-{self.stack}", "scopes": list(Scope), "token": self.all_scopes},
            {"name": f"image-service-{self.stack}", "scopes": _IMAGE_SCOPES, "token": self.image_service},
        ]
        return {"LEDGER_BOOTSTRAP_TOKENS": json.dumps(known)}

    @property
    def for_image_service(self) -> dict[str, str]:
        return {"IMAGE_LEDGER_TOKEN": self.image_service}
