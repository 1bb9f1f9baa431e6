"""Who may ask what: API keys, compared in constant time."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from warpjet.serve.errors import ServeError


class Keys:
    """Keys of users and of administrators. A key may be written name:key; the name is the tenant. Every other key is a
    tenant of its own."""

    def __init__(self, user_keys: Sequence[str] = (), admin_keys: Sequence[str] = ()) -> None:
        self._users = [_parse(key) for key in user_keys]
        self._admins = [_parse(key) for key in admin_keys]

    def tenant(self, headers: Mapping[str, str], scope: str) -> str:
        """The tenant that a request comes from; "" without keys. Raises ServeError 401 for a key that is missing or
        wrong, and 403 for one that is good elsewhere."""
        if scope == "open" or (scope == "user" and not self._users):
            return ""
        given = _digest(_key_of(headers))
        user, admin = _find(self._users, given), _find(self._admins, given)
        found = admin if scope == "admin" else user
        if found is not None:
            return found
        if user is not None or admin is not None:
            raise ServeError(403, "this key is not good for this route", code="insufficient_permissions")
        raise ServeError(
            401, "a valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY", code="invalid_api_key"
        )


def _key_of(headers: Mapping[str, str]) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def _parse(key: str) -> tuple[str, bytes]:
    name, colon, rest = key.partition(":")
    if colon and name and rest:
        return name, _digest(rest)
    digest = _digest(key)
    return "key-" + digest.hex()[:12], digest


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _find(keys: Sequence[tuple[str, bytes]], given: bytes) -> str | None:
    """Looks at every key, whichever fits."""
    found = None
    for name, digest in keys:
        if hmac.compare_digest(digest, given):
            found = name
    return found
