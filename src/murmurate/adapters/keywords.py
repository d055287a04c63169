"""Search by words: tantivy over stems and, for Chinese, the words of jieba. Blocking.

Both sides go through `Words`, so that what was indexed is what is asked for; a question is a list
of terms and never query syntax.
"""

import math
import shutil
import threading
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tantivy

from murmurate.knowledge.words import is_stop, runs, stem

HEAP_BYTES = 20_000_000
TERMS_MAX = 64
TITLE_BOOST = 0.25
"""What a word in title or headings counts beside one in the text."""
JIEBA_CACHE = "jieba.cache"
_SCHEMA_VERSION = 1
_MARK = "\0generation"


class KeywordsDamagedError(Exception):
    """The files of the index are broken: condemned, it is made anew at the next opening."""


class Words:
    """Cuts texts into index terms. Loads jieba at the first Chinese character."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loading = threading.Lock()
        self._cutter: Any = None

    def load(self) -> None:
        """Load jieba now (about a second the first time, then from its cache in the folder)."""
        with self._loading:
            if self._cutter is not None:
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes and pkg_resources, not ours
                import jieba  # noqa: PLC0415 - takes 50 ms and memory, for Chinese only
            jieba.setLogLevel(60)
            cutter: Any = jieba.Tokenizer()
            cutter.tmp_dir = str(self._folder)  # by default a folder that everybody can write to
            cutter.cache_file = JIEBA_CACHE
            cutter.initialize()
            self._cutter = cutter

    def was_needed(self) -> bool:
        """Say whether Chinese has been indexed in this folder before."""
        return (self._folder / JIEBA_CACHE).exists()

    def of_text(self, text: str) -> list[str]:
        """Return all terms of a text, in order."""
        terms: list[str] = []
        for run, chinese in runs(text):
            if chinese:
                terms.extend(self._cut(run))
            else:
                terms.append(stem(run))
        return terms

    def of_question(self, question: str) -> list[str]:
        """Return the content words of a question, each once; all words if there are no others."""
        content: dict[str, None] = {}
        every: dict[str, None] = {}
        for run, chinese in runs(question):
            for word in self._cut(run) if chinese else [run]:
                term = word if chinese else stem(word)
                every[term] = None
                if not is_stop(word):
                    content[term] = None
        return list(content or every)[:TERMS_MAX]

    def _cut(self, run: str) -> list[str]:
        self.load()
        return [word for word in self._cutter.cut_for_search(run) if word.strip()]


@dataclass(frozen=True, slots=True)
class Line:
    """A chunk as the keyword index needs it; `row` is its number in the chunk table."""

    row: int
    tenant: str
    collection: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The terms of a question with their rarity, and the rows that have some, best first."""

    terms: tuple[tuple[str, float], ...]
    rows: tuple[tuple[int, float], ...]


class KeywordIndex:
    """One tantivy index for all tenants. One writer thread at a time; searches from any thread.

    `generation` is what the last commit was given: it tells whether the index kept up with the
    chunk table when the process was killed between their commits.
    """

    def __init__(self, folder: Path, words: Words) -> None:
        self._folder = folder / f"keywords-{_SCHEMA_VERSION}"
        self._words = words
        self._open()

    def _open(self) -> None:
        schema = tantivy.SchemaBuilder()
        schema.add_unsigned_field("row", stored=True, indexed=True, fast=True)
        schema.add_text_field("tenant", tokenizer_name="raw", index_option="basic")
        schema.add_text_field("collection", tokenizer_name="raw", index_option="basic")
        schema.add_text_field("title", tokenizer_name="whitespace", index_option="freq")
        schema.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
        schema.add_text_field("mark", tokenizer_name="raw", index_option="basic")
        schema.add_unsigned_field("generation", stored=True)
        self._schema = schema.build()
        if self._condemned().exists():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._condemned().unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._index = tantivy.Index(self._schema, path=str(self._folder))
        except ValueError:  # damaged, or of another schema: it is rebuilt from the chunk table
            shutil.rmtree(self._folder)
            self._folder.mkdir()
            self._index = tantivy.Index(self._schema, path=str(self._folder))
        self._writer: Any = self._index.writer(HEAP_BYTES, 1)
        self._index.reload()

    def _condemned(self) -> Path:
        return self._folder.with_name(f"{self._folder.name}.damaged")

    def condemn(self) -> None:
        """Let the next opening throw the files away."""
        self._condemned().touch()

    def generation(self) -> int:
        """Return what the last commit was given, 0 for a new index."""
        with _intact():
            searcher = self._index.searcher()
            query = tantivy.Query.term_query(self._schema, "mark", _MARK)
            for _, address in searcher.search(query, 1, count=False).hits:
                return int(searcher.doc(address)["generation"][0])
        return 0

    def clear(self) -> None:
        """Forget everything at the next commit."""
        with _intact():
            self._writer.delete_all_documents()

    def add(self, lines: Iterable[Line]) -> None:
        """Index chunks; searchable after `commit`. `KeywordsDamagedError`: no further one works."""
        for line in lines:
            document = tantivy.Document()
            document.add_unsigned("row", line.row)
            document.add_text("tenant", line.tenant)
            document.add_text("collection", line.collection)
            document.add_text("title", " ".join(self._words.of_text(line.title)))
            document.add_text("text", " ".join(self._words.of_text(line.text)))
            with _intact():
                # A segment that could not be written, for want of space, ends tantivy's writer.
                self._writer.add_document(document)

    def remove(self, rows: Iterable[int]) -> None:
        """Forget chunks at the next commit."""
        # By query: `delete_documents_by_term` takes an int for a signed one and deletes nothing.
        for row in rows:
            query = tantivy.Query.term_query(self._schema, "row", row)
            with _intact():
                self._writer.delete_documents_by_query(query)

    def commit(self, generation: int) -> None:
        """Make all changes since the last commit visible at once."""
        mark = tantivy.Document()
        mark.add_text("mark", _MARK)
        mark.add_unsigned("generation", generation)
        with _intact():
            self._writer.delete_documents_by_term("mark", _MARK)
            self._writer.add_document(mark)
            self._writer.commit()
            self._index.reload()

    def find(self, tenant: str, collections: Sequence[str], question: str, *, limit: int) -> Asked:
        """Return the rows with the question's words, by BM25. `KeywordsDamagedError`."""
        words = self._words.of_question(question)
        with _intact():
            return self._find(tenant, collections, words, limit=limit)

    def _find(
        self, tenant: str, collections: Sequence[str], words: list[str], *, limit: int
    ) -> Asked:
        searcher = self._index.searcher()
        total = max(searcher.num_docs, 1)
        terms = tuple((word, self._rarity(searcher, total, word)) for word in words)
        if not words or not collections:
            return Asked(terms, ())
        query = tantivy.Query.boolean_query(
            [
                (tantivy.Occur.Must, self._one_of("tenant", [tenant])),
                (tantivy.Occur.Must, self._one_of("collection", collections)),
                (tantivy.Occur.Must, self._any_of(words)),
            ]
        )
        hits = searcher.search(query, limit, count=False).hits
        return Asked(
            terms, tuple((int(searcher.doc(address)["row"][0]), score) for score, address in hits)
        )

    def size_bytes(self) -> int:
        """Return what the index takes on disk."""
        total = 0
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):  # merged away meanwhile
                total += file.stat().st_size
        return total

    def close(self) -> None:
        """Wait for merges, so that nothing is left half-written."""
        self._writer.wait_merging_threads()

    def _rarity(self, searcher: Any, total: int, word: str) -> float:  # noqa: ANN401 - tantivy's
        """Return the inverse document frequency that BM25 uses."""
        count = searcher.doc_freq("text", word)
        return math.log(1 + (total - count + 0.5) / (count + 0.5))

    def _one_of(self, field: str, values: Sequence[str]) -> Any:  # noqa: ANN401 - tantivy's
        query = tantivy.Query.term_set_query(self._schema, field, list(values))
        return tantivy.Query.const_score_query(query, 0.0)

    def _any_of(self, words: Sequence[str]) -> Any:  # noqa: ANN401 - tantivy's
        alternatives: list[tuple[Any, Any]] = []
        for word in words:
            text = tantivy.Query.term_query(self._schema, "text", word, "freq")
            title = tantivy.Query.term_query(self._schema, "title", word, "freq")
            alternatives.append((tantivy.Occur.Should, text))
            boosted = tantivy.Query.boost_query(title, TITLE_BOOST)
            alternatives.append((tantivy.Occur.Should, boosted))
        return tantivy.Query.boolean_query(alternatives)


@contextmanager
def _intact() -> Generator[None]:
    """Tell what tantivy says of broken files from everything else."""
    try:
        yield
    except ValueError as cause:
        raise KeywordsDamagedError(str(cause)) from cause
    except BaseException as cause:
        if type(cause).__name__ == "PanicException":  # a Rust panic, which has no class to import
            raise KeywordsDamagedError(str(cause)) from cause
        raise
