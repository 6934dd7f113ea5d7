"""Runs a suite of tests as its author means it, and notes whether it asserted anything.

Test cases of unittest, functions named ``test...``, test classes and ``check(candidate)`` that the
suite only defines are run, too. A suite that reaches no assertion proves nothing: it is invalid.
Standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

# What marked code calls: before whatever checks something, and in functions that may be tests.
REACHED, CALLED = "_azr_reached", "_azr_called"


class Nothing(Exception):
    """The suite has asserted nothing."""


class Suite:
    """A suite, compiled so that it says what it reaches (``marks``)."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.asserted = False
        self.called: set[str] = set()  # functions, and methods as ``Class.name``
        self.failures: list[tuple[str, str]] = []  # what kind, and the text
        self._cases: set[type] = set()  # the test cases that have run

    def run(self, namespace: dict[str, Any], candidate: Callable[[], Any]) -> None:
        """Run all of it. ``candidate`` gives the one function that the code defines, or None.
        Raises what the tests raise, AssertionError for a failed test case, and Nothing.
        """
        namespace |= {REACHED: self._reached, CALLED: self.called.add}
        self._watch_unittest()
        ended = self._run_text(namespace)
        if not ended:
            self._run_defined(namespace, candidate)
        for kind, text in self.failures:
            raise AssertionError(text) if kind == "fail" else RuntimeError(text)
        if not self.asserted:
            raise Nothing("the tests assert nothing")

    def _run_text(self, namespace: dict[str, Any]) -> bool:
        """Returns whether the suite itself ended the program, without an error."""
        try:
            exec(self.code, namespace)
        except SystemExit as end:
            if getattr(end, "of_the_code", False) or (end.code and not self.failures):
                raise
            return True
        return False

    def _reached(self) -> None:
        self.asserted = True

    def _run_defined(self, namespace: dict[str, Any], candidate: Callable[[], Any]) -> None:
        members = dict(namespace)
        _call_if_there(members, "setup_module")
        for name, member in list(members.items()):
            if _is_case(member) and member not in self._cases:
                _run_case(member)
            elif isinstance(member, FunctionType) and name.startswith("test"):
                self._run_function(name, member, members)
            elif isinstance(member, type) and name.startswith("Test") and not _is_case(member):
                self._run_class(name, member)
        check = members.get("check")
        if isinstance(check, FunctionType) and "check" not in self.called:
            function = candidate()
            if function is not None and check.__code__.co_argcount == 1:
                check(function)
        _call_if_there(members, "teardown_module")

    def _run_function(self, name: str, function: Any, members: dict[str, Any]) -> None:
        if name not in self.called and _takes_nothing(function):
            _call_if_there(members, "setup_function")
            _finish(function())
            _call_if_there(members, "teardown_function")

    def _run_class(self, name: str, kind: type) -> None:
        """A class of tests, as pytest has them."""
        for method in [m for m in dir(kind) if m.startswith("test")]:
            if f"{name}.{method}" in self.called or not callable(getattr(kind, method)):
                continue
            one = kind()
            _call_if_there(one, "setup_method")
            _finish(getattr(one, method)())
            _call_if_there(one, "teardown_method")

    # --- unittest ---

    def _watch_unittest(self) -> None:
        """Note what test cases assert, and which fail: ``main(exit=False)`` tells nobody."""
        if "unittest" not in names_in(self.code) and "unittest" not in sys.modules:
            return
        import unittest
        import unittest.mock

        for kind in (unittest.TestCase, unittest.mock.NonCallableMock):
            for name in [n for n in dir(kind) if n.startswith(("assert", "fail"))]:
                method = getattr(kind, name)
                if callable(method) and not isinstance(method, type):
                    setattr(kind, name, self._noting(method))
        run = unittest.TestCase.run

        def watched(case: Any, result: Any = None) -> Any:
            self._cases.add(type(case))
            result = unittest.TestResult() if result is None else result
            before = len(result.failures), len(result.errors)
            run(case, result)
            self.failures += [("fail", _last(text)) for _, text in result.failures[before[0] :]]
            self.failures += [("error", _last(text)) for _, text in result.errors[before[1] :]]
            return result

        setattr(unittest.TestCase, "run", watched)  # noqa: B010 - mypy takes it for a function

    def _noting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **named: Any) -> Any:
            self.asserted = True
            return method(*args, **named)

        return noting


def _last(trace: str) -> str:
    return trace.strip().rpartition("\n")[2]


def _is_case(member: Any) -> bool:
    unittest = sys.modules.get("unittest")
    return (
        unittest is not None and isinstance(member, type) and issubclass(member, unittest.TestCase)
    )


def _run_case(kind: Any) -> None:
    import unittest

    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(unittest.TestResult())


def _call_if_there(members: Any, name: str) -> None:
    found = members.get(name) if isinstance(members, dict) else getattr(members, name, None)
    if callable(found) and _takes_nothing(found):
        found()


def _takes_nothing(function: Any) -> bool:
    """Whether a function or method of the tests needs no arguments."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        return False
    given = len(function.__defaults__ or ()) + hasattr(function, "__self__")
    named = len(function.__kwdefaults__ or {})
    return code.co_argcount <= given and code.co_kwonlyargcount <= named


def _finish(value: Any) -> None:
    """Run what an ``async def`` gives."""
    if hasattr(value, "__await__"):
        import asyncio

        async def wait() -> None:
            await value

        asyncio.run(wait())


def names_in(code: CodeType) -> Iterator[str]:
    """The names that a program uses, also within its functions, but for those of this module."""
    yield from (n for n in code.co_names if not n.startswith("__") and n not in (REACHED, CALLED))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)
