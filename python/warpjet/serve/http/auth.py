"""API keys of users and administrators, compared in constant time."""

import contextlib
import hashlib
import hmac
import logging
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from warpjet.serve.http.errors import ServeError
from warpjet.serve.settings import Settings

_log = logging.getLogger("warpjet.serve")


class Keys:
    """Keys of users and of administrators. A key may be written name:key, with spaces around either; the name is the
    tenant. Every other key is a tenant of its own. Raises ValueError for a key that is empty, or stands for two tenants
    or for both users and administrators."""

    def __init__(self, user_keys: Sequence[str] = (), admin_keys: Sequence[str] = ()) -> None:
        self._users = _parse_all("api_key", user_keys)
        self._admins = _parse_all("admin_api_key", admin_keys)
        if set(self._users) & set(self._admins):
            raise ValueError("admin_api_key must differ from every api_key, whatever name stands before it")

    @property
    def needed(self) -> bool:
        """Users need a key."""
        return bool(self._users)

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


def load_keys(settings: Settings) -> Keys:
    """The keys of the settings and of their file; a file that everybody can read is logged. Raises OSError for a file
    that cannot be read, and ValueError."""
    users = list(settings.api_key)
    if settings.api_key_file is not None:
        path = Path(settings.api_key_file)
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        of_file = [line for line in lines if line and not line.startswith("#")]
        if not of_file:
            raise ValueError(f"api_key_file {path} holds no key")
        if path.stat().st_mode & stat.S_IROTH:
            _log.warning("api_key_file %s can be read by every user of this machine: chmod 600 %s", path, path)
        users += of_file
    return Keys(users, settings.admin_api_key)


def _key_of(headers: Mapping[str, str]) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    key = key if kind.lower() == "bearer" else headers.get("x-api-key", "")
    with contextlib.suppress(UnicodeError):  # what is not ASCII comes as UTF-8, or as Latin-1, which is how it was read
        key = key.encode("latin-1").decode()
    return key.strip()


def _parse_all(setting: str, keys: Sequence[str]) -> dict[bytes, str]:
    """Names of tenants by digest."""
    found: dict[bytes, str] = {}
    for entry in keys:
        name, colon, rest = (part.strip() for part in entry.partition(":"))
        key = rest if colon and name and rest else entry.strip()
        if not key:
            raise ValueError(f"an API key is empty ({setting})")
        digest = _digest(key)
        tenant = name if key is rest else "key-" + digest.hex()[:12]
        if found.setdefault(digest, tenant) != tenant:
            raise ValueError(f"one key of {setting} stands for {found[digest]} and for {tenant}")
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _find(keys: Mapping[bytes, str], given: bytes) -> str | None:
    """Looks at every key, whichever fits."""
    found = None
    for digest, name in keys.items():
        if hmac.compare_digest(digest, given):
            found = name
    return found
