"""Runs tests in a process of their own, which never runs the code that they test.

There are two processes. This one has the tests and the job's socket, the other one has the code.
The tests use the code only through messages (``peer``). The code sees only the arguments that it is
called with. It does not see the tests, or what its values are compared with, or the socket to which
the verdict goes. Standard library only.
"""

from __future__ import annotations

import builtins
import io
import marshal
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple, NoReturn

from child import CODE, TESTS, Channel, Finish, bare_namespace, reseed  # type: ignore[import-not-found]
from peer import LOOKING, Gone, Peer, answers  # type: ignore[import-not-found]
from remote import is_remote  # type: ignore[import-not-found]
from suite import Nothing, Suite, names_in  # type: ignore[import-not-found]

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
    peer.on_text = _print
    _hand_over(code.fd, {**spec, "tests": "", "marked": b""})
    confine(spec)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the code could send it to its whole group
    reseed(spec["tests"])
    try:
        _examine(spec["tests"], spec["marked"], peer, finish)
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


def _examine(tests: str, marked: bytes, peer: Peer, finish: Finish) -> None:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main  # where unittest.main looks for tests
    namespace = main.__dict__
    try:
        plain = compile(tests, TESTS, "exec", dont_inherit=True) if not marked else None
        suite = Suite(plain or marshal.loads(marked))
        _look_over_there(peer, tests)
        if "random" in tests:
            _seed_there(peer)
        peer.before_asking = _Patches(peer, tests)
        namespace.update(_names_of_the_code(suite.code, peer))
    except Gone:
        raise
    except BaseException as error:  # the code may raise SystemExit
        finish.raised(error, "error")
        return
    raised = _raised(suite, namespace, peer)
    if peer.gone:  # the tests may have caught Gone and continued
        raise Gone
    if raised is None:
        finish.send("pass")
    elif isinstance(raised, Nothing):
        finish.send("invalid", str(raised))
    elif isinstance(raised, AssertionError):
        finish.raised(raised if str(raised) else AssertionError(_line(raised, tests)), "fail")
    else:
        finish.raised(raised, "error")


def _raised(suite: Suite, namespace: dict[str, Any], peer: Peer) -> BaseException | None:
    try:
        suite.run(namespace, lambda: peer.ask("candidate"))
    except BaseException as error:
        return error if peer.failure is None else AssertionError(*peer.failure.args)
    return None if peer.failure is None else AssertionError(*peer.failure.args)


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
    used = set(names_in(program))
    answer = peer.ask("names", sorted(used))
    if type(answer) is not dict:
        raise TypeError("the code's names are not a dict")
    # The code may answer with other names.
    found = {name: answer[name] for name in used if name in answer}
    # Only names in the form of a class's: a function may have been made one to get at operands.
    peer.note_names(
        value for name, value in found.items() if name[:1].isupper() and "_" not in name
    )
    own = {name: value for name, value in found.items() if not _has_a_meaning(name, value)}
    tested = found.keys() - own.keys() - _JUDGING
    if any(map(callable, own.values())) or len(tested) != 1 or _defines(program, "check"):
        return own
    [name] = tested
    return {**own, name: found[name]}


def _defines(program: CodeType, name: str) -> bool:
    """Whether a program defines a function of this name."""
    return any(isinstance(c, CodeType) and c.co_name == name for c in program.co_consts)


def _has_a_meaning(name: str, value: Any) -> bool:
    """Whether tests that use the name may mean a builtin or a library module, not the ``value``
    that the code gives it.
    """
    return hasattr(builtins, name) or (name in sys.stdlib_module_names and is_remote(value))


def _print(stream: str, text: bytes) -> None:
    """Print what the code has printed, to wherever the tests have directed it."""
    target = sys.stderr if stream == "stderr" else sys.stdout
    target.write(text.decode("utf-8", "surrogateescape"))


def _look_over_there(peer: Peer, tests: str) -> None:
    """Let functions that look into an object ask the process in which it lives."""
    for module, names in LOOKING.items():
        if module in tests:
            for name in names:
                _ask_there(peer, __import__(module), name)


def _seed_there(peer: Peer) -> None:
    """Let ``random.seed`` of the tests hold for the code, too."""
    import random

    seed = random.seed

    def both(*args: Any, **named: Any) -> None:
        seed(*args, **named)
        peer.ask("library", "random", "seed", list(args), named)

    random.seed = both


def _ask_there(peer: Peer, module: Any, name: str) -> None:
    function = getattr(module, name)

    def asking(*args: Any, **named: Any) -> Any:
        if args and is_remote(args[0]):
            return peer.ask("library", module.__name__, name, list(args), named)
        return function(*args, **named)

    setattr(module, name, asking)


class _Patches:
    """Makes what the tests replace in modules (``mock.patch``) hold in the code's process, too.
    Called before each call of the code."""

    def __init__(self, peer: Peer, tests: str) -> None:
        self.peer = peer
        self.names = _modules_in(tests) if _REPLACES.search(tests) else set()
        self.seen: dict[str, dict[str, Any]] = {}
        self.originals: dict[tuple[str, str], Any] = {}
        self()

    def __call__(self) -> None:
        for name in self.names & sys.modules.keys():
            now = vars(sys.modules[name])
            first = name not in self.seen
            before = self.seen.setdefault(name, dict(now))
            changed = [] if first else [k for k, v in now.items() if before.get(k, self) is not v]
            for key in changed:
                self._hand_over(name, key, now[key])

    def _hand_over(self, name: str, key: str, value: Any) -> None:
        if (name, key) in _JOINED:
            return
        if (name, key) in self.originals and value is self.originals[name, key]:
            self.peer.ask("restore", sys.modules[name], key)
        else:
            self.originals.setdefault((name, key), self.seen[name].get(key))
            self.peer.ask("setattr", sys.modules[name], key, value)
        self.seen[name][key] = value


# What the code uses of this process anyway.
_JOINED = {("builtins", "input"), ("sys", "stdin"), ("sys", "stdout"), ("sys", "stderr")}
_REPLACES = re.compile(r"\bpatch|\bsetattr\(|^\s*\w+(\.\w+)+\s*=[^=]", re.M)


def _modules_in(tests: str) -> set[str]:
    """The modules of the standard library that a text names."""
    return set(re.findall(r"\b[a-z_]+\b", tests)) & sys.stdlib_module_names


def _for_the_code(peer: Peer, name: str, operands: list[Any]) -> Any:
    """Answer what the code asks of objects that the tests gave it. It may call them or take their
    next item. Instances of the tests' own classes, and mocks, also allow everything else, except
    attributes that begin with an underscore. More would lead to the tests themselves, for example
    through a function's ``__globals__``.
    """
    if name == "input":
        return builtins.input(*map(str, operands))
    if name == "stdin":
        return _read_stdin(*operands)
    target, *rest = operands
    kind = type(target)
    if not peer.has_shown(target) or (kind is type and target.__module__ != "__main__"):
        raise TypeError("not an object of the tests")
    if name == "call" and callable(target):
        return target(*rest[0], **rest[1]), []
    ours = kind.__module__ in ("__main__", "unittest.mock") and kind.__flags__ & _HEAP_TYPE
    named = name in _PLAIN_ASKS or (name.endswith("attr") and _may_see(target, rest[0]))
    if name == "getattr" and not (ours and named):
        raise AttributeError(rest[0])
    if name == "await" and type(target) is type(_NOTHING_TO_AWAIT):
        return _run_now(target)
    if name in ("iter", "next") or (ours and named):
        return _ANSWERS[name](target, *rest)
    raise TypeError("an object of the tests cannot be used like that")


_ANSWERS = answers()
_PLAIN_ASKS = _ANSWERS.keys() - {
    *("getattr", "setattr", "delattr", "invoke", "library", "restore", "subclass", "copy"),
}


def _may_see(target: Any, name: Any) -> bool:
    """Whether the code may use this attribute of an object of the tests'. It may not change what a
    mock has noted.
    """
    if type(name) is not str or name.startswith("_"):
        return False
    mock = sys.modules.get("unittest.mock")
    if mock is None or not isinstance(target, mock.NonCallableMock):
        return True
    return not hasattr(mock.Mock, name) and name not in _NOTED


_NOTED = frozenset({"mock_calls", "method_calls", "call_args", "call_args_list", "call_count",
                    "called", "return_value", "side_effect"})  # fmt: skip


def _read_stdin(how: Any, size: Any) -> str:
    if how not in ("read", "readline") or type(size) is not int:
        raise TypeError("not a way to read")
    return str(getattr(sys.stdin, how)(size))


async def _nothing() -> None:
    """A coroutine, to know its class by."""


_NOTHING_TO_AWAIT = _nothing()
_NOTHING_TO_AWAIT.close()


def _run_now(coroutine: Any) -> Any:
    """Run a coroutine of the tests to its end. A loop may be running, so it gets no other."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value


# --- the code's process ---


def serve(fd: int, confine: Callable[[Any], None]) -> NoReturn:
    """Read the spec, call ``confine(spec)``, run the code, and answer what the tests ask until they
    are over. Never returns.
    """
    channel = Channel(fd, b"")
    spec = marshal.loads(channel.read(int.from_bytes(channel.read(4), "little")))
    confine(spec)
    reseed(spec["code"])
    namespace = bare_namespace()

    def answer(name: str, operands: list[Any]) -> Any:
        try:
            if name == "candidate":
                return _only_function(namespace)
            if name != "names":
                return _ANSWERS[name](*operands)
            exec(compile(spec["code"], CODE, "exec", dont_inherit=True), namespace)
            return {name: namespace[name] for name in operands[0] if name in namespace}
        finally:
            finish.flush()
            sys.stderr.flush()

    peer = Peer(fd, answer, trusts=True)
    _join_streams(peer)
    finish = Finish(channel, None)  # which now flushes these
    try:
        peer.listen()
    finally:
        os._exit(0)


def _only_function(namespace: dict[str, Any]) -> Any:
    """The function that the code defines; None if it is not one."""
    found = [f for f in namespace.values() if getattr(f, "__globals__", None) is namespace]
    return found[0] if len(found) == 1 else None


def _join_streams(peer: Peer) -> None:
    """Let what the code prints appear where the tests print, and what it reads come from there."""
    for stream in ("stdout", "stderr"):
        writer: Any = io.BufferedWriter(_Printer(peer, stream))
        buffered = stream == "stdout"
        text = io.TextIOWrapper(
            writer, "utf-8", "surrogateescape", "\n", write_through=not buffered
        )
        setattr(sys, stream, text)
    sys.stdin = _Reader(peer)
    builtins.input = lambda prompt="": peer.ask("input", str(prompt))


class _Printer(io.RawIOBase):
    """A stream of bytes to the tests' process."""

    def __init__(self, peer: Peer, stream: str) -> None:
        self._peer, self._stream = peer, stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)[: 1 << 18]
        self._peer.tell(self._stream, part)
        return len(part)


class _Reader(io.TextIOBase):
    """The tests' stdin."""

    name, mode = "<stdin>", "r"

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        return str(self._peer.ask("stdin", "read", -1 if size is None else size))

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        return str(self._peer.ask("stdin", "readline", size))
