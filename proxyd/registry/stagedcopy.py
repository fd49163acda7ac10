"""The staged changes of a session, with what each command asks of them at hand: a command costs the same however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from proxyd.registry.configuration import RouteSpec
from proxyd.store.sql.changes import SettingKey

#: What an entry takes beside its text, bytes: about what the key and the places in memory take.
_ENTRY = 64


class StagedCopy(Mapping[SettingKey, str | None]):
    """Staged changes in the order in which they were staged. The value None removes a setting or a route when it is applied.

    `routes`: the staged routes by id, None for a removal. `size`: bytes of all changes, as [registry] max_staged_bytes counts them.
    """

    __slots__ = ("_entries", "_settings_of", "routes", "size")

    def __init__(self, entries: Mapping[SettingKey, str | None] | None = None) -> None:
        self.routes: dict[str, RouteSpec | None] = {}
        self.size = 0
        self._entries: dict[SettingKey, str | None] = {}
        #: The keys of the settings of each target, as those of a removed route are forgotten with it.
        self._settings_of: dict[str, dict[SettingKey, None]] = {}
        if entries:
            self.put(entries)

    def __getitem__(self, key: SettingKey) -> str | None:
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[SettingKey]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def size_with(self, entries: Mapping[SettingKey, str | None]) -> int:
        """The size that there would be with these entries, bytes."""
        return self.size + sum(entry_size(key, value) - self._size_of(key) for key, value in entries.items())

    def settings_of(self, target: str) -> tuple[SettingKey, ...]:
        """The keys of the staged settings of a route, or of ALL."""
        return tuple(self._settings_of.get(target, ()))

    def put(self, entries: Mapping[SettingKey, str | None]) -> None:
        """Stage changes; the later one counts."""
        self.size = self.size_with(entries)
        self._entries.update(entries)
        for key, value in entries.items():
            scope, target, _ = key
            if scope == "routes":
                self.routes[target] = RouteSpec.from_json(target, value) if value is not None else None
            else:
                self._settings_of.setdefault(target, {})[key] = None

    def drop(self, keys: Iterable[SettingKey]) -> None:
        """Forget changes. Those that there are not are passed over."""
        for key in keys:
            if key not in self._entries:
                continue
            self.size -= self._size_of(key)
            del self._entries[key]
            scope, target, _ = key
            if scope == "routes":
                del self.routes[target]
                continue
            own = self._settings_of[target]
            del own[key]
            if not own:
                del self._settings_of[target]

    def _size_of(self, key: SettingKey) -> int:
        return entry_size(key, self._entries[key]) if key in self._entries else 0


def entry_size(key: SettingKey, value: str | None) -> int:
    """What a change counts of max_staged_bytes."""
    return len(key[2]) + len(value or "") + _ENTRY
