"""Where completions end: stop strings count in an answer, and not in the thought before it. A
decoder that writes what a script says stands for the model."""

from __future__ import annotations

import re

import numpy as np
import pytest

from azr_mlx.backends.base import Sampling
from azr_mlx.backends.endings import Ending
from azr_mlx.backends.endings import Pieces as TextsOfTokens
from azr_mlx.backends.rollout import Decoder, RolloutEngine
from azr_mlx.tasks.thinking import MARKS
from azr_mlx.training.batch import collate
from azr_mlx.types import Completion, Experience, Prompt, Reward, Role, Status, TaskKind, Verdict

pytestmark = pytest.mark.pure

STOP = ("</answer>",)
DRAFT = "\nMaybe <answer>1</answer>? No, that <answer> was wrong.\n"
ANSWER = "\n\n<answer>2</answer>"
TOKENS = [mark for mark in MARKS if not mark.prose]


class Pieces:
    """A tokenizer of whole marks, or of characters; token 0 ends a text."""

    eos_token_ids = frozenset({0})

    def __init__(self, *marks: str) -> None:
        self.names = ["<eos>", *marks]
        self.split = re.compile("|".join([*map(re.escape, marks), "(?s:.)"]))

    def encode(self, text: str) -> list[int]:
        found = self.split.findall(text)
        self.names += sorted(set(found) - set(self.names))
        return [self.names.index(piece) for piece in found]

    def decode(self, ids) -> str:
        return "".join(self.names[i] for i in ids if i)


class Lines:
    """Places that count how many tokens their rows have drawn."""

    def __init__(self, count: int) -> None:
        self.drawn = np.zeros(count, int)

    def put(self, places, sources, reading) -> None:
        self.drawn[list(places)] = 0

    def keep(self, places) -> None:
        self.drawn = self.drawn[list(places)]

    def reserve(self, tokens) -> None: ...
    def release(self, places) -> None: ...
    def open_step(self) -> None: ...
    def close_step(self) -> None: ...


class Arrays:
    def of(self, values):
        return np.asarray(values)


class Script(Decoder):
    """Every row gets the same tokens."""

    depth, arrays = 0, Arrays()

    def __init__(self, tokens, lookahead: bool) -> None:
        self.tokens, self.lookahead = [*tokens, 0], lookahead

    def read(self, stage, before):
        return ()

    def places(self, count, longest, refilled):
        return Lines(count)

    def chosen(self, pending, queued, known):
        return np.where(pending, queued, known)

    def step(self, tokens, places, streams):
        at = np.minimum(places.drawn, len(self.tokens) - 1)
        places.drawn += 1
        return np.array([self.tokens[i] for i in at]), np.full(len(at), -0.5)


def written(
    text: str, prompt: str, *marks: str, limit=500, lookahead=False, chat=True, stop=STOP
) -> Completion:
    """What becomes of a text that the model would write."""
    tokenizer = Pieces(*marks)
    asked = Prompt(prompt, tuple(tokenizer.encode(prompt)), stop=stop, chat=chat)
    engine = RolloutEngine(Script(tokenizer.encode(text), lookahead), tokenizer, max_rows=2)
    first, *others = engine.run([asked] * 3, [Sampling(limit)] * 3, [1, 2, 3])
    assert all(one.token_ids == first.token_ids for one in others)
    return first


@pytest.mark.parametrize("whole", [True, False], ids=["tokens", "characters"])
@pytest.mark.parametrize("opens", [True, False], ids=["prompt", "model"])
@pytest.mark.parametrize("mark", TOKENS, ids=lambda mark: mark.start)
def test_a_thought_that_mentions_an_answer_goes_on(mark, opens, whole) -> None:
    prompt = f"<user>2?<assistant>{mark.start}" if opens else "<user>2?<assistant>"
    thought = ("" if opens else mark.start) + DRAFT + mark.end
    names = (mark.start, mark.end) if whole else ()
    done = written(thought + ANSWER + "and on", prompt, *names)
    assert (done.finish, done.thought, done.text) == ("stop", thought, "\n\n<answer>2")
    tokenizer = Pieces(*names)
    tokenizer.encode(prompt)
    assert len(done.token_ids) == len(tokenizer.encode(thought + ANSWER))


@pytest.mark.parametrize("opens", [True, False], ids=["prompt", "model"])
@pytest.mark.parametrize("ends", [True, False], ids=["end token", "limit"])
def test_a_thought_without_its_end_has_no_answer(opens, ends) -> None:
    prompt = "<assistant><think>\n" if opens else "<assistant>"
    text = ("" if opens else "<think>") + DRAFT
    done = written(text, prompt, limit=500 if ends else len(text))
    assert done.finish == ("stop" if ends else "length")
    assert (done.thought, done.text) == (text, "")


@pytest.mark.parametrize(
    ("piece", "rest"),
    [
        ("></", "answer>"),
        ("></answer>", ""),
        ("><", "answer>2</answer>"),
        (">\n<think", ">3</think>1</answer>"),
    ],
)
def test_a_token_may_end_a_thought_and_begin_what_follows(piece, rest) -> None:
    thought = f"<think>{DRAFT}</think>"
    text = thought.removesuffix(">") + piece + rest
    done = written(text + "and on", "<user>", piece)
    assert done.finish == "stop" and done.thought + done.text + "</answer>" == text
    assert done.thought.startswith(thought) and "</think>" not in done.text
    assert len(done.token_ids) == len(Pieces(piece).encode(text))


@pytest.mark.parametrize("lookahead", [False, True])
def test_an_answer_without_a_thought_ends_as_ever(lookahead) -> None:
    done = written("  <answer>3</answer> <answer>4</answer>", "<user>", lookahead=lookahead)
    assert (done.finish, done.thought, done.text) == ("stop", "", "  <answer>3")
    assert done.token_ids[-1] == written("<answer>3</answer>", "<user>").token_ids[-1]


def test_a_text_that_is_continued_has_no_thoughts() -> None:
    done = written("<think><answer>3</answer>", "<think>", chat=False)
    assert (done.finish, done.thought, done.text) == ("stop", "", "<think><answer>3")


CODE = "def f(n):\n    return n\n\nprint(f(1))"


@pytest.mark.parametrize("thought", ["", f"<think>{DRAFT}```\nf(2)\n```\n</think>"])
@pytest.mark.parametrize(
    "begins",
    [
        "```\n",
        "\n\n```\n",
        "Here is one:\n\n```\n",
        "Here is one:\n\n```python\n",
        "```\n```python\n",
        "~~~\n",
    ],
)
def test_a_fence_ends_a_completion_only_if_it_ends_a_block(begins, thought) -> None:
    ends = "~~~" if "~" in begins else "```"
    text = f"{thought}{begins}{CODE}\n{ends}\n"
    done = written(text + "and on", "<user>", "<think>", "</think>", stop=(f"\n{ends}\n", "</a>"))
    assert (done.finish, done.thought, done.text) == ("stop", thought, begins + CODE)


def test_in_a_text_that_is_continued_every_fence_counts() -> None:
    done = written(f"(n):\n    return n\n```\n{CODE}", "def f", chat=False, stop=("\n```",))
    assert (done.finish, done.text) == ("stop", "(n):\n    return n")


def test_the_tokens_of_a_thought_are_trained() -> None:
    done = written(f"<think>{DRAFT}</think>{ANSWER}", "<user>")
    one = Experience(
        Prompt("p", (5,)), done, Verdict(Status.PASS), Reward(1.0), Role.SOLVE,
        TaskKind.DEDUCTION, 0, 0,
    )  # fmt: skip
    assert Experience.from_json(one.to_json()) == one
    assert collate([one]).mask.sum() == len(done.token_ids)


@pytest.mark.parametrize("blanks", [0, 1, 2000])
def test_only_the_last_tokens_are_read_again(blanks) -> None:
    tokenizer, longest = Pieces(), []

    class Counts:
        def decode(self, ids):
            longest.append(len(ids))
            return tokenizer.decode(ids)

    text = " " * blanks + f"<think>{DRAFT * 20}</think>{ANSWER}"
    ids = tokenizer.encode(text)
    ending = Ending(Counts(), Prompt("<user>", (1,), stop=STOP, chat=True))
    reached = [ending.reached(ids[: n + 1]) for n in range(len(ids))]
    assert reached.index(True) == len(ids) - 1 and max(longest) < 40


class Bytes:
    """A tokenizer of two letters or bytes a token, which decodes what is no character to a mark,
    as byte-level ones do. With ``drops`` it loses a blank that begins a text, as SentencePiece."""

    clean_up_tokenization_spaces = False

    def __init__(self, pieces: list[bytes], drops: bool) -> None:
        self.pieces, self.drops, self.calls = pieces, drops, 0

    def decode(self, ids) -> str:
        self.calls += 1
        text = b"".join(self.pieces[i] for i in ids).decode(errors="replace")
        return text.removeprefix(" ") if self.drops else text


PIECES = [b"a", b"\n", b"\n\n", b"#", b" ", b" a", b"a#", b"", "é".encode()[:1], "é".encode()[1:]]
STOPS = [("\n\n#",), ("\na ", "a#a"), ("\n\n", " a a"), ("é#",), ("#",)]


@pytest.mark.parametrize("changes", [False, True], ids=["as it is", "changes blanks"])
@pytest.mark.parametrize("drops", [False, True], ids=["bytes", "drops a blank"])
@pytest.mark.parametrize("stop", STOPS)
def test_texts_of_single_tokens_hide_no_stop_string(stop, drops, changes) -> None:
    draw, tokenizer, found = np.random.default_rng(0), Bytes(PIECES, drops), set()
    tokenizer.clean_up_tokenization_spaces = changes
    pieces = TextsOfTokens(tokenizer)
    for _ in range(300):
        ids = draw.integers(len(PIECES), size=40).tolist()
        prompt = Prompt("<user>", (1,), stop=stop)
        ending, checked = Ending(tokenizer, prompt, pieces), Ending(tokenizer, prompt, pieces)
        checked._may_end = lambda: True  # decodes the last tokens every time
        for n in range(1, len(ids) + 1):
            reached = ending.reached(ids[:n])
            assert reached is checked.reached(ids[:n]), (ids[:n], stop)
            found.add(reached)
            if reached:
                break
    assert found == {True, False}


@pytest.mark.parametrize("chat", [False, True])
def test_rows_do_not_decode_the_same_tokens_again_and_again(chat) -> None:
    tokenizer = Bytes(PIECES, drops=False)
    pieces, ids = TextsOfTokens(tokenizer), [0, 1, 0, 3, 4, 5, 0, 6] * 20
    for _ in range(10):
        ending = Ending(tokenizer, Prompt("<user>", (1,), stop=("\n\n#",), chat=chat), pieces)
        assert not any(ending.reached(ids[: n + 1]) for n in range(len(ids)))
    assert tokenizer.calls < 50
