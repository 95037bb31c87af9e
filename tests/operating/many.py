"""Stores with very many operations: copies of the only completed one, each a millisecond older than the one before."""

import sqlite3
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import psycopg

import redis
from grpc_idempotency.stores._redis.keys import TAGS, Keys, tag_of

_FRESH = {
    "sqlite": {"id": "NULL", "name": "randomblob(16)", "fence": "randomblob(16)", "created_ms": "created_ms - i"},
    "postgresql": {
        "name": "uuid_send(gen_random_uuid())",
        "fence": "uuid_send(gen_random_uuid())",
        "created_at": "created_at - i * interval '1 ms'",
    },
}
"""The columns in which a copy differs, as SQL."""
_COPY = """
redis.call('HSET', KEYS[4], string.sub(ARGV[1], 74, 77), ARGV[5])
local template, crc = ARGV[1], string.sub(ARGV[1], 74, 77)
local created, expires = struct.unpack('>d', string.sub(template, 28)), struct.unpack('>d', string.sub(template, 44))
for i = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local at = created - i
  local name = string.char(ARGV[4] + 64 * (i % 4)) .. struct.pack('>I4I4', i * 2654435761 % 4294967296, i) .. 'copy...'
  local place = struct.pack('>Bc4I6', 1, crc, at) .. name
  local value = string.sub(template, 1, 27) .. struct.pack('>d', at) .. string.sub(template, 36)
  redis.call('SET', KEYS[1] .. name, value)
  redis.call('ZADD', KEYS[2], 0, place)
  redis.call('ZADD', KEYS[3], expires, place)
end
"""
"""Fills a hash tag. The offsets are those of the layout in common.lua."""


def multiply(url: str, number: int) -> None:
    """Makes so many operations of the only one in a store."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        _in_sqlite(parts.path, number)
    elif parts.scheme == "postgresql":
        _in_postgresql(url, number)
    else:
        _in_redis(url, number)


def _selected(engine: str, columns: list[str]) -> str:
    return ", ".join(_FRESH[engine].get(column, column) for column in columns)


def _in_sqlite(path: str, number: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        [(table,)] = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%operations'")
        columns = [column for _, column, *_ in db.execute(f"PRAGMA table_info({table})")]
        db.execute(
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) "
            f"INSERT INTO {table} SELECT {_selected('sqlite', columns)} FROM n, (SELECT * FROM {table})",
            (number,),
        )
        db.commit()


def _in_postgresql(url: str, number: int) -> None:
    table = "idempotency.operations"
    with psycopg.connect(url, autocommit=True) as db:
        asked = f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
        columns = [column for (column,) in db.execute(asked.encode()).fetchall()]
        copies = f"SELECT {_selected('postgresql', columns)} FROM {table}, generate_series(1, {number - 1}) AS i"
        db.execute(f"INSERT INTO {table} ({', '.join(columns)}) {copies}".encode())


def _in_redis(url: str, number: int) -> None:
    parts = urlsplit(url)
    keys = Keys(parse_qs(parts.query)["prefix"][0])
    with closing(redis.Redis(host=parts.hostname or "", port=parts.port or 0)) as client:
        [key] = [key for tag in range(TAGS) for key in client.scan_iter(keys.value[tag] + b"*")]
        name, template = key[-16:], client.get(key)
        [method] = client.hvals(keys.methods[tag_of(name)])
        copying = client.register_script(_COPY)
        assert keys.value[tag_of(name)] + name == key
        for tag in range(TAGS):
            last = (number - 1) // TAGS + (tag < (number - 1) % TAGS)
            own = [kind[tag] for kind in (keys.value, keys.done, keys.expiry, keys.methods)]
            copying(own, [template, 1, last, tag, method])
