"""How a benchmark's problems are put to a model, and how its answers are read and judged.

By the benchmark's own prompts (``base`` and ``chat``), or as self-play asks (``training``): then
the figure says what training changed, and not how well the model knows another form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from azr_mlx.backends.base import Backend, Tokenizer
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.benchmarks import Benchmark, Grade, Problem, ProblemCheck, Spec
from azr_mlx.evaluation.protocol import Settings
from azr_mlx.sandbox import Job, Limits, Result
from azr_mlx.selfplay.answering import Judged
from azr_mlx.tasks import chat
from azr_mlx.tasks.parse import parse_answer
from azr_mlx.tasks.prompts import PromptForm, load_form, render
from azr_mlx.tasks.verdicts import GRADING, TaskCheck
from azr_mlx.types import Prompt, Status, Task

DEFAULT_FORM = "few_shot"  # what ``training`` asks by if no form is given


class Asking(Protocol):
    """A way of asking."""

    def problems(self, benchmark: Benchmark) -> Sequence[Problem]:
        """Those problems that can be asked in this way."""
        ...

    def prompt(self, problem: Problem, strategy: str) -> Prompt: ...

    def read(self, problem: Problem, text: str) -> Any:
        """The answer in a completion, as the problem's check judges it."""
        ...

    def kept(self, problem: Problem, judged: Judged) -> str:
        """What is written to the samples file of an answer."""
        ...

    def check(self, problem: Problem) -> ProblemCheck: ...

    def described(self) -> dict[str, Any]:
        """Those fields of the protocol that the way of asking decides."""
        ...


def asking_for(
    settings: Settings, benchmark: Benchmark, backend: Backend, model: str = ""
) -> Asking:
    """The way that the settings name.

    Raises:
        UsageError: the model has no chat template and needs one, or does not think and should, the
            benchmark's problems are not tasks of self-play, or the form or the strategy does not
            exist.
        TemplateError: the model's template fails.
    """
    if settings.protocol == "training":
        form = _form(settings, benchmark, backend)
        _check_chat(form.style, f"form {form.name}", settings, backend)
        return TrainingAsking(form, backend.tokenizer, settings.thinking)
    if settings.form:
        raise UsageError(
            f"--form {settings.form}: a form is what self-play asks by; add --protocol training"
        )
    style = _base_or_chat(settings, backend, model)
    _check_chat(style, "the base protocol", settings, backend)
    return BenchmarkAsking(benchmark.spec, style, backend.tokenizer, settings.thinking)


def _check_chat(style: str, name: str, settings: Settings, backend: Backend) -> None:
    """Raise UsageError if the model is to think and cannot, in this style or at all, TemplateError
    if its template fails. ``name`` is what is said of another style than chat."""
    if style == "chat":
        if settings.thinking:
            chat.check_thinking(backend.tokenizer, "--thinking", "leave --thinking out")
        chat.try_template(backend.tokenizer)
    elif settings.thinking:
        raise UsageError(
            f"--thinking: {name} continues a text, without a thought before it; "
            "--protocol chat with a chat model, or leave --thinking out"
        )


def _base_or_chat(settings: Settings, backend: Backend, model: str) -> str:
    has_template = chat.has_template(backend.tokenizer)
    asked = settings.protocol
    if asked == "chat" and not has_template:
        raise UsageError(
            f"--protocol chat: {model or 'the model'} has no chat template; --protocol base"
        )
    form = asked if asked != "auto" else "chat" if has_template else "base"
    if form == "base" and settings.strategy != "direct":
        raise UsageError(
            f"--strategy {settings.strategy}: a strategy is an instruction, and the base protocol "
            "gives none; --protocol chat with a chat model, or --strategy direct"
        )
    return form


def _form(settings: Settings, benchmark: Benchmark, backend: Backend) -> PromptForm:
    kinds = {problem.task.kind for problem in benchmark.problems if problem.task is not None}
    if not kinds:
        raise UsageError(
            f"--protocol training: the problems of {benchmark.spec.name} are not tasks of "
            "self-play; take cruxeval-i or cruxeval-o, or another protocol"
        )
    try:
        form = load_form(settings.form or DEFAULT_FORM)
    except ValueError as e:
        raise UsageError(f"--form {settings.form}: {e}") from e
    if not form.suits(backend.tokenizer):
        raise UsageError(
            f"--form {form.name}: this model has no chat template; --form {DEFAULT_FORM}"
        )
    known = set.intersection(*(set(form.strategies(kind)) for kind in kinds))
    if settings.strategy not in known:
        raise UsageError(
            f"--strategy {settings.strategy}: form {form.name!r} has none such; it has "
            f"{', '.join(sorted(known))}"
        )
    return form


@dataclass(frozen=True, slots=True)
class BenchmarkAsking:
    """By the benchmark's own prompt: ``form`` is base or chat."""

    spec: Spec
    form: str
    tokenizer: Tokenizer
    thinking: bool = False

    def problems(self, benchmark: Benchmark) -> Sequence[Problem]:
        return benchmark.problems

    def prompt(self, problem: Problem, strategy: str) -> Prompt:
        return benchmarks.prompt(
            problem, self.spec, self.form, self.tokenizer, strategy, thinking=self.thinking
        )

    def read(self, problem: Problem, text: str) -> str:
        text = benchmarks.completion(problem, self.spec, self.form, text)
        return problem.program_with(text)

    def kept(self, problem: Problem, judged: Judged) -> str:
        return problem.completion_in(judged.answer)

    def check(self, problem: Problem) -> ProblemCheck:
        return problem.check

    def described(self) -> dict[str, Any]:
        spec, in_chat = self.spec, self.form == "chat"
        return {
            "prompt": f"chat: {spec.asked}, thinking {_switch(self.thinking)}"
            if in_chat
            else f"base: {spec.form}",
            "shots": spec.shots,
            "extraction": spec.reads if in_chat else "up to the first stop string",
            "stop": () if in_chat else spec.stop,
            "limits": asdict(spec.limits),
        }


@dataclass(frozen=True, slots=True)
class TrainingAsking:
    """As self-play asks: the prompt, the reading of answers and the judge are the solver's."""

    form: PromptForm
    tokenizer: Tokenizer
    thinking: bool = False

    def problems(self, benchmark: Benchmark) -> Sequence[Problem]:
        return [problem for problem in benchmark.problems if problem.task is not None]

    def prompt(self, problem: Problem, strategy: str) -> Prompt:
        output = self.form.solve(_task(problem), strategy)
        return render(output, self.tokenizer, thinking=self.thinking)

    def read(self, problem: Problem, text: str) -> str | None:
        task = _task(problem)
        return parse_answer(text, task.kind, self.form, task.program, task.inputs)

    def kept(self, problem: Problem, judged: Judged) -> str:
        return judged.completion.text

    def check(self, problem: Problem) -> ProblemCheck:
        return SolverCheck(TaskCheck(_task(problem)))

    def described(self) -> dict[str, Any]:
        thinking = f", thinking {_switch(self.thinking)}" if self.form.style == "chat" else ""
        return {
            "prompt": f"training: form {self.form.name}, sha256 {self.form.sha256[:12]}{thinking}",
            "shots": None,
            "extraction": f"as the solver's answers are read, by version {GRADING} of its rules",
            "stop": (),
            "limits": asdict(Limits()),
        }


@dataclass(frozen=True, slots=True)
class SolverCheck:
    """The solver's judge, with the verdict as a benchmark's."""

    judge: TaskCheck

    def jobs(self, answer: str | None) -> list[Job]:
        return self.judge.jobs(answer)

    def grade(self, answer: str | None, results: Sequence[Result]) -> Grade:
        verdict = self.judge.grade(answer, results)
        return Grade(verdict.status, float(verdict.status is Status.PASS), verdict.detail)

    def content(self) -> Any:
        return self.judge.task.to_json()


def _switch(thinking: bool) -> str:
    return "on" if thinking else "off"


def _task(problem: Problem) -> Task:
    if problem.task is None:
        raise ValueError(f"{problem.id} is not a task of self-play")
    return problem.task
