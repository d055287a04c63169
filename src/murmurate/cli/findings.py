"""What `murmurate doctor` has found: one line each, for people or as JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "warn", "fail", "skipped", "setting"]
OTHERS_VECTORS = "the index has another's vectors"
NOTHING_TO_DO = "nothing to do: all documents are embedded again at the next start"

MARKS = {"ok": "OK", "warn": "WARN", "fail": "FAIL", "skipped": "-"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do, `ms` how long the answer took."""

    about: str
    verdict: Verdict
    detail: str
    advice: str = ""
    ms: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def show(findings: list[Finding]) -> str:
    """Return the report as text."""
    checks = [finding for finding in findings if finding.verdict != "setting"]
    settings = [finding for finding in findings if finding.verdict == "setting"]
    wide = max(len(finding.about) for finding in checks)
    lines = [f"{MARKS[f.verdict]:<4}  {f.about:<{wide}}  {_words(f)}" for f in checks]
    if settings:
        wide = max(len(finding.about) for finding in settings)
        lines += ["", "settings"]
        lines += [f"  {f.about:<{wide}}  {f.detail}  ({f.advice})" for f in settings]
    return "\n".join(lines)


def _words(finding: Finding) -> str:
    took = "" if finding.ms is None else f", {finding.ms:.0f} ms"
    advice = f"  → {finding.advice}" if finding.advice else ""
    return f"{finding.detail}{took}{advice}"
