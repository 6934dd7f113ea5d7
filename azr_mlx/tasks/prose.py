r"""What models write around an answer: labels, sentences, emphasis, backticks, LaTeX.

``layers`` takes it off, one thing after another, until whoever reads knows what is left. Nothing is
taken off that could belong to the answer itself: a literal is not to be looked into.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

Take = Callable[[str], str | None]  # what is left of a text; None if there is nothing to take off

_UNSEEN = "\ufeff\u200b"  # a mark of the byte order, a blank without width
_MOST = 8  # layers that are taken off, and boxes that are looked into
MOST_WORDS = 2000  # characters of the longest sentence that is read
_MARK = r"(?:#+[ \t]+|[-*+>][ \t]+|\d+[.)][ \t]+)?(?:step[ \t]+\d+[.:)][ \t]*)?[*_]*"
_ADVERBS = (
    r"(?:(?:sure|certainly|okay)[!,.][ \t]+)?"
    r"(?:(?:and|so|then|thus|hence|therefore|finally|in conclusion)\b,?[ \t]+)*"
)
_WHICH = (
    r"(?:(?:the|a|an|one|final|exact|correct|corrected|actual|expected|possible|return|returned"
    r"|example|sample|test|new|valid)[ \t]+)*"
)
_OF = r"(?:[ \t]+(?:of|for|from|to)\b(?:`[^`\n]{0,200}`|[^\n:`]){0,100}?)?"
_IS = r"(?:is|are|was|(?:will|would|can|could|should)[ \t]+be|equals|becomes)"
NOUN = (  # what may stand between a verb and a value
    r"\b(?:[ \t]+(?:the|a|an))?"
    r"(?:[ \t]+(?:string|integer|number|float|boolean|list|tuple|set|dict|dictionary|value))?"
    r":?[ \t]*"
)
_REMARK = re.compile(  # what may stand after a value
    r"(?:[ \t]*\((?![^()]*\b(?:or|not|if|maybe|perhaps|wrong|incorrect)\b)[^()]*[a-z]{2}[^()]*\)"
    r"|(?:[ \t]*,)?[ \t]+(?:because|since|as)\b.*)\.?\Z",
    re.I | re.S,
)
_NO = re.compile(
    r"\b(?:not|never|wrong|incorrect|fails?|no[ \t]+longer|initially|originally|at[ \t]+first)\b"
    r"|n't\b",
    re.I,
)
_AGAIN = re.compile(r"\b(?:wait|actually|correction|mistake|wrong|incorrect)\b", re.I)
_EMPHASIS = re.compile(r"(?P<mark>\*\*|__|\*)(?P<inner>(?:(?!(?P=mark)).)+)(?P=mark)\.?", re.S)
_TICKS = re.compile(r"(?P<mark>`+)(?P<inner>[^`]+)(?P=mark)\.?")
_MATHS = re.compile(
    r"(?:\$\$(?P<a>[^$]+)\$\$|\$(?P<b>[^$]+)\$|\\\((?P<c>.+)\\\)|\\\[(?P<d>.+)\\\])\.?", re.S
)
_TAGS = re.compile(r"<(?:output|input|result)>(?P<inner>[^<]+)</(?:output|input|result)>", re.I)
_TEXT = re.compile(r"\\(?:text|texttt|textbf|mathrm|mathtt)\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed[ \t]*\{")


def layers(text: str, takes: Sequence[Take]) -> Iterator[str]:
    """The text, and what is left each time that the first of ``takes`` that can has taken something
    off."""
    text = text.strip().strip(_UNSEEN)
    for _ in range(_MOST):
        yield text
        left = (inner.strip() for take in takes if (inner := take(text)) is not None)
        inner = next((one for one in left if len(one) < len(text)), "")
        if not inner:
            return
        text = inner


def label(words: str) -> re.Pattern[str]:
    """What matches a label such as ``**Final answer:**`` at the beginning of a text, or a heading
    in a line of its own. ``words`` are the nouns for it, as alternatives."""
    words = rf"{_WHICH}(?:{words})"
    marked = rf"{_MARK}{_ADVERBS}{words}(?:[ \t]+(?:\d+|is|are))?{_OF}[*_]*[ \t]?:[*_]*[ \t]*"
    heading = rf"(?:#+[ \t]+[*_]*{words}[*_]*|[*_]+{words}[*_]+)[ \t]*(?=\n|\Z)"
    return re.compile(f"(?:{marked}|{heading})", re.I)


def sentence(words: str) -> re.Pattern[str]:
    """What matches ``So the answer is`` at the beginning of a text."""
    return re.compile(
        rf"{_MARK}{_ADVERBS}{_WHICH}(?:{words})(?:[ \t]+call)?{_OF}[ \t]+{_IS}{NOUN}", re.I
    )


def after(pattern: re.Pattern[str]) -> Take:
    """Takes off what the pattern matches at the beginning, unless that says no."""

    def take(text: str) -> str | None:
        found = pattern.match(text[:MOST_WORDS])
        return None if found is None or denies(found[0]) else text[found.end() :]

    return take


def denies(words: str) -> bool:
    """Whether words say that something is not so."""
    return _NO.search(words) is not None


def takes_back(words: str) -> bool:
    """Whether words after an answer put it in doubt."""
    return _AGAIN.search(words) is not None


def paragraphs(text: str, labels: re.Pattern[str]) -> list[str]:
    """The parts of a text between blank lines. What follows a label is put into its line."""
    lines = list[str]()
    for line in text.strip().split("\n"):
        if not lines or labels.fullmatch(lines[-1][:MOST_WORDS]) is None:
            lines.append(line.rstrip())
        elif line.strip():
            lines[-1] += (" " if ":" in lines[-1] else ": ") + line.strip()
    return [part for part in re.split(r"\n\n+", "\n".join(lines)) if part.strip()]


def attempts(parts: Sequence[str]) -> Iterator[str]:
    """Where an answer without blocks may be: the last paragraph, and the last line of that, unless
    it is an item of a list."""
    if parts:
        yield parts[-1]
        line = parts[-1].strip().rpartition("\n")[2]
        if not re.match(r"[-+*][ \t]", line):
            yield line


def labelled(text: str, labels: re.Pattern[str]) -> list[tuple[int, str]]:
    """(number, text) of the lines that have a label."""
    lines = enumerate(text.split("\n"))
    return [(i, line) for i, line in lines if labels.match(line[:MOST_WORDS])]


def boxed(text: str) -> str | None:
    r"""What ``\boxed{...}`` holds, without the backslashes of LaTeX; None if there is none, or if
    there are several that differ."""
    boxes = islice(_BOXED.finditer(text), _MOST)
    held = {inside for found in boxes if (inside := _braced(text[found.end() :]))}
    if len(held) != 1:
        return None
    return re.sub(r"\\([{}_%#&$])", r"\1", _TEXT.sub(r"\1", held.pop()))


def _braced(text: str) -> str:
    """The text up to the brace that closes it; empty if there is none."""
    depth = 0
    for found in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth < 0:
            return text[: found.start()]
    return ""


def _inner(pattern: re.Pattern[str]) -> Take:
    def take(text: str) -> str | None:
        found = pattern.fullmatch(text)
        return None if found is None else next(g for g in found.groups()[::-1] if g is not None)

    return take


def remark(text: str) -> str | None:
    """Without a remark in brackets or a reason at its end."""
    found = _REMARK.search(text) if len(text) <= MOST_WORDS else None
    return None if found is None else text[: found.start()]


def stop(text: str) -> str | None:
    """Without the full stop or the exclamation mark at its end."""
    return text[:-1] if text.endswith((".", "!")) else None


# What is taken off for every kind of answer.
QUOTES: tuple[Take, ...] = (
    boxed,
    _inner(_EMPHASIS),
    _inner(_TICKS),
    _inner(_MATHS),
    _inner(_TAGS),
)
