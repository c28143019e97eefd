"""The data of a simulated Redis: the commands that the lab's scripts call.

Values are bytes (strings), dictionaries (hashes) and lists of entries (streams). Every
change is noted in a journal, so that a state of the past can be made again: that of a
replica that lags, or of a disk. A script changes everything or nothing there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Args = Sequence[bytes]
Entry = tuple[int, list[bytes]]  # the first half of its ID, and its fields and values
Value = bytes | dict[bytes, bytes] | list[Entry]
# A key, its value from now on, and when it expires (ms).
Change = tuple[bytes, Value | None, int | None]


class Refused(Exception):
    """Redis refuses a command; the text is its answer."""


class Store:
    """Keys and values, with a clock.

    Args:
        clock: Returns Redis's time in microseconds.

    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.values: dict[bytes, Value] = {}
        self.expiry: dict[bytes, int] = {}  # ms
        self.journal: list[list[Change]] = []  # by command: a script is one
        self.changes: list[Change] = []  # of the command that runs
        # By epoch of a room: the epoch before, and the last seq that both share.
        self.epochs: dict[str, tuple[str, int]] = {}
        self.tops: Counter[str] = Counter()  # by epoch: the highest seq it ever had

    @property
    def now(self) -> int:
        return self.clock() // 1000

    def call(self, name: bytes, args: Args) -> Any:
        """Run a command. Raises Refused."""
        command = COMMANDS.get(name.upper())
        if command is None:
            raise Refused(f"ERR unknown command '{name.decode()}'")
        return command(self, *args)

    def commit(self) -> bool:
        """End a command: its changes are replicated and kept together.

        Returns:
            Whether it changed something.

        """
        changes, self.changes = self.changes, []
        if changes:
            self.journal.append(changes)
        return bool(changes)

    def at(self, commands: int) -> Store:
        """Return the state after the first ``commands`` commands that changed it."""
        past = Store(self.clock)
        past.epochs, past.tops = self.epochs, self.tops  # whatever ever was
        past.journal = self.journal[:commands]
        for changes in past.journal:
            for key, value, expiry in changes:
                past.put(key, value, expiry)
        return past

    def put(self, key: bytes, value: Value | None, expiry: int | None) -> None:
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value.copy() if not isinstance(value, bytes) else value
        self.expiry.pop(key, None)
        if expiry is not None:
            self.expiry[key] = expiry

    def get(self, key: bytes) -> Any:
        expiry = self.expiry.get(key)
        if expiry is not None and expiry <= self.now:
            self.put(key, None, None)
        return self.values.get(key)

    def changed(self, key: bytes) -> None:
        """Note a key's new value in the journal."""
        value = self.values.get(key)
        copy = value.copy() if isinstance(value, dict | list) else value
        self.changes.append((key, copy, self.expiry.get(key)))


def _exists(store: Store, *keys: bytes) -> int:
    return sum(store.get(key) is not None for key in keys)


def _delete(store: Store, *keys: bytes) -> int:
    found = [key for key in keys if store.get(key) is not None]
    for key in found:
        store.put(key, None, None)
        store.changed(key)
    return len(found)


def _get(store: Store, key: bytes) -> Any:
    return store.get(key)


def _set(store: Store, key: bytes, value: bytes, *options: bytes) -> str:
    expiry = None
    if options:
        assert options[0].upper() == b"PX"
        expiry = store.now + int(options[1])
    store.put(key, value, expiry)
    store.changed(key)
    return "OK"


def _pexpire(store: Store, key: bytes, ms: bytes) -> int:
    if store.get(key) is None:
        return 0
    store.expiry[key] = store.now + int(float(ms))
    store.changed(key)
    return 1


def _hget(store: Store, key: bytes, field: bytes) -> Any:
    return (store.get(key) or {}).get(field)


def _hmget(store: Store, key: bytes, *fields: bytes) -> list[Any]:
    found = store.get(key) or {}
    return [found.get(field) for field in fields]


def _hgetall(store: Store, key: bytes) -> list[bytes]:
    return [each for pair in (store.get(key) or {}).items() for each in pair]


def _hset(store: Store, key: bytes, *pairs: bytes) -> int:
    if store.get(key) is None:
        store.values[key] = {}
    hash_: Any = store.values[key]
    before = len(hash_)
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    hash_.update(fields)
    if epoch := fields.get(b"epoch"):
        earlier, base = fields.get(b"before", b""), fields.get(b"base", b"-1")
        store.epochs[epoch.decode()] = earlier.decode(), int(base)
    if (number := hash_.get(b"seq")) and (name := hash_.get(b"epoch")):
        top = store.tops[name.decode()]
        store.tops[name.decode()] = max(top, int(number))
    store.changed(key)
    return len(hash_) - before


def _hdel(store: Store, key: bytes, *fields: bytes) -> int:
    hash_ = store.get(key) or {}
    gone = [hash_.pop(field, None) for field in fields]
    if hash_ == {}:
        store.put(key, None, None)
    store.changed(key)
    return sum(each is not None for each in gone)


def _xadd(store: Store, key: bytes, *args: bytes) -> bytes:
    _, limit, name, *fields = args  # MAXLEN limit ID field value ...
    if store.get(key) is None:
        store.values[key] = []
    stream: Any = store.values[key]
    number = int(name.split(b"-")[0])
    if stream and number <= stream[-1][0]:
        raise Refused(
            "ERR The ID specified in XADD is equal or smaller than the target stream "
            "top item"
        )
    stream.append((number, fields))
    del stream[: max(0, len(stream) - int(limit))]
    store.changed(key)
    return name


def _first(name: bytes, otherwise: int) -> int:
    """Return the first half of a stream's ID; ``-1`` behind it excludes nothing."""
    return otherwise if name in (b"-", b"+") else int(name.split(b"-")[0])


def _xrange(
    store: Store, key: bytes, first: bytes, last: bytes, _: bytes, count: bytes
) -> list[Any]:
    least, most = _first(first, 0), _first(last, 2**63)
    found = [e for e in store.get(key) or [] if least <= e[0] <= most]
    return [[b"%d-1" % number, fields] for number, fields in found[: int(count)]]


def _xrevrange(
    store: Store, key: bytes, last: bytes, first: bytes, _: bytes, count: bytes
) -> list[Any]:
    # Every entry of the lab is called "seq-1": "seq-0" as the last excludes seq.
    most = _first(last, 2**63) - last.endswith(b"-0")
    least = _first(first, 0)
    found = [e for e in store.get(key) or [] if least <= e[0] <= most]
    newest = found[: -int(count) - 1 : -1]
    return [[b"%d-1" % number, fields] for number, fields in newest]


def _time(store: Store) -> list[bytes]:
    seconds, rest = divmod(store.clock(), 1_000_000)
    return [b"%d" % seconds, b"%d" % rest]


COMMANDS: dict[bytes, Callable[..., Any]] = {
    b"EXISTS": _exists,
    b"DEL": _delete,
    b"UNLINK": _delete,
    b"GET": _get,
    b"SET": _set,
    b"PEXPIRE": _pexpire,
    b"HGET": _hget,
    b"HMGET": _hmget,
    b"HGETALL": _hgetall,
    b"HSET": _hset,
    b"HDEL": _hdel,
    b"XADD": _xadd,
    b"XRANGE": _xrange,
    b"XREVRANGE": _xrevrange,
    b"TIME": _time,
}
WRITES = {b"DEL", b"UNLINK", b"SET", b"PEXPIRE", b"HSET", b"HDEL", b"XADD"}
