"""Runs tests in a process of their own, which never runs the code that they test.

There are two processes. This one has the tests and the job's socket, the other one has the code.
The tests use the code only through messages (``peer``). The code sees only the arguments that it is
called with. It does not see the tests, or what its values are compared with, or the socket to which
the verdict goes. Standard library only.
"""

from __future__ import annotations

import builtins
import marshal
import os
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple, NoReturn

from child import CODE, TESTS, Channel, Finish, bare_namespace, reseed  # type: ignore[import-not-found]
from peer import Gone, Peer, answers, is_remote  # type: ignore[import-not-found]

_HEAP_TYPE = 1 << 9  # the flag of classes that a class statement or ``type`` made
_MAX_LINE = 200
# Builtins that tests use to compare values, or to go through the values that they compare.
_JUDGING = frozenset(
    """
    abs all any bool callable dict enumerate filter float frozenset getattr hasattr int isinstance
    issubclass iter len list map next print range repr set sorted str tuple type vars zip
    """.split()  # noqa: SIM905
)


class Code(NamedTuple):
    """The process of the code: our end of the socket to it, and its process id."""

    fd: int
    pid: int


# --- the tests' process ---


def run(
    channel: Channel, spec: dict[str, Any], confine: Callable[[Any], None], code: Code
) -> NoReturn:
    """Call ``confine(spec)``, run code and tests, write the job's frame, exit. Never returns."""
    finish = Finish(channel, None)
    peer: Peer = Peer(code.fd, lambda *asked: _for_the_code(peer, *asked), trusts=False)
    _hand_over(code.fd, {**spec, "tests": ""})
    confine(spec)
    reseed(spec["tests"])
    try:
        _examine(spec["tests"], peer, finish)
    except Gone:
        os.close(code.fd)  # after a malformed message, the code still waits for an answer
        _, status, usage = os.wait4(code.pid, 0)
        scale = 1024 if sys.platform == "linux" else 1
        cpu_s = usage.ru_utime + usage.ru_stime
        end = os.waitstatus_to_exitcode(status), cpu_s, usage.ru_maxrss * scale
        finish.send("ended", "", end)
    os._exit(0)


def _hand_over(fd: int, spec: dict[str, Any]) -> None:
    data = marshal.dumps(spec)
    data = len(data).to_bytes(4, "little") + data
    while data:
        data = data[os.write(fd, data) :]


def _examine(tests: str, peer: Peer, finish: Finish) -> None:
    namespace = bare_namespace()
    try:
        program = compile(tests, TESTS, "exec", dont_inherit=True)
        namespace.update(_names_of_the_code(program, peer))
    except Gone:
        raise
    except BaseException as error:  # the code may raise SystemExit
        finish.raised(error, "error")
        return
    raised = _raised(program, namespace)
    if peer.gone:  # the tests may have caught Gone and continued
        raise Gone
    if raised is None:
        finish.send("pass")
    elif isinstance(raised, AssertionError):
        finish.raised(raised if str(raised) else AssertionError(_line(raised, tests)), "fail")
    else:
        finish.raised(raised, "error")


def _raised(program: CodeType, namespace: dict[str, Any]) -> BaseException | None:
    try:
        exec(program, namespace)
    except BaseException as error:
        return error
    return None


def _line(error: BaseException, tests: str) -> str:
    """The text of the line in the tests that raised ``error``."""
    number, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TESTS:
            number = trace.tb_lineno
        trace = trace.tb_next
    return tests.split("\n")[number - 1].strip()[:_MAX_LINE] if number else ""


def _names_of_the_code(program: CodeType, peer: Peer) -> dict[str, Any]:
    """The names that the tests use and the code defines, with their values. A name of a builtin or
    of a library module keeps its usual meaning, unless the tests could call nothing else of the
    code: a tested function may be called ``sum`` or ``bisect``. Names in _JUDGING, such as ``all``,
    always keep their meaning.
    """
    used = _names(program)
    answer = peer.ask("names", sorted(used))
    if type(answer) is not dict:
        raise TypeError("the code's names are not a dict")
    # The code may answer with other names.
    found = {name: answer[name] for name in used if name in answer}
    own = {name: value for name, value in found.items() if not _has_a_meaning(name, value)}
    tested = found.keys() - own.keys() - _JUDGING
    if any(map(callable, own.values())) or len(tested) != 1:
        return own
    [name] = tested
    return {**own, name: found[name]}


def _has_a_meaning(name: str, value: Any) -> bool:
    """Whether tests that use the name may mean a builtin or a library module, not the ``value``
    that the code gives it.
    """
    return hasattr(builtins, name) or (name in sys.stdlib_module_names and is_remote(value))


def _names(program: CodeType) -> set[str]:
    used = {name for name in program.co_names if not name.startswith("__")}
    for constant in program.co_consts:
        if isinstance(constant, CodeType):
            used |= _names(constant)
    return used


def _for_the_code(peer: Peer, name: str, operands: list[Any]) -> Any:
    """Answer what the code asks of objects that the tests gave it. It may call them or take their
    next item. Instances of the tests' own classes also allow everything else, except attributes
    that begin with an underscore. More would lead to the tests themselves, for example through a
    function's ``__globals__``.
    """
    target, *rest = operands
    if not peer.has_shown(target):
        raise TypeError("not an object of the tests")
    if name == "call" and callable(target):
        return target(*rest[0], **rest[1]), []
    kind = type(target)
    ours = kind.__module__ == "builtins" and kind.__flags__ & _HEAP_TYPE
    named = not name.endswith("attr") or (type(rest[0]) is str and not rest[0].startswith("_"))
    if name in ("iter", "next") or (ours and named):
        return _ANSWERS[name](target, *rest)
    raise TypeError("an object of the tests cannot be used like that")


_ANSWERS = answers()


# --- the code's process ---


def serve(fd: int, confine: Callable[[Any], None]) -> NoReturn:
    """Read the spec, call ``confine(spec)``, run the code, and answer what the tests ask until they
    are over. Never returns.
    """
    channel = Channel(fd, b"")
    spec = marshal.loads(channel.read(int.from_bytes(channel.read(4), "little")))
    confine(spec)
    finish = Finish(channel, None)
    reseed(spec["code"])
    namespace = bare_namespace()

    def answer(name: str, operands: list[Any]) -> Any:
        try:
            if name != "names":
                return _ANSWERS[name](*operands)
            exec(compile(spec["code"], CODE, "exec", dont_inherit=True), namespace)
            return {name: namespace[name] for name in operands[0] if name in namespace}
        finally:
            finish.flush()

    try:
        Peer(fd, answer, trusts=True).listen()
    finally:
        os._exit(0)
