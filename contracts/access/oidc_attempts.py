"""A sign-in that is under way at an issuer: everything about it follows from one secret in the browser's cookie.

State, nonce and code verifier are made of that secret, and of when and for which page it began: nothing is stored here,
so any process of the service can end what another one began, and no other browser can. What is in the cookie cannot be
changed without the state being another one.
"""

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

#: For so long somebody may be at the issuer.
SECONDS_MAX: Final = 600
#: Of a page's address that somebody comes back to; a longer one is forgotten.
NEXT_BYTES_MAX: Final = 1000
_SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class Attempt:
    """``began_at``: Unix seconds; ``next``: where to go then, within this service."""

    secret: str
    began_at: int
    next: str

    @classmethod
    def begin(cls, now: float, next_: str) -> Self:
        kept = next_ if len(next_.encode()) <= NEXT_BYTES_MAX else "/"
        return cls(secrets.token_urlsafe(_SECRET_BYTES), int(now), kept)

    @property
    def cookie(self) -> str:
        return f"{self.began_at}.{self.secret}.{_text_of(self.next.encode())}"

    @classmethod
    def read(cls, cookie: str, now: float) -> Self | None:
        """None where it is none of ours, or too old."""
        began, _, rest = cookie.partition(".")
        secret, _, next_ = rest.partition(".")
        try:
            attempt = cls(secret, int(began), urlsafe_b64decode(next_ + "=" * (-len(next_) % 4)).decode())
            is_of_now = 0 <= now - attempt.began_at <= SECONDS_MAX
        except (ValueError, OverflowError):
            return None
        is_whole = len(secret) >= _SECRET_BYTES and attempt.cookie == cookie
        return attempt if is_whole and is_of_now else None

    @property
    def state(self) -> str:
        return self._made("state")

    @property
    def nonce(self) -> str:
        return self._made("nonce")

    @property
    def verifier(self) -> str:
        """43 characters (RFC 7636, 4.1)."""
        return self._made("verifier")

    @property
    def challenge(self) -> str:
        """S256 of the verifier."""
        return _text_of(sha256(self.verifier.encode()).digest())

    def is_of(self, state: str) -> bool:
        """Whether this is the attempt that an answer of the issuer's is about."""
        return hmac.compare_digest(self.state.encode(), state.encode())

    def nonce_is(self, nonce: str) -> bool:
        """Whether an ID token, of which this is the nonce, is this attempt's."""
        return hmac.compare_digest(self.nonce.encode(), nonce.encode("utf-8", "replace"))  # half surrogates, in JSON

    def _made(self, purpose: str) -> str:
        about = f"{purpose}\n{self.began_at}\n{self.next}"
        return _text_of(hmac.digest(self.secret.encode(), about.encode(), sha256))


def _text_of(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
