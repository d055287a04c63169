"""Reads the question-answer data sets that the reader is trained on, each in its own format.

Every function takes the folder that `prepare.py` was given and returns passages and questions;
a data set that is not there gives none. Nothing here is from the benchmark or its corpus.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """A question about one passage; `answers` are spans in it, none where it does not answer."""

    question: str
    passage: int
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Source:
    """A data set: passages with their titles, and questions about them."""

    name: str
    passages: list[tuple[str, str]]
    asked: list[Asked]


def sources(folder: Path) -> Iterator[Source]:
    """Return every data set that is there."""
    for name in ("new_wiki_v1.0", "reddit_v1.0", "amazon_reviews_v1.0"):
        yield squad_json(folder / "datasets" / f"{name}.json")
    yield squad_pages(folder / "squad" / "explore")
    yield sentence_pairs(folder / "nqg")
    yield queries(folder / "qed" / "dev.jsonl")
    yield covid(folder / "covid" / "covid.json")
    for name in ("dev", "test"):
        yield selection(folder / "selqa" / f"{name}.json")
    yield questions_and_answers(folder)


def squad_json(path: Path) -> Source:
    """Read a data set in SQuAD's JSON format."""
    passages: list[tuple[str, str]] = []
    asked: list[Asked] = []
    if path.exists():
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            # "Amazon_Reviews_980" says nothing of the text.
            title = article["title"].replace("_", " ") if path.stem.startswith("new_wiki") else ""
            for paragraph in article["paragraphs"]:
                text = paragraph["context"]
                passages.append((title, text))
                for qa in paragraph["qas"]:
                    spans = [
                        (a["answer_start"], a["answer_start"] + len(a["text"]))
                        for a in qa["answers"]
                        if text[a["answer_start"] :].startswith(a["text"])
                    ]
                    if spans or not qa["answers"]:
                        asked.append(Asked(qa["question"], len(passages) - 1, tuple(spans)))
    return Source(f"{path.parent.name}/{path.stem}", passages, asked)


def squad_pages(folder: Path) -> Source:
    """Read the pages that show SQuAD's development sets, 1.1 and 2.0, article by article."""
    passages: dict[str, int] = {}
    titles: list[tuple[str, str]] = []
    asked: dict[tuple[str, int], Asked] = {}
    for page in sorted(folder.glob("*/dev/*.html")):
        if page.stem == "index":
            continue
        for part in page.read_text(encoding="utf-8").split('<div class="para-wrap">')[1:]:
            text = html.unescape(re.search(r"<pre>(.*?)</pre>", part, re.DOTALL)[1])
            if text not in passages:
                passages[text] = len(titles)
                titles.append((page.stem.replace("_", " "), text))
            for block in part.split('<div class="qa-wrap"')[1:]:
                found = re.search(r'class="question">(.*?)</strong>', block, re.DOTALL)
                answers = re.findall(r'<span class="answer">(.*?)</span>', block, re.DOTALL)
                if not found:
                    continue
                question = html.unescape(found[1])
                words = {html.unescape(answer) for answer in answers}
                spans = {
                    (at, at + len(w))
                    for w in words
                    if w != "<No Answer>" and (at := text.find(w)) >= 0
                }
                if spans or not words or words == {"<No Answer>"}:
                    at = passages[text]
                    asked[question, at] = Asked(question, at, tuple(sorted(spans)))
    return Source("squad/dev", titles, list(asked.values()))


def sentence_pairs(folder: Path, *, sentences: int = 4) -> Source:
    """Read pairs of a sentence and a question about it; neighbours make a passage."""
    passages: list[tuple[str, str]] = []
    asked: list[Asked] = []
    if (folder / "src-test.txt").exists():
        lines = (folder / "src-test.txt").read_text(encoding="utf-8").splitlines()
        questions = (folder / "tgt-test.txt").read_text(encoding="utf-8").splitlines()
        group: dict[str, list[str]] = {}
        for line, question in zip([*lines, ""], [*questions, ""], strict=True):
            if line not in group and (len(group) == sentences or not line):
                kept = {plain(sentence): found for sentence, found in group.items()}
                text = " ".join(kept)
                passages.append(("", text))
                for sentence, found in kept.items():
                    start = text.index(sentence)
                    span = (start, start + len(sentence))
                    asked += [Asked(plain(q), len(passages) - 1, (span,)) for q in found]
                group = {}
            group.setdefault(line, []).append(question)
    return Source("nqg", passages, asked)


def plain(tokens: str) -> str:
    """Return tokenised text as one writes it, about."""
    for token, mark in {
        "-lrb-": "(",
        "-rrb-": ")",
        "``": '"',
        "''": '"',
        "-lsb-": "[",
        "-rsb-": "]",
    }.items():
        tokens = tokens.replace(token, mark)
    tokens = re.sub(r" ([.,;:?!%)\]]|'s\b|n't\b)", r"\1", tokens)
    return re.sub(r"([(\[$]) ", r"\1", tokens).strip()


def queries(path: Path) -> Source:
    """Read QED: what people typed into a search engine, and paragraphs of Wikipedia."""
    passages: list[tuple[str, str]] = []
    asked: list[Asked] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        text = row["paragraph_text"]
        passages.append((html.unescape(row["title_text"]), text))
        spans = [
            (reference["start"], reference["end"])
            for answer in row.get("original_nq_answers", [])
            for reference in answer
        ]
        whole = (
            [(0, len(text))]
            if not spans
            else [(min(s for s, _ in spans), max(e for _, e in spans))]
        )
        asked.append(Asked(row["question_text"] + "?", len(passages) - 1, tuple(whole)))
    return Source("qed", passages, asked)


def covid(path: Path, *, chars: int = 700) -> Source:
    """Read COVID-QA: scientific articles, cut into passages at the ends of sentences."""
    passages: list[tuple[str, str]] = []
    asked: list[Asked] = []
    rows = json.loads(path.read_text(encoding="utf-8"))["data"] if path.exists() else []
    for row in rows:
        for paragraph in row["paragraphs"]:
            text = paragraph["context"]
            starts = [0]
            while starts[-1] + chars < len(text):
                end = text.find(". ", starts[-1] + chars)
                if end < 0:
                    break
                starts.append(end + 2)
            bounds = list(zip(starts, [*starts[1:], len(text)], strict=True))
            first = len(passages)
            passages += [("", text[start:end]) for start, end in bounds]
            for qa in paragraph["qas"]:
                for answer in qa["answers"][:1]:
                    at, length = answer["answer_start"], len(answer["text"])
                    for place, (start, end) in enumerate(bounds):
                        if start <= at and at + length <= end:
                            span = (at - start, at - start + length)
                            asked.append(Asked(qa["question"], first + place, (span,)))
    return Source("covid", passages, asked)


def selection(path: Path) -> Source:
    """Read SelQA: the sentences of a section of Wikipedia, and which of them answer."""
    passages: list[tuple[str, str]] = []
    asked: list[Asked] = []
    for row in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
        sentences, at = row["candidates"], row["answers"]
        first = max(0, at[0] - 2)
        kept = sentences[first : first + 6]
        if not at or at[-1] >= first + len(kept):
            continue
        text = " ".join(kept)
        start = len(" ".join(kept[: at[0] - first])) + (at[0] > first)
        end = len(" ".join(kept[: at[-1] - first + 1]))
        passages.append((f"{row['article']} {row['section']}", text))
        asked.append(Asked(row["question"], len(passages) - 1, ((start, end),)))
    return Source(f"selqa/{path.stem}", passages, asked)


def questions_and_answers(folder: Path, *, chars: int = 900) -> Source:
    """Read frequently asked questions of Perl and Python: the answer is a passage of its own."""
    pairs: list[tuple[str, str]] = []
    for path in sorted(folder.glob("faq/perlfaq*.pod")):
        for part in path.read_text(encoding="utf-8").split("\n=head2 ")[1:]:
            title, _, body = part.partition("\n")
            body = re.sub(r"^=.*$|[CLFBI]<+\s?|\s?>+(?=[\s,.;])", "", body, flags=re.MULTILINE)
            pairs.append((re.sub(r"[CLFBI]<|>", "", title), body))
    for path in sorted(folder.glob("faq/*.rst.txt")):
        parts = re.split(r"\n([^\n]+\?)\n-+\n", path.read_text(encoding="utf-8"))
        pairs += zip(parts[1::2], parts[2::2], strict=True)
    passages: list[tuple[str, str]] = []
    asked: list[Asked] = []
    for question, body in pairs:
        text = re.sub(r"\n{3,}", "\n\n", body).strip()[:chars]
        if question.endswith("?") and len(text) > 80:
            passages.append(("", text))
            asked.append(Asked(question, len(passages) - 1, ((0, len(text)),)))
    return Source("faq", passages, asked)
