"""The chunk table of the index: documents, their chunks and vectors, in SQLite. Blocking.

Everything in it can be made again from the log, so a damaged or outdated file is thrown away.
Chunks are told apart by what they say: a document put again keeps the rows of the chunks that it
still has, moved to their new places, and a chunk that was embedded anywhere is not embedded again.
"""

# Over 400 lines: the table's text, its statements and what they promise are read together.

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from murmurate.adapters.keywords import Line
from murmurate.core.errors import IndexUnwritableError
from murmurate.knowledge import chunk as chunking
from murmurate.knowledge.chunk import Chunk, windows
from murmurate.knowledge.ports import Document

FILE = "index.db"
_SCHEMA_VERSION = 3
_VERSION = _SCHEMA_VERSION * 1000 + chunking.VERSION
_SCHEMA = """
CREATE TABLE documents (
  number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, collection TEXT NOT NULL,
  id TEXT NOT NULL, path TEXT NOT NULL, title TEXT NOT NULL, sha256 TEXT NOT NULL,
  pieces INTEGER NOT NULL, UNIQUE (tenant, collection, id));
CREATE TABLE chunks (
  row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, id BLOB NOT NULL,
  said BLOB NOT NULL, context TEXT NOT NULL, text TEXT NOT NULL, start INTEGER NOT NULL,
  "end" INTEGER NOT NULL, line_first INTEGER NOT NULL, line_last INTEGER NOT NULL, page INTEGER,
  vector BLOB, states BLOB);
CREATE INDEX chunks_document ON chunks (document);
CREATE INDEX chunks_said ON chunks (said) WHERE vector NOT NULL;
CREATE INDEX chunks_pending ON chunks (row, document) WHERE vector IS NULL;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('generation', '0'), ('embedder', ''),
  ('birth', lower(hex(randomblob(8))));
"""
_ROWS = """
SELECT row, collection, documents.id, path, title, context, text, start, "end", line_first,
  line_last, page
FROM chunks JOIN documents ON number = document WHERE row IN (SELECT value FROM json_each(?))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk and its document, as stored."""

    row: int
    collection: str
    document: str
    path: str
    title: str
    context: str
    text: str
    start: int
    end: int
    line_first: int
    line_last: int
    page: int | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A chunk that has no vectors yet, and the texts to make them of."""

    row: int
    tenant: str
    collection: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change of the table means for the other indexes."""

    added: list[Line] = field(default_factory=list[Line])
    removed: list[int] = field(default_factory=list[int])
    vectors: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """Rows among the added ones that had their vectors from the start."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The size of a collection; `pending` chunks have no vectors yet."""

    documents: int
    chunks: int
    pending: int


class ChunkTable:
    """Written by one thread, read by any. Survives a kill between any two statements."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            if self._condemned().exists():
                self._throw_away()
            self._writer = self._open()
        except sqlite3.DatabaseError:
            self._throw_away()
            self._writer = self._open()
        self._reader = sqlite3.connect(self._path, check_same_thread=False)
        self._reading = threading.Lock()

    def close(self) -> None:
        """Close both connections."""
        self._writer.close()
        self._reader.close()

    def condemn(self) -> None:
        """Let the next opening throw the file away: it was found to be damaged."""
        self._condemned().touch()

    def birth(self) -> str:
        """Return what tells this file from every other one that stood, or will, in its place."""
        return self._fact("birth")

    def generation(self) -> int:
        """Return the number of changes so far."""
        return int(self._fact("generation"))

    def held(self, tenant: str, collection: str) -> dict[str, str]:
        """Return id and sha256 of the collection's documents."""
        query = "SELECT id, sha256 FROM documents WHERE tenant = ? AND collection = ?"
        return dict(map(tuple, self._read(query, (tenant, collection))))

    def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> Changed:
        """Write documents, in place of their older versions, with their chunks."""
        changed = Changed()
        with self._change() as cursor:
            for document in documents:
                pieces = chunking.chunk(document.text, document.path)
                number = self._put_document(cursor, tenant, collection, (document, len(pieces)))
                self._put_chunks(cursor, (number, tenant, collection), (document, pieces), changed)
        return changed

    def _put_document(
        self, cursor: sqlite3.Cursor, tenant: str, collection: str, whole: tuple[Document, int]
    ) -> int:
        """Write a document's own row; return its number, the old one where there was one."""
        document, pieces = whole
        values = (document.id, document.path, document.title, document.sha256, pieces)
        [(number,)] = cursor.execute(
            "INSERT INTO documents (tenant, collection, id, path, title, sha256, pieces)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET path = excluded.path,"
            " title = excluded.title, sha256 = excluded.sha256, pieces = excluded.pieces"
            " RETURNING number",
            (tenant, collection, *values),
        ).fetchall()
        return int(number)

    def _put_chunks(
        self,
        cursor: sqlite3.Cursor,
        place: tuple[int, str, str],
        whole: tuple[Document, list[Chunk]],
        changed: Changed,
    ) -> None:
        """Move the chunks that the document still has, delete the others, add the new ones."""
        number, tenant, collection = place
        document, pieces = whole
        held: dict[bytes, list[int]] = defaultdict(list)
        for row, id_ in cursor.execute(
            "SELECT row, id FROM chunks WHERE document = ? ORDER BY start DESC", (number,)
        ):
            held[id_].append(row)
        for piece in pieces:
            where = (piece.start, piece.end, piece.line_first, piece.line_last, piece.page)
            heading = heading_of(document.path, document.title, piece.context)
            id_ = _digest(heading, piece.context, piece.text)
            if held[id_]:
                cursor.execute(
                    'UPDATE chunks SET start = ?, "end" = ?, line_first = ?, line_last = ?,'
                    " page = ? WHERE row = ?",
                    (*where, held[id_].pop()),
                )
                continue
            said = _digest(tenant, embedded_heading(document.title, piece.context), piece.text)
            known = cursor.execute(
                "SELECT vector, states FROM chunks WHERE said = ? AND vector NOT NULL LIMIT 1",
                (said,),
            ).fetchone()
            cursor.execute(
                "INSERT INTO chunks (document, id, said, context, text, start, end, line_first,"
                " line_last, page, vector, states) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, id_, said, piece.context, piece.text, *where, *(known or (None, None))),
            )
            assert cursor.lastrowid is not None
            changed.added.append(Line(cursor.lastrowid, tenant, collection, heading, piece.text))
            if known:
                changed.vectors.append((cursor.lastrowid, known[0]))
        gone = [row for rows in held.values() for row in rows]
        cursor.executemany("DELETE FROM chunks WHERE row = ?", [(row,) for row in gone])
        changed.removed.extend(gone)

    def drop(self, tenant: str, collection: str, ids: Sequence[str]) -> list[int]:
        """Delete documents; return the rows of their chunks."""
        rows: list[int] = []
        with self._change() as cursor:
            for id_ in ids:
                found = cursor.execute(
                    "DELETE FROM documents WHERE tenant = ? AND collection = ? AND id = ?"
                    " RETURNING number",
                    (tenant, collection, id_),
                ).fetchall()
                for (number,) in found:
                    deleted = cursor.execute(
                        "DELETE FROM chunks WHERE document = ? RETURNING row", (number,)
                    ).fetchall()
                    rows.extend(row for (row,) in deleted)
        return rows

    def rows(self, rows: Sequence[int]) -> list[Row]:
        """Return the chunks of those rows that still exist, in no order."""
        found = self._read(_ROWS, (json.dumps(list(rows)),))
        return [Row(*values) for values in found]

    def lines(self) -> Iterator[Line]:
        """Yield all chunks, to build the keyword index anew. Only for the writing thread."""
        for row, tenant, collection, path, title, context, text in self._writer.execute(
            "SELECT row, tenant, collection, path, title, context, text"
            " FROM chunks JOIN documents ON number = document"
        ):
            yield Line(row, tenant, collection, heading_of(path, title, context), text)

    def count(self, tenant: str, collection: str) -> Counts:
        """Return how many documents and chunks a collection has, and how many without vectors."""
        place = (tenant, collection)
        [(documents, chunks)] = self._read(
            "SELECT count(*), ifnull(sum(pieces), 0) FROM documents"
            " WHERE tenant = ? AND collection = ?",
            place,
        )
        [(pending,)] = self._read(
            "SELECT count(*) FROM chunks JOIN documents ON number = document"
            " WHERE vector IS NULL AND tenant = ? AND collection = ?",
            place,
        )
        return Counts(documents, chunks, pending)

    def size_bytes(self) -> int:
        """Return what the table takes on disk."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += self._path.with_name(FILE + suffix).stat().st_size
        return total

    def use_embedder(self, identity: str) -> None:
        """Throw away vectors of any other embedder."""
        if self._fact("embedder") != identity:
            with self._writer:
                self._writer.execute(
                    "UPDATE chunks SET vector = NULL, states = NULL WHERE vector NOT NULL"
                )
                self._writer.execute(
                    "UPDATE facts SET value = ? WHERE name = 'embedder'", (identity,)
                )

    def pending(self, *, after: int, limit: int) -> list[Pending]:
        """Return the first chunks behind the row `after` that have no vectors yet."""
        found = self._read(
            "SELECT row, tenant, collection, title, context, text"
            " FROM chunks JOIN documents ON number = document"
            " WHERE vector IS NULL AND row > ? ORDER BY row LIMIT ?",
            (after, limit),
        )
        return [
            Pending(row, tenant, collection, embedded_texts(title, context, text))
            for row, tenant, collection, title, context, text in found
        ]

    def set_vectors(self, vectors: Sequence[tuple[int, bytes, bytes]]) -> set[int]:
        """Keep vectors and packed token states by row; return the rows that still exist."""
        kept: set[int] = set()
        with self._writer:
            for row, vector, states in vectors:
                updated = self._writer.execute(
                    "UPDATE chunks SET vector = ?, states = ? WHERE row = ?", (vector, states, row)
                )
                if updated.rowcount:
                    kept.add(row)
        return kept

    def states(self, rows: Sequence[int]) -> dict[int, bytes]:
        """Return the packed token states of those rows that have some."""
        found = self._read(
            "SELECT row, states FROM chunks WHERE length(states) > 0"
            " AND row IN (SELECT value FROM json_each(?))",
            (json.dumps(list(rows)),),
        )
        return dict(map(tuple, found))

    def vectors(self) -> Iterator[tuple[int, str, str, bytes]]:
        """Yield row, tenant, collection and vectors of all chunks that were embedded."""
        connection = sqlite3.connect(self._path)
        try:
            yield from connection.execute(
                "SELECT row, tenant, collection, vector"
                " FROM chunks JOIN documents ON number = document WHERE vector NOT NULL"
                " ORDER BY row"
            )
        finally:
            connection.close()

    def _condemned(self) -> Path:
        return self._path.with_name(f"{FILE}.damaged")

    def _throw_away(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(FILE + suffix).unlink(missing_ok=True)
        self._condemned().unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        """Open the file, and make it anew when another version wrote it."""
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A lost last commit only means that the server sends those documents again.
            connection.execute("PRAGMA synchronous = NORMAL")
            [version] = connection.execute("PRAGMA user_version").fetchone()
            if version != _VERSION:  # new, or another version's: then this fails, and it goes
                connection.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            connection.execute("SELECT count(*) FROM facts").fetchone()
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _change(self) -> "_Change":
        return _Change(self._writer)

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    def _fact(self, name: str) -> str:
        [(value,)] = self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return str(value)


class _Change:
    """One transaction, which counts as one generation."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Cursor:
        return self._connection.cursor()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._connection.execute(
                    "UPDATE facts SET value = value + 1 WHERE name = 'generation'"
                )
                self._connection.commit()
            else:
                self._connection.rollback()
                if isinstance(error, sqlite3.OperationalError):
                    raise error
        except sqlite3.OperationalError as cause:
            self._connection.rollback()
            raise IndexUnwritableError(f"the index cannot be written: {cause}") from cause


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Say whether the file itself is broken, so that only a new one helps."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def heading_of(path: str, title: str, context: str) -> str:
    """Return what the keyword index reads as a chunk's title."""
    return f"{path} {title} {context}" if title not in context else f"{path} {context}"


def embedded_heading(title: str, context: str) -> str:
    """Return what the embedder reads above a chunk's text: its nearest heading."""
    return context.rsplit(" > ", 1)[-1] or title


def embedded_texts(title: str, context: str, text: str) -> tuple[str, ...]:
    """Return what the embedder reads: windows of the text, each below its nearest heading."""
    heading = embedded_heading(title, context)
    return tuple(f"{heading}\n{window}" for window in windows(text))


def _digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()
