"""Tables in Markdown, for cards and pages of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[object], rows: Iterable[Sequence[object]], words: int | None = None) -> str:
    """A table whose columns after the first `words` are numbers; without it, all are words."""
    words = len(head) if words is None else words
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    lines = [" | ".join(map(str, row)) for row in (head, rule, *rows)]
    return "\n".join(f"| {line} |" for line in lines)
