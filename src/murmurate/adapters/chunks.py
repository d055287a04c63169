"""The chunk table of the index: documents, their chunks and vectors, in SQLite. Blocking.

Everything in it can be made again from the log, so a damaged or outdated file is thrown away.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from murmurate.adapters.keywords import Line
from murmurate.core.errors import WorkerUnreachableError
from murmurate.knowledge import chunk as chunking
from murmurate.knowledge.chunk import windows
from murmurate.knowledge.ports import Document

FILE = "index.db"
_SCHEMA_VERSION = 1
_VERSION = _SCHEMA_VERSION * 1000 + chunking.VERSION
_SCHEMA = """
CREATE TABLE documents (
  number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, collection TEXT NOT NULL,
  id TEXT NOT NULL, path TEXT NOT NULL, title TEXT NOT NULL, sha256 TEXT NOT NULL,
  UNIQUE (tenant, collection, id));
CREATE TABLE chunks (
  row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, context TEXT NOT NULL,
  text TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
  line_first INTEGER NOT NULL, line_last INTEGER NOT NULL, vector BLOB);
CREATE INDEX chunks_document ON chunks (document);
CREATE INDEX chunks_pending ON chunks (document) WHERE vector IS NULL;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('generation', '0'), ('embedder', '');
"""
_ROWS = """
SELECT row, collection, id, path, title, context, text, start, "end", line_first, line_last
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


@dataclass(frozen=True, slots=True)
class Pending:
    """A chunk that has no vectors yet, and the texts to make them of."""

    row: int
    tenant: str
    collection: str
    texts: tuple[str, ...]


class ChunkTable:
    """Written by one thread, read by any. Survives a kill between any two statements."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            self._writer = self._open()
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(FILE + suffix).unlink(missing_ok=True)
            self._writer = self._open()
        self._reader = sqlite3.connect(self._path, check_same_thread=False)
        self._reading = threading.Lock()

    def close(self) -> None:
        """Close both connections."""
        self._writer.close()
        self._reader.close()

    def generation(self) -> int:
        """Return the number of changes so far."""
        return int(self._fact("generation"))

    def held(self, tenant: str, collection: str) -> dict[str, str]:
        """Return id and sha256 of the collection's documents."""
        query = "SELECT id, sha256 FROM documents WHERE tenant = ? AND collection = ?"
        return dict(map(tuple, self._read(query, (tenant, collection))))

    def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> list[Line]:
        """Write documents and their chunks; return what the keyword index must add."""
        lines: list[Line] = []
        with self._change() as cursor:
            for document in documents:
                cursor.execute(
                    "INSERT INTO documents (tenant, collection, id, path, title, sha256)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        tenant,
                        collection,
                        document.id,
                        document.path,
                        document.title,
                        document.sha256,
                    ),
                )
                number = cursor.lastrowid
                for piece in chunking.chunk(document.text):
                    cursor.execute(
                        "INSERT INTO chunks (document, context, text, start, end, line_first,"
                        " line_last) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            number,
                            piece.context,
                            piece.text,
                            piece.start,
                            piece.end,
                            piece.line_first,
                            piece.line_last,
                        ),
                    )
                    assert cursor.lastrowid is not None
                    heading = heading_of(document.path, document.title, piece.context)
                    lines.append(Line(cursor.lastrowid, tenant, collection, heading, piece.text))
        return lines

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

    def count(self, tenant: str, collection: str) -> tuple[int, int]:
        """Return how many chunks a collection has, and how many of them have no vector."""
        [(chunks, vectors)] = self._read(
            "SELECT count(*), count(vector) FROM chunks JOIN documents ON number = document"
            " WHERE tenant = ? AND collection = ?",
            (tenant, collection),
        )
        return chunks, chunks - vectors

    def use_embedder(self, name: str) -> None:
        """Throw away vectors of any other embedder."""
        if self._fact("embedder") != name:
            with self._writer:
                self._writer.execute("UPDATE chunks SET vector = NULL WHERE vector NOT NULL")
                self._writer.execute("UPDATE facts SET value = ? WHERE name = 'embedder'", (name,))

    def pending(self, *, limit: int) -> list[Pending]:
        """Return some chunks that have no vectors yet."""
        found = self._writer.execute(
            "SELECT row, tenant, collection, title, context, text"
            " FROM chunks JOIN documents ON number = document WHERE vector IS NULL LIMIT ?",
            (limit,),
        )
        return [
            Pending(row, tenant, collection, embedded_texts(title, context, text))
            for row, tenant, collection, title, context, text in found
        ]

    def set_vectors(self, vectors: Sequence[tuple[int, bytes]]) -> None:
        """Store the vectors of rows, one behind the other; none at all is an answer too."""
        with self._writer:
            self._writer.executemany(
                "UPDATE chunks SET vector = ? WHERE row = ?",
                [(vector, row) for row, vector in vectors],
            )

    def vectors(self) -> Iterator[tuple[int, str, str, bytes]]:
        """Yield row, tenant, collection and vectors of all chunks that were embedded."""
        connection = sqlite3.connect(self._path)
        try:
            yield from connection.execute(
                "SELECT row, tenant, collection, vector"
                " FROM chunks JOIN documents ON number = document WHERE vector NOT NULL"
            )
        finally:
            connection.close()

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
        except sqlite3.OperationalError as cause:
            self._connection.rollback()
            raise WorkerUnreachableError(f"the index cannot be written: {cause}") from cause


def heading_of(path: str, title: str, context: str) -> str:
    """Return what the keyword index reads as a chunk's title."""
    return f"{path} {title} {context}" if title not in context else f"{path} {context}"


def embedded_texts(title: str, context: str, text: str) -> tuple[str, ...]:
    """Return what the embedder reads: windows of the text, each below its nearest heading."""
    heading = context.rsplit(" > ", 1)[-1] or title
    return tuple(f"{heading}\n{window}" for window in windows(text))
