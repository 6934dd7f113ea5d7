"""Prompt forms: what reaches the prompt, what must not, and where a prompt ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.config.shipped import config_dir
from azr_mlx.tasks.parse import parse_answer, parse_proposal
from azr_mlx.tasks.prompts import FormOutput, PromptForm, arguments, load_form, render
from azr_mlx.types import Role, Task, TaskKind

pytestmark = pytest.mark.pure

STRATEGIES = ("direct", "step_by_step", "test_driven", "chain_of_thought")
FORMS = ("few_shot", "chat")


class Characters:
    """A tokenizer of one token per character, with a chat template."""

    chat_template: Any = "<{role}>{content}"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        assert options.items() >= {"tokenize": False, "add_generation_prompt": True}.items()
        return "".join(f"<{m['role']}>{m['content']}" for m in conversation) + "<assistant>"


def _task(kind: TaskKind, difficulty: float = 0.3, k: int = 3) -> Task:
    many = kind is TaskKind.INDUCTION
    inputs = tuple(f"({i}, 'w{i}')" for i in range(100, 110 if many else 101))
    outputs = tuple(f"'o{i}'" for i in range(100, 110 if many else 101))
    hidden = tuple(range(5, 10)) if many else ()
    program = f"def f(n, s):\n    return 'o' + str(n * {k})\n"
    return Task.create(
        kind, program, inputs, outputs, message="tells", hidden=hidden, difficulty=difficulty
    )


def _propose(form: PromptForm, kind: TaskKind, difficulty: float = 0.3) -> FormOutput:
    references = [] if kind is TaskKind.INDUCTION else [_task(kind, k=1), _task(kind, k=2)]
    program = _task(kind).program if kind is TaskKind.INDUCTION else ""
    return form.propose(kind, references, difficulty, program=program, n_inputs=6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TaskKind.DEDUCTION, " 'o100'\n\n"),
        (TaskKind.ABDUCTION, "(100, 'w100') == 'o100'\n\n"),
        (TaskKind.INDUCTION, "(n, s):\n    return 'o' + str(n * 3)\n\n"),
    ],
)
def test_a_right_answer_is_written_as_the_examples_are(kind: TaskKind, expected: str) -> None:
    form, task = load_form("few_shot"), _task(kind)
    assert form.right_answer(task) == expected
    assert parse_answer(expected, kind, form, task.program) is not None


def test_a_form_without_examples_fixes_the_answers_to_direct_deduction_alone() -> None:
    form = load_form("compact")
    assert form.right_answer(_task(TaskKind.DEDUCTION)) == " 'o100'\n\n"
    for kind, strategy in ((TaskKind.DEDUCTION, "step_by_step"), (TaskKind.ABDUCTION, "direct")):
        with pytest.raises(ValueError, match=r"'compact': what a right answer .* is not fixed"):
            form.right_answer(_task(kind), strategy)


def test_a_right_answer_of_the_chat_form_has_no_fixed_words() -> None:
    with pytest.raises(ValueError, match=r"'chat': what a right answer .* is not fixed"):
        load_form("chat").right_answer(_task(TaskKind.DEDUCTION))


@pytest.mark.parametrize("name", FORMS)
def test_every_kind_and_strategy_is_there(name: str) -> None:
    form = load_form(name)
    for kind in TaskKind:
        assert form.strategies(kind) == STRATEGIES
        texts = {form.solve(_task(kind), strategy).text for strategy in STRATEGIES}
        assert len(texts) == 4, "a strategy that does not change the prompt is none"
        assert "$" not in "".join(texts) + _propose(form, kind).text


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", list(TaskKind))
def test_difficulty_reaches_the_prompt(name: str, kind: TaskKind) -> None:
    form = load_form(name)
    texts = [_propose(form, kind, 0.1 * d).text for d in range(1, 10)]
    assert len(set(texts)) == 9
    assert len({form.hint(0.1 * d) for d in range(1, 10)}) >= 4
    assert form.hint(0.1) in texts[0] and form.hint(0.9) in texts[8]


@pytest.mark.parametrize("name", FORMS)
def test_prompts_tell_the_solver_what_it_may_know(name: str) -> None:
    form = load_form(name)
    for strategy in STRATEGIES:
        task = _task(TaskKind.DEDUCTION)
        text = form.solve(task, strategy).text
        assert task.program.strip() in text and "100, 'w100'" in text and "o100" not in text
        text = form.solve(_task(TaskKind.ABDUCTION), strategy).text
        assert task.program.strip() in text and "'o100'" in text and "w100" not in text
        text = form.solve(_task(TaskKind.INDUCTION), strategy).text
        assert task.program.strip() not in text and "tells" in text
        assert all((f"w{i}" in text) is (i < 105) for i in range(100, 110)), "hidden pairs"
        assert all((f"'o{i}'" in text) is (i < 105) for i in range(100, 110))


@pytest.mark.parametrize("name", FORMS)
def test_references_and_the_program_are_shown(name: str) -> None:
    form = load_form(name)
    for kind in (TaskKind.DEDUCTION, TaskKind.ABDUCTION):
        text = _propose(form, kind).text
        assert "n * 1" in text and "n * 2" in text and "100, 'w100'" in text
    text = _propose(form, TaskKind.INDUCTION).text
    assert "n * 3" in text and "6" in text
    with pytest.raises(ValueError, match="needs a program"):
        form.propose(TaskKind.INDUCTION, [], 0.5)


def test_completion_prompts_end_where_a_token_begins() -> None:
    form = load_form("few_shot")
    for kind in TaskKind:
        for output in [_propose(form, kind)] + [form.solve(_task(kind), s) for s in STRATEGIES]:
            assert output.text.endswith(("def f", "assert f", "==", ":"))
            assert output.text == output.text.rstrip()
            assert output.stop
    with pytest.raises(ValueError, match="ends on white space"):
        render(FormOutput("mine", "completion", "def f(x):\n"), Characters())


def test_the_prefix_is_what_all_prompts_of_a_kind_share() -> None:
    for name in FORMS:
        form, tokenizer = load_form(name), Characters()
        for kind in TaskKind:
            for strategy in STRATEGIES:
                one, two = (
                    render(form.solve(_task(kind, k=k), strategy), tokenizer) for k in (4, 5)
                )
                assert one.prefix == two.prefix > 20
                assert one.text[: one.prefix] == two.text[: one.prefix]
                assert one.token_ids[: one.prefix] == two.token_ids[: one.prefix]
            assert render(_propose(form, kind, 0.1), tokenizer).prefix > 20


def test_chat_goes_through_the_chat_template() -> None:
    prompt = render(load_form("chat").solve(_task(TaskKind.DEDUCTION)), Characters())
    assert prompt.text.startswith("<system>You are") and prompt.text.endswith("<assistant>")
    assert (prompt.form, prompt.strategy, prompt.stop) == ("chat", "direct", ("</answer>",))
    bare = Characters()
    bare.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template; take the form few_shot"):
        render(load_form("chat").solve(_task(TaskKind.DEDUCTION)), bare)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", list(TaskKind))
def test_worked_examples_are_right_and_are_read_back(kind: TaskKind, strategy: str) -> None:
    """What few_shot shows is what the parser reads, and every shown pair is true."""
    form = load_form("few_shot")
    recipe = form.recipes[Role.SOLVE, kind, strategy]
    assert len(recipe.shots) >= 2
    for shot in recipe.shots:
        scope: dict[str, Any] = {}
        exec(shot["program"], scope)
        pairs = shot.get("pairs") or [(shot["args"], shot["output"])]
        for args, output in pairs:
            assert repr(eval(f"f({args})", scope)) == output
    shots = load_form("few_shot").solve(_task(kind), strategy).text.split("\n\n")[:-1]
    for text, shot in zip(shots, recipe.shots, strict=True):
        opener = form._text(recipe.ask, {**_stripped(shot), "pairs": _lines(text, "# f(")})
        assert text.startswith(opener), "the request must look like the examples' beginning"
        answer = parse_answer(text[len(opener) :], kind, form)
        expected = {
            TaskKind.DEDUCTION: shot.get("output"),
            TaskKind.ABDUCTION: f"({shot.get('args')})",
            TaskKind.INDUCTION: shot["program"],
        }[kind]
        assert answer is not None and answer.replace(",)", ")") == expected


def _stripped(shot: Mapping[str, Any]) -> dict[str, Any]:
    return {**shot, "program": shot["program"].rstrip("\n")}


def _lines(text: str, start: str) -> str:
    return "\n".join(line for line in text.split("\n") if line.startswith(start))


@pytest.mark.parametrize("kind", list(TaskKind))
def test_proposal_examples_are_right_and_are_read_back(kind: TaskKind) -> None:
    form = load_form("few_shot")
    recipe = form.recipes[Role.PROPOSE, kind, ""]
    texts = _propose(form, kind).text.split("\n\n")[: len(recipe.shots)]
    for text, shot in zip(texts, recipe.shots, strict=True):
        scope: dict[str, Any] = {}
        exec(shot["program"], scope)
        for args, output in shot.get("pairs") or [(shot["args"], shot["output"])]:
            assert repr(eval(f"f({args})", scope)) == output
        opener = form._text(recipe.ask, {**_stripped(shot), "n": "6"})
        assert text.startswith(opener)
        proposal = parse_proposal(text[len(opener) :], kind, form, program=shot["program"])
        assert proposal is not None and proposal.program == shot["program"]
        assert len(proposal.inputs) == (6 if kind is TaskKind.INDUCTION else 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", list(TaskKind))
def test_worked_answers_of_chat_are_right_and_are_read_back(kind: TaskKind, strategy: str) -> None:
    form = load_form("chat")
    recipe = form.recipes[Role.SOLVE, kind, strategy]
    worked = form.solve(_task(kind), strategy).text.partition("Answer:\n")[2]
    for shot in recipe.shots:
        scope: dict[str, Any] = {}
        exec(shot["program"], scope)
        for args, output in shot.get("pairs") or [(shot["args"], shot["output"])]:
            assert repr(eval(f"f({args})", scope)) == output
        answer = parse_answer(worked.partition("\n\nNow this one")[0], kind, form)
        expected = {
            TaskKind.DEDUCTION: shot.get("output"),
            TaskKind.ABDUCTION: f"({shot.get('args')})",
            TaskKind.INDUCTION: shot["program"],
        }[kind]
        assert answer == expected
    assert len(recipe.shots) == 1


@pytest.mark.parametrize("kind", list(TaskKind))
def test_worked_proposals_of_chat_are_right_and_are_read_back(kind: TaskKind) -> None:
    form = load_form("chat")
    recipe = form.recipes[Role.PROPOSE, kind, ""]
    [shot] = recipe.shots
    scope: dict[str, Any] = {}
    exec(shot["program"], scope)
    for args, output in shot.get("pairs") or [(shot["args"], shot["output"])]:
        assert repr(eval(f"f({args})", scope)) == output
    text = _propose(form, kind).text
    many = kind is TaskKind.INDUCTION
    worked = text.partition("calls:\n")[2] if many else text[text.index("```python") :]
    worked = worked.partition("\n```\n\n")[0]
    proposal = parse_proposal(worked, kind, form, program=shot["program"])
    assert proposal is not None and proposal.program.endswith(shot["program"])
    assert len(proposal.inputs) == (6 if many else 1)
    assert proposal.message == shot.get("message", "")


def test_arguments() -> None:
    assert arguments("(1, 'a')") == "1, 'a'"
    assert arguments("([3],)") == "[3]"
    assert arguments("((1, 2),)") == "(1, 2)"


def test_what_is_wrong_with_a_form_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such prompt form; there are chat, compact, few_shot"):
        load_form("fewshot")
    bad = tmp_path / "mine.yaml"
    bad.write_text("name: mine\nstyle: haiku\n")
    with pytest.raises(ValueError, match="style = 'haiku'"):
        load_form(bad)
    bad.write_text("a: [")
    with pytest.raises(ValueError, match="ParserError"):
        load_form(bad)
    shipped = (config_dir() / "prompts" / "few_shot.yaml").read_text("utf-8")
    bad.write_text(shipped.replace("$output", "$outputt"))
    with pytest.raises(ValueError, match="KeyError: 'outputt'"):
        load_form(bad)
    with pytest.raises(ValueError, match="no strategy 'guess' for deduction; it has direct"):
        load_form("few_shot").solve(_task(TaskKind.DEDUCTION), "guess")
