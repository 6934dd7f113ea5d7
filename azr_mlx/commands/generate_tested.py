"""``azr-mlx generate --tests``: tries one strategy after another until a program passes the user's
tests.

The tests are trusted and the program is not: what the tests expect never enters its process.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from azr_mlx.backends.base import Sampling
from azr_mlx.commands.generate import Generation
from azr_mlx.errors import UsageError, first_line
from azr_mlx.evaluation.benchmarks import SPECS, extract_code
from azr_mlx.evaluation.strategies import AUTO, STRATEGIES, ask
from azr_mlx.files import Unreadable, read_text
from azr_mlx.sandbox import Job, Limits, Sandbox
from azr_mlx.text import NOT_PYTHON
from azr_mlx.types import Status

LIMITS = Limits(wall_s=12.0, cpu_s=10.0, memory_mb=2048, output_kb=256)


class Completes(Protocol):
    """A model that answers, as ``generate.Generator`` does."""

    @property
    def has_template(self) -> bool: ...

    def complete(
        self,
        prompt: str,
        sampling: Sampling,
        *,
        raw: bool = False,
        system: str = "",
        on_text: Callable[[str], None] = ...,
    ) -> Generation: ...


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how: ``raw`` text is continued, without the chat template."""

    text: str
    sampling: Sampling
    raw: bool = False
    system: str = ""


@dataclass(frozen=True, slots=True)
class Assertions:
    """A file of assertions: its text, ready to run, and the function that it is about ("" if it
    does not say)."""

    text: str
    name: str


@dataclass(frozen=True, slots=True)
class Try:
    """One strategy's answer, the program in it, and what the tests say of it."""

    strategy: str
    code: str
    status: Status
    detail: str
    generation: Generation

    @property
    def passed(self) -> bool:
        return self.status is Status.PASS

    def line(self) -> str:
        why = f": {self.detail}" if self.detail and not self.passed else ""
        return f"{self.strategy}: {self.status.value}{why}"

    def to_json(self) -> dict[str, Any]:
        verdict = {"strategy": self.strategy, "status": self.status.value, "detail": self.detail}
        return {**verdict, "code": self.code, **asdict(self.generation)}


def read_tests(path: Path) -> Assertions:
    """A Python file of assertions; functions named ``test_...`` without parameters are called.

    Raises:
        UsageError: it cannot be read, is not Python, or asserts nothing, so that any program would
        pass.
    """
    try:
        text = read_text(path)
        tree = ast.parse(text)
    except (OSError, Unreadable) as e:
        raise UsageError(f"--tests {path}: cannot be read: {first_line(e)}") from e
    except NOT_PYTHON as e:
        why = str(e) or "nested too deeply"
        raise UsageError(f"--tests {path}: not Python ({why}); write assertions in it") from e
    tests = [n for n in tree.body if isinstance(n, _FUNCTIONS) and n.name.startswith("test_")]
    for test in tests:
        if isinstance(test, ast.AsyncFunctionDef) or _parameters(test):
            why = "has parameters" if _parameters(test) else "is async"
            raise UsageError(
                f"--tests {path}: {test.name} {why}, and could not be called; write tests that "
                "only need to be called, or assertions outside of functions"
            )
    called = [test.name for test in tests]
    checks = any(isinstance(n, (ast.Assert, ast.Raise)) for test in tests for n in ast.walk(test))
    if not (called and checks) and not any(map(_asserts_at_once, tree.body)):
        raise UsageError(
            f"--tests {path}: asserts nothing, so that any program would pass; write, for example, "
            "assert add(1, 2) == 3"
        )
    return Assertions(text + "\n" + "".join(f"{name}()\n" for name in called), _tested(tree))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """The parameters that a call must give a value."""
    given, named = node.args, zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    positional = [*given.posonlyargs, *given.args]
    needed = positional[: len(positional) - len(given.defaults)]
    return [*needed, *(one for one, default in named if default is None)]


def _asserts_at_once(statement: ast.stmt) -> bool:
    """Whether running the statement runs an assertion, for all that can be seen."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    return any(isinstance(n, ast.Assert) for n in ast.walk(statement))


def _tested(tree: ast.Module) -> str:
    """The first function that an assertion calls and that neither the file nor Python has."""
    own = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    own |= {alias.asname or alias.name for n in imports for alias in n.names}
    for statement in (n for n in ast.walk(tree) if isinstance(n, ast.Assert)):
        for node in ast.walk(statement.test):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                name = node.func.id
                if name not in own and not hasattr(builtins, name):
                    return name
    return ""


def strategies_for(model: Completes, strategy: str, *, raw: bool) -> Sequence[str]:
    """What is tried, in turn. A text that is continued takes no instructions: only ``direct``.

    Raises:
        UsageError: one that is an instruction is asked for by its name, and none can be given.
    """
    if strategy not in (AUTO, *STRATEGIES):
        raise UsageError(f"--strategy {strategy}: take {', '.join(STRATEGIES)} or {AUTO}")
    if model.has_template and not raw:
        return STRATEGIES if strategy == AUTO else (strategy,)
    if strategy in (AUTO, "direct"):
        return ("direct",)
    raise UsageError(
        f"--strategy {strategy}: a strategy is an instruction to a chat model; leave --raw out, or "
        "choose a model with a chat template"
    )


def answer(
    model: Completes,
    question: Question,
    strategy: str,
    on_text: Callable[[str], None] = lambda text: None,
) -> Generation:
    """The model's answer, asked by one strategy."""
    return model.complete(
        ask(question.text, strategy),
        question.sampling,
        raw=question.raw,
        system=question.system,
        on_text=on_text,
    )


def solve(
    model: Completes,
    question: Question,
    tests: Assertions,
    strategies: Sequence[str] = STRATEGIES,
    *,
    on_sandbox: Callable[[Sandbox], None] = lambda sandbox: None,
    on_try: Callable[[Try], None] = lambda one: None,
) -> list[Try]:
    """Try the strategies in turn until a program passes the tests; the last try is the answer."""
    tries: list[Try] = []
    continued = question.raw or not model.has_template
    with Sandbox(workers=1) as sandbox:
        on_sandbox(sandbox)
        for strategy in strategies:
            done = answer(model, question, strategy)
            code = (
                _continued(question.text, done.text)
                if continued
                else extract_code(done.text, tests.name)
            )
            [result] = sandbox.run([Job(strategy, code, tests=tests.text, limits=LIMITS)])
            tries.append(Try(strategy, code, result.status, result.detail, done))
            on_try(tries[-1])
            if tries[-1].passed:
                break
    return tries


def _continued(prompt: str, text: str) -> str:
    """The prompt and what belongs to it: up to where HumanEval ends a function (arXiv 2107.03374,
    section 2.1)."""
    cuts = [at for stop in SPECS["humaneval"].stop if (at := text.find(stop)) >= 0]
    return prompt + text[: min(cuts, default=len(text))]
