"""Which addresses may use a route (`allow`, `deny`), by networks and by the lists of `[lists]`.

A list one of whose files could never be read is closed: nobody knows who is in it, so `deny` refuses everybody by it, and `allow` lets
nobody pass by it. The same holds for a list that is no longer in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from proxyd.base.networks import NetworkSet, Number, number_of, read_networks
from proxyd.config.named import AddressRule, NetworkList
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.gates.followed import FollowedFile

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool

#: The largest file of a list, and the most networks in one.
MAX_LIST_BYTES, MAX_NETWORKS = 64 << 20, 1_000_000
_DENIED = refuse("address_denied", "this address may not use this service")


def list_file(path: str) -> FollowedFile[NetworkSet]:
    """A file with networks of a list."""
    return FollowedFile(path, "list of networks", MAX_LIST_BYTES, lambda content: read_networks(content, MAX_NETWORKS))


class AddressLists:
    """The lists of a worker. `files`: those to follow."""

    def __init__(self, lists: Mapping[str, NetworkList]) -> None:
        files = {path: list_file(path) for made in lists.values() for path in made.files}
        self.files = tuple(files.values())
        self._lists = {name: (NetworkSet(made.ranges), tuple(files[path] for path in made.files)) for name, made in lists.items()}

    def names(self, rule: AddressRule, number: Number | None, unknown: bool) -> bool:
        """Whether a rule names an address. `unknown`: what to answer for a list of which nobody knows who is in it. None, for the peer
        of a UNIX socket, is in no network."""
        if number is not None and number in rule.networks:
            return True
        for name in rule.lists:
            found = self._lists.get(name)
            if found is None:
                if unknown:
                    return True
                continue
            networks, files = found
            if number is not None and number in networks:
                return True
            for file in files:
                if file.value is None:
                    if unknown:
                        return True
                elif number is not None and number in file.value:
                    return True
        return False

    def denies(self, allow: AddressRule, deny: AddressRule, address: str) -> bool:
        """Whether a route with these rules refuses a client."""
        number = number_of(address)
        return bool((deny and self.names(deny, number, True)) or (allow and not self.names(allow, number, False)))


class HasLists(Protocol):
    """What this gate needs of a worker."""

    lists: AddressLists


def addresses(parts: HasLists, ex: Exchange, pool: Pool) -> Refusal | None:
    """403 for a client whose address the route does not let in."""
    options = pool.members[0].options
    return _DENIED if parts.lists.denies(options.allow, options.deny, ex.client_ip) else None
