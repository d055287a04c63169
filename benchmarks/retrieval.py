"""Are the right passages found and quoted, and is "I don't know" said where nothing answers?

Corpus: the Debian policy and developer's reference in English, and Chinese man pages, of pinned
package versions (apt-get, dpkg and man are needed; kept in build/). Questions: written by hand
before anything was tuned, in retrieval_questions.jsonl. The weights and the threshold in
`murmurate.knowledge.quote` come from other questions, retrieval_calibration.jsonl (`--calibrate`).

    python benchmarks/retrieval.py [--quick] [--calibrate] [--show]
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
import streams
from msgspec.structs import replace
from service import running
from untraced import Untraced

from murmurate.adapters.library import LibraryClient
from murmurate.adapters.memory import MemoryLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import MissingPartError
from murmurate.core.types import Passage
from murmurate.knowledge.ports import Found
from murmurate.knowledge.quote import CONFIDENCE_MIN, features_of, quote
from murmurate.knowledge.rank import CANDIDATES, bm25_share, ranked
from murmurate.knowledge.service import Collections, Source

HERE = Path(__file__).parent
CACHE = HERE.parent / "build" / "retrieval"
PACKAGES = {
    "debian-policy": "4.6.2.0",
    "developers-reference": "12.18",
    "manpages-zh": "1.6.4.0-1",
}
MAN_PAGES = (  # noqa: SIM905
    "ascii.7 at.1 bzip2.1 chmod.1 chown.1 chroot.1 cp.1 cron.8 cut.1 date.1 dd.1 df.1 diff.1 du.1 "
    "env.1 fdisk.8 find.1 free.1 fsck.8 grep.1 group.5 gzip.1 head.1 hier.7 hostnamectl.1 "
    "ifconfig.8 inittab.5 iptables.8 journalctl.1 kill.1 last.1 ln.1 loginctl.1 ls.1 md5sum.1 "
    "mkfifo.1 mkfs.8 mkswap.8 mv.1 nice.1 nohup.1 ping.8 readlink.1 regex.7 rm.1 route.8 scp.1 "
    "services.5 shuf.1 shutdown.8 sleep.1 sort.1 split.1 ssh.1 stat.1 swapon.8 systemctl.1 tail.1 "
    "tar.1 tee.1 timedatectl.1 timeout.1 touch.1 umount.8 uniq.1 uptime.1 w.1 wc.1 xargs.1"
).split()
QUICK = ("policy/ch-binary.rst", "policy/ch-files.rst", "reference/l10n.rst", "zh/")
ROFF = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–"}
TENANT, COLLECTION = "default", "corpus"


@dataclass(frozen=True)
class Question:
    text: str
    gold: tuple[tuple[str, str], ...]

    @property
    def chinese(self) -> bool:
        return any("\u4e00" <= char <= "\u9fff" for char in self.text)


@dataclass(frozen=True)
class Outcome:
    question: Question
    found: bool
    """The right passage is among the first five."""
    said: bool
    """Something was quoted."""
    right: bool
    """What was quoted is the right place."""
    ms: float


def corpus() -> Path:
    """Return the folder of the documents; fetched and unpacked at the first call."""
    folder = CACHE / "corpus"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    for name, version in PACKAGES.items():
        subprocess.run(["apt-get", "download", "-q", f"{name}={version}"], cwd=CACHE, check=True)
        [archive] = CACHE.glob(f"{name}_*.deb")
        subprocess.run(["dpkg", "-x", archive, CACHE / "root"], check=True)
    for part, sources in {
        "policy": "usr/share/doc/debian-policy/policy.html/_sources",
        "reference": "usr/share/developers-reference/_sources",
    }.items():
        (folder / part).mkdir(parents=True)
        for source in (CACHE / "root" / sources).glob("*.rst.txt"):
            shutil.copy(source, folder / part / source.name.removesuffix(".txt"))
    (folder / "zh").mkdir()
    for page in MAN_PAGES:
        source = CACHE / f"root/usr/share/man/zh_CN/man{page[-1]}/{page}.gz"
        text = plain(gzip.decompress(source.read_bytes()).decode("utf-8"), page)
        (folder / "zh" / f"{page}.txt").write_text(text, encoding="utf-8")
    (folder / "complete").touch()
    return folder


def plain(roff: str, page: str) -> str:
    """Return a man page as text: headings at the margin, the rest indented, without its fonts."""
    name, section = page.upper().rsplit(".", 1)
    lines = [f"{name}({section})    {name}({section})", ""]
    for line in roff.splitlines():
        macro, _, rest = line.partition(" ")
        if line.startswith(('.\\"', "'\\\"", ".TH", ".de", ".ie", ".el", ".if", ".ds", ".nr")):
            continue
        if macro in {".SH", ".Sh"}:
            lines += ["", rest.strip('"'), ""]
        elif macro in {".SS", ".Ss"}:
            lines += ["", "   " + rest.strip('"')]
        elif macro in {".PP", ".P", ".LP", ".TP", ".IP", ".sp", ".br", ".Pp", ".It", "."}:
            lines += ["", "       " + rest.strip('"')] if rest else [""]
        elif not line.startswith((".", "'")):
            lines.append("       " + line)
        elif rest:
            lines.append("       " + rest.replace('"', ""))
    text = "\n".join(lines)
    text = re.sub(r"\\f(\(..|\[\w*\]|.)|\\s[-+]?\d|\\[&|^/,:]|\\c$", "", text)
    text = re.sub(r"\\\((\w\w|[^\s\w]\w)|\\\[(\w\w)\]", lambda m: ROFF.get(m[1] or m[2], ""), text)
    text = text.replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ").replace("\\'", "'")
    return re.sub(r"\n\s*\n(\s*\n)+", "\n\n", text)


def questions(name: str) -> list[Question]:
    lines = (HERE / f"retrieval_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    return [Question(q["question"], tuple((f, g) for f, g in q["gold"])) for q in read]


@asynccontextmanager
async def library(index: Path) -> AsyncGenerator[LibraryClient]:
    """Run a library worker, as a service does."""
    with tempfile.TemporaryDirectory() as sockets:
        socket = f"{sockets}/library.sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "murmurate.workers.library"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        client = LibraryClient(socket, clock=SystemClock())
        try:
            process.stdin.write(json.dumps({"socket": socket, "index": str(index)}).encode())
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            yield client
        finally:
            await client.close()
            process.terminate()
            process.wait(10)


async def ingest(collections: Collections) -> float:
    began = time.perf_counter()
    async with contextlib.aclosing(collections.sync(TENANT, COLLECTION)) as steps:
        async for _ in steps:
            pass
    return time.perf_counter() - began


async def search_under_ingest(client: LibraryClient, folder: Path) -> list[float]:
    """Return the milliseconds of searches, made ten times a second while documents come in."""
    collections = Collections(
        client,
        log=MemoryLog(clock=SystemClock()),
        clock=SystemClock(),
        tracer=Untraced(),
        sources={COLLECTION: Source(str(folder))},
    )
    times: list[float] = []
    syncing = asyncio.create_task(ingest(collections))
    while not syncing.done():
        began = time.perf_counter()
        await collections.search(TENANT, [COLLECTION], "How are log files named?", limit=5)
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.1)
    return times


def right(folder: Path, question: Question, path: str, span: tuple[int, int]) -> bool:
    """Say whether a span of a document holds at least half of a right answer."""
    start, end = span
    for gold_path, gold in question.gold:
        if gold_path != path:
            continue
        text = (folder / path).read_text(encoding="utf-8")
        pattern = r"\s+".join(re.escape(word) for word in gold.split())
        for match in re.finditer(pattern, text):
            shared = min(end, match.end()) - max(start, match.start())
            if shared * 2 >= match.end() - match.start():
                return True
    return False


def judged(folder: Path, question: Question, passages: Sequence[Passage], ms: float) -> Outcome:
    found = any(right(folder, question, p.path, (p.start, p.end)) for p in passages[:5])
    quoted = quote(question.text, passages[:5])
    citation = quoted.citation if quoted else None
    return Outcome(
        question,
        found=found,
        said=citation is not None,
        right=citation is not None
        and right(folder, question, citation.path, (citation.start, citation.end)),
        ms=ms,
    )


def share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 3) if hits else 0.0


def metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    asked = [o for o in outcomes if o.question.gold]
    nothing = [o for o in outcomes if not o.question.gold]
    chinese = [o for o in asked if o.question.chinese]
    return {
        "questions": len(outcomes),
        "answerable": len(asked),
        "hit5": share([o.found for o in asked]),
        "hit5_zh": share([o.found for o in chinese]),
        "answered": share([o.right for o in asked]),
        "answered_zh": share([o.right for o in chinese]),
        "wrong": share([o.said and not o.right for o in asked]),
        "unknown": share([not o.said for o in nothing]),
        "unknown_zh": share([not o.said for o in nothing if o.question.chinese]),
        "search_p50_ms": round(statistics.median(o.ms for o in outcomes), 1),
    }


OWN_QUESTIONS = (
    "What happens when the engine is killed?",
    "Where is the first key kept?",
    "When is an answer cached?",
    "How are sessions stored?",
    "Which process owns the listening socket?",
    "What does the library process hold?",
    "What does a turn of a session hold?",
    "How do I see what happened to a request?",
    "数据保存在哪里？",
    "什么是网关？",
)
"""Asked of the whole service over our own documents, where only the time of a repeat counts."""


def repeat_ratio() -> float:
    """Return the time of an exact repeat of a question over the first, through the served API."""
    ratios: list[float] = []
    with running("") as service_now:
        for text in OWN_QUESTIONS:
            body = {"model": "assistant", "messages": [{"role": "user", "content": text}]}
            first = streams.run(streams.ask(service_now.gateway, body))
            again = [streams.run(streams.ask(service_now.gateway, body)) for _ in range(5)]
            ratios.append(statistics.median(answer.total_s for answer in again) / first.total_s)
    return round(statistics.median(ratios), 4)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = corpus()
    asked = questions("calibration" if arguments.calibrate else "questions")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick:
            small = Path(scratch) / "corpus"
            for path in folder.rglob("*.*"):
                relative = path.relative_to(folder).as_posix()
                if relative.startswith(QUICK):
                    (small / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, small / relative)
            folder = small
            asked = [q for q in asked if all((small / f).exists() for f, _ in q.gold)]
        index = CACHE / "index" if arguments.keep else Path(scratch) / "index"
        async with library(index) as client:
            with contextlib.suppress(MissingPartError):
                await client.embed(["ready?"])  # so that building the model is not measured
            log = MemoryLog(clock=SystemClock())
            collections = Collections(
                client,
                log=log,
                clock=SystemClock(),
                tracer=Untraced(),
                sources={COLLECTION: Source(str(folder))},
            )
            seconds = await ingest(collections)
            state = await client.state(TENANT, COLLECTION, wait_s=0)
            outcomes: list[Outcome] = []
            founds: list[Found] = []
            for question in asked:
                began = time.perf_counter()
                passages = await collections.search(TENANT, [COLLECTION], question.text, limit=5)
                ms = (time.perf_counter() - began) * 1000
                outcomes.append(judged(folder, question, passages, ms))
                if arguments.calibrate:
                    founds.append(
                        await client.find(TENANT, [COLLECTION], question.text, limit=CANDIDATES)
                    )
            if arguments.calibrate:
                calibrate(folder, asked, founds)
            extra: dict[str, Any] = {}
            if not arguments.quick and not arguments.calibrate:
                under = await search_under_ingest(client, folder / "reference")
                extra["search_p50_ms_during_ingest"] = round(statistics.median(under), 1)
    if arguments.show:
        show_mistakes(outcomes)
    return {
        **metrics(outcomes),
        **extra,
        "chunks": state.chunks,
        "chunks_per_s": round(state.chunks / seconds, 1),
        "confidence_min": CONFIDENCE_MIN,
    }


def calibrate(folder: Path, asked: Sequence[Question], founds: Sequence[Found]) -> None:
    """Fit the weights, and the threshold for 0.9 unknown; print what `rank` and `quote` hold."""
    hits = [
        (found, [(hit, right(folder, q, hit.path, (hit.start, hit.end))) for hit in found.hits])
        for q, found in zip(asked, founds, strict=True)
    ]
    closer = [
        [
            ((bm25_share(hit, found.terms), hit.cosine, hit.late), is_right)
            for hit, is_right in pairs
            if hit.cosine is not None and hit.late is not None
        ]
        for found, pairs in hits
    ]
    print("rank: bm25 share, cosine, late:", softmax_regression(closer).round(2))
    for name, columns in {
        "vectors": ("cosine", "late", "together"),
        "words": ("together", "words"),
    }.items():
        rows: list[tuple[float, ...]] = []
        answers: list[bool] = []
        nothing: list[bool] = []
        for q, found in zip(asked, founds, strict=True):
            if name == "words":
                plain = [replace(hit, cosine=None, late=None) for hit in found.hits]
                found = replace(found, hits=tuple(hit for hit in plain if hit.bm25))  # noqa: PLW2901
            first = ranked(found, limit=1)
            if not first or (name == "vectors" and q.chinese):
                continue
            [hit] = [h for h in found.hits if (h.document, h.start) == key(first[0])]
            features = features_of(hit, found.terms)
            rows.append(tuple(getattr(features, column) or 0.0 for column in columns))
            answers.append(right(folder, q, hit.path, (hit.start, hit.end)))
            nothing.append(not q.gold)
        bias, slopes = logistic_regression(rows, answers)
        chances = 1 / (1 + np.exp(-(bias + np.array(rows) @ slopes)))
        threshold = np.quantile(chances[np.array(nothing)], 0.9)
        weights = dict(zip(columns, slopes.round(3).tolist(), strict=True))
        print(f"{name}: bias {bias:.2f}, {weights}, threshold {threshold:.2f}")


def key(passage: Passage) -> tuple[str, int]:
    return passage.document, passage.start


def softmax_regression(
    questions: Sequence[Sequence[tuple[tuple[float, ...], bool]]], steps: int = 300
) -> Any:
    """Return weights under which the right hits of a question share the most of its softmax."""
    kept = [rows for rows in questions if any(is_right for _, is_right in rows)]
    spread = np.concatenate([[values for values, _ in rows] for rows in kept]).std(0)
    weights = np.zeros(len(spread))
    momentum = weights.copy()
    for _ in range(steps):
        slope = 0.3 * weights / len(kept)
        for rows in kept:
            x = np.array([values for values, _ in rows]) / spread
            y = np.array([is_right for _, is_right in rows])
            chances = np.exp(x @ weights - (x @ weights).max())
            chances /= chances.sum()
            slope += x.T @ (chances - chances * y / (chances @ y)) / len(kept)
        momentum = 0.9 * momentum + slope
        weights = weights - 0.05 * momentum
    return weights / spread


def logistic_regression(rows: Sequence[tuple[float, ...]], answers: Sequence[bool]) -> Any:
    """Return bias and slopes (L2 = 2 on standardised features), by Newton's steps."""
    x: Any = np.array(rows)
    y: Any = np.array(answers, float)
    mean, spread = x.mean(0), x.std(0) + 1e-9
    design = np.c_[np.ones(len(x)), (x - mean) / spread]
    penalty = np.diag([0.0] + [2.0] * x.shape[1])
    w: Any = np.zeros(design.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ w))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + penalty
        w -= np.linalg.solve(hessian, design.T @ (p - y) + penalty @ w)
    slopes = w[1:] / spread
    return w[0] - (slopes * mean).sum(), slopes


def show_mistakes(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.question.gold and not outcome.right:
            verdict = "wrong" if outcome.said else "unknown"
            print(f"{verdict:8} {'found' if outcome.found else 'lost':6} {outcome.question.text}")
        if not outcome.question.gold and outcome.said:
            print(f"{'made up':8} {'':6} {outcome.question.text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of the corpus, in 45 s")
    parser.add_argument("--calibrate", action="store_true", help="fit the weights of quote.py")
    parser.add_argument("--show", action="store_true", help="name the questions that went wrong")
    parser.add_argument("--keep", action="store_true", help="use one index again and again")
    arguments = parser.parse_args()
    print(f"corpus: {', '.join(f'{name} {version}' for name, version in PACKAGES.items())}")
    result = asyncio.run(run(arguments))
    if arguments.calibrate:
        return
    result["repeat_ratio"] = repeat_ratio()
    report.table(("", "measured"), [[name, value] for name, value in result.items()])
    report.finish("retrieval", result, {}, quick=arguments.quick)


if __name__ == "__main__":
    main()
