"""Prompt forms: how a request to propose or to solve is put to a model. The forms are data, in
``config/prompts/``.

A form is a YAML file with, per role, kind and (for solvers) strategy, a recipe: a fixed ``intro``,
fixed worked examples (``shots``), a template for one example or reference (``shot``), a template
for the request (``ask``), and the strings that end a completion (``stop``). Two styles:
``completion`` (a Python file that the model goes on with) and ``chat`` (a system and a user
message).

Where a prompt ends matters more than what it says: a completion prompt must end where a token of
its natural continuation begins (``def f`` before ``(x):``, ``==`` before `` 3``), never on white
space or an open bracket, which tokenizers merge with what follows. ``render`` refuses white space
at the end.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any, Protocol

import yaml

from azr_mlx.config import AUTO, Config, schema
from azr_mlx.config.shipped import config_dir
from azr_mlx.errors import WRONG_VALUES, UsageError
from azr_mlx.files import read_text
from azr_mlx.tasks import chat
from azr_mlx.text import NOT_PYTHON
from azr_mlx.types import Prompt, Role, Task, TaskKind

STYLES = ("completion", "chat")
WRITTEN = (TaskKind.DEDUCTION, TaskKind.ABDUCTION)  # of which a proposal is a whole program


class PromptTokenizer(Protocol):
    """What rendering needs of a tokenizer."""

    chat_template: Any

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts that one kind of prompt is put together from."""

    ask: str
    extend: str = ""
    shot: str = ""
    pair: str = ""
    intro: str = ""
    stop: tuple[str, ...] = ()
    shots: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class FormOutput:
    """A prompt before it meets a tokenizer; ``prefix`` counts the characters of ``text`` that are
    fixed.
    """

    form: str
    style: str
    text: str
    system: str = ""
    strategy: str = ""
    stop: tuple[str, ...] = ()
    prefix: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation, for the chat style."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.text}]


@dataclass(frozen=True, slots=True)
class PromptForm:
    """A prompt form; ``load_form`` reads one."""

    name: str
    style: str
    bands: tuple[tuple[float, str], ...]
    recipes: Mapping[tuple[Role, TaskKind, str], Recipe]
    system: str = ""

    @property
    def sha256(self) -> str:
        """The hash of all that the form says: a shipped form may change under its name."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def strategies(self, kind: TaskKind) -> tuple[str, ...]:
        """The solving strategies that the form has for a kind."""
        return tuple(s for role, k, s in self.recipes if role is Role.SOLVE and k is kind)

    def suits(self, tokenizer: PromptTokenizer) -> bool:
        """Whether the tokenizer has what the form needs: a chat template for the chat style."""
        return self.style != "chat" or chat.has_template(tokenizer)

    def hint(self, difficulty: float) -> str:
        """The words for a difficulty: those of the first band that reaches up to it."""
        return next((text for upto, text in self.bands if difficulty <= upto), self.bands[-1][1])

    def propose(
        self,
        kind: TaskKind,
        references: Sequence[Task],
        difficulty: float,
        *,
        program: str = "",
        n_inputs: int = 10,
        beginning: str = "",
    ) -> FormOutput:
        """A request for a new task of about ``difficulty``, with references to differ from.

        Induction needs ``program``, for which the model writes ``n_inputs`` inputs and a message.
        With a ``beginning``, the new program is to go on from there.
        """
        if kind is TaskKind.INDUCTION and not program:
            raise ValueError("an induction proposal needs a program to write inputs for")
        recipe = self._recipe(Role.PROPOSE, kind, "")
        known = [_task_fields(task, recipe, n_inputs) for task in references]
        ask = {"program": program.rstrip("\n"), "n": str(n_inputs), "difficulty": difficulty}
        if beginning:
            recipe = replace(recipe, ask=recipe.extend)
            ask["beginning"] = beginning
        return self._fill(recipe, known, ask, "", n_inputs)

    def solve(self, task: Task, strategy: str = "direct") -> FormOutput:
        """A request for the missing part of a task. Hidden pairs do not enter the prompt."""
        recipe = self._recipe(Role.SOLVE, task.kind, strategy)
        return self._fill(recipe, [], _task_fields(task, recipe, len(task.inputs)), strategy, 99)

    def right_answer(self, task: Task, strategy: str = "direct") -> str:
        """What follows the request for a solution if the model writes the task's own answer as the
        form's examples do, up to where the next example would begin. A form without examples asks
        directly for an output by what stands before it: the answer is a space and the output.

        Raises ValueError if the examples do not go on from the request, as in the chat style, whose
        answers have no fixed words.
        """
        recipe = self._recipe(Role.SOLVE, task.kind, strategy)
        fields = _task_fields(task, recipe, len(task.inputs))
        asked, whole = (self._text(text, fields) for text in (recipe.ask, recipe.shot))
        if not recipe.shot and task.kind is TaskKind.DEDUCTION and strategy == "direct":
            whole = f"{asked} {task.outputs[0]}"
        if self.style == "chat" or not whole.startswith(asked):
            raise ValueError(
                f"prompt form {self.name!r}: what a right answer to strategy {strategy!r} looks "
                "like is not fixed"
            )
        return whole.removeprefix(asked) + "\n\n"

    def extends(self, kind: TaskKind) -> bool:
        """Whether a program can be asked for that goes on from the beginning of another."""
        return bool(self._recipe(Role.PROPOSE, kind, "").extend)

    def _recipe(self, role: Role, kind: TaskKind, strategy: str) -> Recipe:
        found = self.recipes.get((role, kind, strategy))
        if found is None:
            known = ", ".join(self.strategies(kind)) or "none"
            raise ValueError(
                f"prompt form {self.name!r}: no strategy {strategy!r} for {kind.value}; "
                f"it has {known}"
            )
        return found

    def _fill(
        self,
        recipe: Recipe,
        references: Sequence[Mapping[str, Any]],
        ask: Mapping[str, Any],
        strategy: str,
        n_pairs: int,
    ) -> FormOutput:
        fixed = [recipe.intro.strip("\n")] if recipe.intro else []
        fixed += [self._text(recipe.shot, _shot_fields(s, recipe, n_pairs)) for s in recipe.shots]
        shown = [self._text(recipe.shot, fields) for fields in references]
        text = "\n\n".join([*fixed, *shown, self._text(recipe.ask, ask)])
        prefix = len("\n\n".join(fixed).rstrip())
        return FormOutput(self.name, self.style, text, self.system, strategy, recipe.stop, prefix)

    def _text(self, template: str, fields: Mapping[str, Any]) -> str:
        difficulty = float(fields.get("difficulty", 0.5))
        level = {"level": min(max(round(difficulty * 10), 1), 9), "hint": self.hint(difficulty)}
        return Template(template.strip("\n")).substitute({**fields, **level})


def _task_fields(task: Task, recipe: Recipe, n_pairs: int) -> dict[str, Any]:
    """A task's fields for a template; ``pairs`` are the pairs that may be seen."""
    visible = [i for i in range(len(task.inputs)) if i not in task.hidden][:n_pairs]
    args = [arguments(text) for text in task.inputs]
    pairs = [_pair(recipe, args[i], task.outputs[i]) for i in visible]
    return {
        "program": task.program.rstrip("\n"),
        "args": args[0],
        "output": task.outputs[0],
        "message": task.message,
        "pairs": "\n".join(pairs),
        "difficulty": task.difficulty,
        "work": "",
        "n": str(len(visible)),
    }


def _shot_fields(shot: Mapping[str, Any], recipe: Recipe, n_pairs: int) -> dict[str, Any]:
    """A form's own worked example: ``pairs`` is a list of [arguments, output]."""
    pairs = [_pair(recipe, args, output) for args, output in shot.get("pairs", ())]
    program = str(shot.get("program", "")).rstrip("\n")
    shown = pairs[:n_pairs]
    return {**shot, "program": program, "pairs": "\n".join(shown), "n": str(len(shown))}


def _pair(recipe: Recipe, args: str, output: str) -> str:
    return Template(recipe.pair).substitute(args=args, output=output)


def arguments(inputs: str) -> str:
    """``1, 2`` of the literal tuple ``(1, 2)``: what stands between the parentheses of the call."""
    try:
        node = ast.parse(inputs.strip(), mode="eval").body
    except NOT_PYTHON:
        return inputs
    return ", ".join(map(ast.unparse, node.elts)) if isinstance(node, ast.Tuple) else inputs


def render(output: FormOutput, tokenizer: PromptTokenizer, *, thinking: bool = False) -> Prompt:
    """The prompt in tokens. In a chat, the model is to think before it answers, if ``thinking``.

    Raises ValueError if a chat form meets a tokenizer without a chat template, or with one that
    fails, or a completion prompt ends on white space.
    """
    if output.style == "chat":
        return _render_chat(output, tokenizer, thinking)
    if output.text != output.text.rstrip():
        raise ValueError(
            f"prompt form {output.form!r}: a completion prompt ends on white space, "
            "where no token begins; end its `ask` on a word or a sign"
        )
    ids = tuple(tokenizer.encode(output.text))
    return Prompt(output.text, ids, output.form, output.strategy, output.stop, output.prefix)


def _render_chat(output: FormOutput, tokenizer: PromptTokenizer, thinking: bool) -> Prompt:
    if not chat.has_template(tokenizer):
        raise ValueError(
            f"prompt form {output.form!r}: the model's tokenizer has no chat template; take the "
            "form few_shot"
        )
    text = chat.written(tokenizer, output.messages, thinking=thinking)
    fixed = output.text[: output.prefix]
    start = text.find(fixed) if fixed else -1
    prefix = start + len(fixed) if start >= 0 else 0
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))  # the template has written them
    return Prompt(text, ids, output.form, output.strategy, output.stop, prefix, chat=True)


def load_form(name_or_path: str | Path) -> PromptForm:
    """A shipped form by its name, or one from a ``.yaml`` file. Raises ValueError with one line."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_dir() / "prompts" / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (config_dir() / "prompts").glob("*.yaml")))
        raise ValueError(
            f"rollout.form = {str(name_or_path)!r}: no such prompt form; "
            f"there are {known}, or give the path of a .yaml file"
        )
    try:
        text = read_text(path)
        schema.compose(text)
        form = _form(yaml.safe_load(text))
        _try(form)
        return form
    except (OSError, yaml.YAMLError, *WRONG_VALUES) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"prompt form {path}: {type(error).__name__}: {line}") from None


def _try(form: PromptForm) -> None:
    """Ask by each of the form's recipes. Raises KeyError or ValueError if one has a field that does
    not exist."""
    program, inputs = "def f(a):\n    return a\n", ("(1,)", "(2,)", "(3,)", "(4,)")
    for role, kind, strategy in form.recipes:
        task = Task("", kind, program, inputs, ("1", "2", "3", "4"), "as it is")
        if role is Role.SOLVE:
            form.solve(task, strategy)
            continue
        beginnings = ("", "def f(a):") if form.extends(kind) else ("",)
        for beginning in beginnings:
            form.propose(kind, [task], 0.5, program=program, beginning=beginning)


def named_form(name: str) -> PromptForm:
    """The form that ``rollout.form`` names; ``auto``, which a run settles before it starts, is the
    form chat. Raises UsageError if there is no such form."""
    try:
        return load_form("chat" if name == AUTO else name)
    except ValueError as e:
        raise UsageError(str(e)) from e


def chosen_form(form: PromptForm | str | None, config: Config) -> PromptForm:
    """A form that is given, or named, or else the configuration's. Raises UsageError if there is no
    such form, or if it has no place for a thought and the configuration wants one."""
    if not isinstance(form, PromptForm):
        form = named_form(config.rollout.form if form is None else form)
    if config.rollout.thinks and form.style != "chat":
        raise UsageError(
            f"rollout.thinking: on: form {form.name} continues a text, without a thought before "
            "it; give rollout.thinking=off, or a chat form"
        )
    return form


def form_for_training(config: Config, tokenizer: PromptTokenizer) -> PromptForm:
    """The form that a run asks by. Raises UsageError if this model, or one of the run's strategies,
    cannot be asked by it, TemplateError if the model's chat template fails."""
    form = chosen_form(None, config)
    if not form.suits(tokenizer):
        raise UsageError(
            f"rollout.form: {form.name}: this model has no chat template; give "
            "rollout.form=few_shot solver.strategies=[direct]"
        )
    if config.rollout.thinks:
        chat.check_thinking(tokenizer, "rollout.thinking: on", "give rollout.thinking=off")
    if form.style == "chat":
        chat.try_template(tokenizer)
    if config.proposer.extended and not all(map(form.extends, WRITTEN)):
        raise UsageError(
            f"proposer.extended: {config.proposer.extended}: prompt form {form.name!r} has no "
            "`extend` to ask with for deduction and abduction; add it, or give proposer.extended=0"
        )
    for kind in map(TaskKind, config.task_types):
        lacking = [s for s in config.solver.strategies if s not in form.strategies(kind)]
        if lacking:
            raise UsageError(
                f"solver.strategies: {', '.join(lacking)}: prompt form {form.name!r} has none such "
                f"for {kind.value}; it has {', '.join(form.strategies(kind))}"
            )
    return form


def _form(row: Mapping[str, Any]) -> PromptForm:
    if row["style"] not in STYLES:
        raise ValueError(f"style = {row['style']!r}: must be one of {', '.join(STYLES)}")
    recipes: dict[tuple[Role, TaskKind, str], Recipe] = {}
    for kind in TaskKind:
        recipes[Role.PROPOSE, kind, ""] = _recipe(row["propose"][kind.value])
        shared = {k: v for k, v in row["solve"][kind.value].items() if k != "strategies"}
        for strategy, own in row["solve"][kind.value]["strategies"].items():
            recipes[Role.SOLVE, kind, strategy] = _recipe({**shared, **own})
    bands = tuple((float(band["upto"]), str(band["hint"])) for band in row["bands"])
    return PromptForm(row["name"], row["style"], bands, recipes, row.get("system", "").strip())


def _recipe(row: Mapping[str, Any]) -> Recipe:
    """One recipe; ``work`` of the strategy at hand is a list, one line of work per shot."""
    unknown = set(row) - {"ask", "extend", "shot", "pair", "intro", "stop", "shots", "work"}
    if unknown:
        raise ValueError(f"unknown keys in a recipe: {', '.join(sorted(unknown))}")
    shots, work = row.get("shots", []), row.get("work", [])
    if work and len(work) != len(shots):
        raise ValueError(f"{len(work)} lines of work for {len(shots)} shots")
    joined = tuple({**shot, "work": work[i] if work else ""} for i, shot in enumerate(shots))
    return Recipe(
        ask=row["ask"],
        extend=row.get("extend", ""),
        shot=row.get("shot", ""),
        pair=row.get("pair", ""),
        intro=row.get("intro", ""),
        stop=tuple(row.get("stop", ())),
        shots=joined,
    )
