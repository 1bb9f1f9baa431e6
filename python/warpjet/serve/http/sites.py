"""Which pages of a browser may ask a server that wants no key: a page of any site can send requests to this machine."""

import ipaddress
import socket
from collections.abc import Collection, Mapping

from warpjet.serve.http.errors import ServeError

_LOCAL_ENDINGS = (".localhost", ".local", ".internal", ".home.arpa")  # nobody can register a name below these


class Sites:
    """Checks Host (of a server on the loopback address, or with `allowed_hosts`) and where a page comes from.

    A name that somebody else can register has a dot, and a page of that name can be made to stand for 127.0.0.1; so
    addresses, names without a dot and names of local networks are allowed without being listed."""

    def __init__(self, check_host: bool, allowed_hosts: Collection[str], allowed_origins: Collection[str]) -> None:
        self._check_host = check_host and "*" not in allowed_hosts
        self._hosts = {host.lower() for host in allowed_hosts} | {socket.gethostname().lower()}
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raises ServeError 403. The page itself, at /, may be linked to."""
        if self._check_host and not self._is_ours(_name(headers.get("host", ""))):
            host = headers["host"][:128]
            text = f"this server does not answer to the name {host!r}; --allowed-hosts adds names"
            raise ServeError(403, text, code="host_not_allowed")
        if path != "/" and not self._may_ask(headers):
            origin = headers.get("origin", "another site")[:128]
            text = f"pages of {origin} may not ask this server; --allowed-origins lets them"
            raise ServeError(403, text, code="origin_not_allowed")

    def _is_ours(self, name: str) -> bool:
        return "." not in name or name in self._hosts or name.endswith(_LOCAL_ENDINGS) or _is_address(name)

    def _may_ask(self, headers: Mapping[str, str]) -> bool:
        """A browser says in Sec-Fetch-Site whether a page is the server's own; one that does not say so gives Origin.
        Other programs send neither."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "").lower()
        if site in ("same-origin", "none") or (not site and not origin):
            return True
        if "*" in self._origins or origin in self._origins:
            return True
        return not site and origin.partition("://")[2] == headers.get("host", "").lower()


def _name(host: str) -> str:
    """Without port, brackets and the dot of the root."""
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
