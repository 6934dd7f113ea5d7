"""Lets one process use objects of another by asking it questions. So tests can use code that runs
in a different process.

Plain literals are sent by value, and so are a few types of the standard library. Any other object
stays where it is, and a stand-in takes its place on the other side (``remote``). Each side may ask
while it is being asked (for example, if the code calls a key function of the tests), so a side that
waits for an answer also answers questions. Standard library only.
"""

from __future__ import annotations

import _thread
import builtins
import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard, cast

from codec import (  # type: ignore[import-not-found]
    CodecError,
    decode_named,
    encode_named,
    plain_base,
)
from remote import (  # type: ignore[import-not-found]
    RemoteClass,
    State,
    awaiting,
    bound,
    described,
    instance,
    is_remote,
    stand_in,
    state_of,
    subclass,
)

MAX_MESSAGE = 1 << 20
_MAX_BASES = 64  # most base classes of an exception
_PROGRAMS = frozenset(
    """
    antigravity builtins code codeop ctypes importlib marshal os pdb pickle pty runpy shelve
    subprocess this timeit
    """.split()  # noqa: SIM905 - a list of quoted words reads worse
)
_LENGTH = struct.Struct("<I")
_OWN, _YOURS, _CLASS, _SHARED, _MADE, _MODULE, _RAISED, _ERROR = b"oycrkmex"
# Modules whose functions and classes are the same on both sides.
SHARED = """
    bisect collections copy datetime decimal fractions functools heapq itertools math operator
    random re string typing
""".split()  # noqa: SIM905 - a list of quoted words reads worse


class Gone(BaseException):
    """The other side has closed its end, or sent something malformed."""


class Peer:
    """This process's end of ``fd``. ``serve(name, operands)`` answers one question. Objects that
    the other side has been given are kept until the end.

    ``trusts``: whether the other side may name functions that are called here, and exception
    classes that catch what is raised here. The tests do not trust the code with this.
    """

    def __init__(self, fd: int, serve: Callable[[str, list[Any]], Any], trusts: bool) -> None:
        self.fd = fd
        self.gone = False
        self.failure: BaseException | None = None
        self._trusts = trusts
        self._serve = serve
        self._mine: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._theirs: dict[int, Any] = {}
        self._shown: set[int] = set()  # the numbers of what was sent as a value
        self._described: set[int] = set()
        self._fresh: list[int] = []  # those that the message being encoded describes
        self._by_name: set[int] = set()
        self._before: dict[tuple[int, str], Any] = {}  # attributes of classes that were replaced
        self.on_text: Callable[[str, bytes], None] = lambda stream, text: None
        self.before_asking: Callable[[], None] = lambda: None
        self._classes: dict[str, type[BaseException]] = {}  # classes of the other side's exceptions
        self._lock = _thread.RLock()
        self._read, self._write, self._error = os.read, os.write, OSError

    # --- questions ---

    def ask(self, asked: str, *operands: Any) -> Any:
        """Ask, and return the other side's answer. Raises what the other side raised, and Gone."""
        with self._lock:
            if asked == "call":
                self.before_asking()
            self._send(("ask", asked, list(operands)))
            while True:
                kind, name, value = self._receive()
                if kind == "ask":
                    self._answer(name, value)
                elif kind == "text":
                    self.on_text(name, bytes(value))
                elif kind == "raise":
                    steps = asked in ("next", "anext") or (
                        asked == "call" and state_of(operands[0]).steps
                    )
                    raise _safe(self._exception(name, value), steps)
                else:
                    return value

    def tell(self, stream: str, text: bytes) -> None:
        """Send what was printed."""
        with self._lock:
            self._send(("text", stream, text))

    def note_failure(self, error: BaseException | None) -> None:
        """Remember a failed assertion of the tests, which the code sees and may catch."""
        if isinstance(error, AssertionError) and "of_the_code" not in error.__dict__:
            self.failure = self.failure or error

    def listen(self) -> None:
        """Answer questions. Never returns; raises Gone when the other side is gone."""
        while True:
            kind, name, operands = self._receive()
            if kind == "ask":
                self._answer(name, operands)

    def _answer(self, name: str, operands: list[Any]) -> None:
        try:
            message: tuple[str, str, Any] = ("value", "", self._serve(name, operands))
        except Gone:
            raise
        except BaseException as error:
            error.__traceback__ = None
            self.note_failure(error)
            message = ("raise", _names_of(type(error)), _told(error, self._trusts))
        try:
            self._send(message)
        except CodecError:
            kind, names, content = message
            self._send((kind, names, _Kept(content) if kind == "value" else ["", [], None, None]))

    def _exception(self, names: str, described: Any) -> BaseException:
        """The exception of this side that is most like the one that the other side raised."""
        text, args, itself, cause = described
        try:
            error: Any = type.__call__(self._exception_class(names), *args)
        except Exception:  # the class takes other arguments, or cannot be made here
            return RuntimeError(f"{names.partition(' ')[0]}: {text}")
        if itself is not None and isinstance(error, _Own):
            error.__dict__.update(_text=text, _remote=itself)
        if isinstance(cause, BaseException):
            error.__cause__ = cause
        error.__dict__["of_the_code"] = True
        return cast(BaseException, error)

    def _exception_class(self, names: str) -> type[BaseException]:
        """An exception class, found by its name and the names of its bases. If the other side has
        defined it itself, it is made here too, once, so that it can be caught.
        """
        name, _, rest = names.partition(" ")
        known = getattr(builtins, name, None)
        if names in self._classes:
            return self._classes[names]
        if _is_exception(known):
            return known
        if (of_library := _exception_of_library(names)) is not None:
            return of_library
        few = 0 < rest.count(" ") < _MAX_BASES
        nearest = self._exception_class(rest) if few else Exception
        own = () if issubclass(nearest, _Own) else (_Own,)
        kinds = [getattr(builtins, other, None) for other in rest.split(" ")]
        others = [k for k in kinds if _is_exception(k) and not issubclass(nearest, k)]
        made: Any = _OwnClass(name, (*own, nearest, *others[:1]), {})
        self._classes[names] = made
        return self._classes[names]

    def _given_class(self, data: bytes) -> type[BaseException]:
        """An exception class that the other side sends as a value. If the class is builtin and the
        other side is not trusted, this is a subclass. From now on it catches what the other side
        raises under that name, but nothing that is raised here.
        """
        number, names = _LENGTH.unpack_from(data)[0], data[_LENGTH.size :].decode()
        kind = self._exception_class(names)
        if not self._trusts and kind.__module__ == "builtins" and not isinstance(kind, _OwnClass):
            kind = self._classes[names] = type(kind.__name__, (kind,), {})
        if number and isinstance(kind, _OwnClass) and not self._trusts:
            type.__setattr__(kind, "_azr_origin", (self, _Ref(number - 1)))
        return kind

    # --- messages ---

    def _send(self, message: tuple[str, str, Any]) -> None:
        self._fresh.clear()
        try:
            body = self._encoded(message)
        except BaseException:
            self._described.difference_update(self._fresh)
            raise
        data = _LENGTH.pack(len(body)) + body
        try:
            while data:
                data = data[self._write(self.fd, data) :]
        except self._error:
            self._give_up()

    def _receive(self) -> tuple[str, str, Any]:
        size = _LENGTH.unpack(self._bytes(_LENGTH.size))[0]
        if size > MAX_MESSAGE:
            self._give_up()
        try:
            message = decode_named(self._bytes(size), self._known, MAX_MESSAGE)
            kind, name, value = message
        except Exception:
            self._give_up()
        if type(kind) is not str or type(name) is not str:
            self._give_up()
        return kind, name, value

    def _bytes(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self._read(self.fd, min(size, 1 << 16))
            except self._error:
                part = b""
            if not part:
                self._give_up()
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _give_up(self) -> Any:
        self.gone = True
        raise Gone("the other side is gone")

    # --- names for objects that are not plain literals ---

    def _name(self, value: Any) -> bytes:
        kind = type(value)
        if is_remote(value) and (state := state_of(value)).peer is self:
            return struct.pack("<BI", _YOURS, state.number)
        if kind is _Kept:
            return self._own(value.value, None)
        if kind is _Ref:
            return struct.pack("<BI", _YOURS, value.number)
        if kind is type(sys) and _is_module(value.__name__, not self._trusts):
            return bytes([_MODULE]) + str(value.__name__).encode()
        if _is_exception(value):
            number, names = self._number(value) + 1 if _is_own(value) else 0, _names_of(value)
            if number:
                self._classes.setdefault(names, value)  # what the other side may raise by this name
            return struct.pack("<BI", _RAISED, number) + names.encode()
        if isinstance(value, BaseException):
            described = [_names_of(kind), _told(value, self._trusts)]
            return bytes([_ERROR]) + self._encoded(described)
        if where := _shared_name(value, functions=not self._trusts):
            return bytes([_SHARED]) + where.encode()
        if made := _parts_of(value):
            return bytes([_MADE]) + self._encoded(made)
        if isinstance(value, type):
            self._shown.add(self._number(value))
            return bytes([_CLASS]) + self._class(value)
        base = plain_base(value)
        if kind in _VIEWS:
            return bytes([_MADE]) + self._encoded(("builtins.set", (list(base),)))
        return self._own(value, None if base is value else base)

    def _own(self, value: Any, plain: Any) -> bytes:
        """An object of this side: its number, its class, and its plain value if it has one."""
        number = self._number(value)
        self._shown.add(number)
        head = struct.pack("<BI", _OWN, number)
        return head + self._encoded([self._class(type(value)), plain])

    def _class(self, kind: type) -> bytes:
        """The number of a class, and, the first time, its description."""
        number = self._number(kind)
        if number in self._described:
            return _LENGTH.pack(number)
        self._described.add(number)
        if kind.__module__ == "__main__":  # a class of the tests' own, as ``type(x)`` gives it
            self._shown.add(number)
        self._fresh.append(number)
        return _LENGTH.pack(number) + self._encoded(described(kind, methods=self._trusts))

    def _encoded(self, value: Any) -> bytes:
        return bytes(encode_named(value, self._name, MAX_MESSAGE))

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._mine)
            self._mine.append(value)  # kept alive, so that no other object gets its id
        return number

    def has_shown(self, value: Any) -> bool:
        """Whether ``value`` is an object of this side that the other side has been given."""
        number = self._numbers.get(id(value))
        return number is not None and self._mine[number] is value

    def _known(self, name: bytes) -> Any:
        tag, rest = name[0], name[1:]
        if tag == _YOURS:
            number = _LENGTH.unpack(rest)[0]
            # What the other side was not given, as the class of an object, cannot come back.
            return self._mine[number] if self._trusts or number in self._shown else object()
        if tag == _OWN:
            return self._theirs_of(_LENGTH.unpack_from(rest)[0], rest[_LENGTH.size :])
        if tag == _CLASS:
            return self._class_of(rest)
        if tag == _ERROR:
            names, told = decode_named(rest, self._known, MAX_MESSAGE)
            return self._exception(names, told)
        if tag == _MADE:
            kind, parts = decode_named(rest, self._known, MAX_MESSAGE)
            if kind not in _PARTS:
                raise CodecError("no value of the standard library")
            module, _, attribute = kind.partition(".")
            return getattr(_imported(module), attribute)(*parts)
        if tag == _SHARED:
            return _shared(rest.decode(), functions=self._trusts)
        if tag == _MODULE:
            return _module(rest.decode(), self._trusts)
        return {_RAISED: self._given_class}[tag](rest)

    def _theirs_of(self, number: int, rest: bytes) -> Any:
        """The stand-in for an object of the other side."""
        kind_bytes, plain = decode_named(rest, self._known, MAX_MESSAGE)
        kind = self._class_of(kind_bytes)
        if number not in self._theirs or plain is not None:
            self._theirs[number] = instance(kind, State(self, number), plain)
        found = self._theirs[number]
        return awaiting(found) if kind.__name__ == "coroutine" else found

    def _class_of(self, data: bytes) -> RemoteClass:
        """The stand-in for a class of the other side."""
        number = _LENGTH.unpack_from(data)[0]
        if len(data) > _LENGTH.size:
            description = decode_named(data[_LENGTH.size :], self._known, MAX_MESSAGE)
            self._theirs[number] = stand_in(State(self, number), description)
        return self._theirs[number]

    # --- classes of the other side ---

    def known(self, number: int) -> Any:
        """The stand-in with this number."""
        return self._theirs[number]

    def replace(self, number: int, kind: RemoteClass) -> None:
        """Let another class stand for the one with this number."""
        self._theirs[number] = kind

    def note_names(self, values: Iterable[Any]) -> None:
        """Remember which classes this side knows by name."""
        self._by_name |= {state_of(v).number for v in values if isinstance(v, RemoteClass)}

    def knows_by_name(self, kind: type) -> bool:
        """Whether this side knows a class, or one of its bases, by name."""
        own = [base for base in kind.__mro__ if "_azr_class" in vars(base)]
        return any(state_of(base).number in self._by_name for base in own)

    def set_class_attribute(self, kind: RemoteClass, name: str, value: Any) -> None:
        """Set it on the other side, too. Puts back what was there if it is given the stand-in."""
        key = (state_of(kind).number, name)
        if getattr(value, "_azr_method", None) == name and key in self._before:
            self.ask("setattr", kind, name, self._before[key])
        else:
            if name in vars(kind) and key not in self._before:
                self._before[key] = self.ask("getattr", kind, name)
            self.ask("setattr", kind, name, value)
        if name in vars(kind):
            type.__setattr__(kind, name, value)


class _Kept:
    """Wraps a value that is too large to be sent. It stays here, and only its number is sent."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _told(error: BaseException, all_of_it: bool) -> list[Any]:
    """An exception's text and arguments, and the exception itself if its class is not builtin.
    Without ``all_of_it``, only the text.
    """
    try:
        text = str(error)[:2000].encode("utf-8", "replace").decode()
        args = list(error.args) if all_of_it else [text] if text else []
        own = getattr(builtins, type(error).__name__, None) is not type(error)
    except BaseException:
        return ["(its text cannot be read)", [], None, None]
    itself = _Kept(error) if own and all_of_it else None
    return [text, args, itself, error.__cause__ if all_of_it else None]


class _Ref:
    """Stands for the other side's object of this number, in a message."""

    def __init__(self, number: int) -> None:
        self.number = number


class _OwnClass(type):
    """The class of exception classes that the other side defined: it makes their instances."""

    def __call__(cls, *args: Any, **named: Any) -> Any:
        origin = vars(cls).get("_azr_origin")
        if origin is None:
            return super().__call__(*args, **named)
        peer, there = origin
        return peer.ask("invoke", there, "__call__", list(args), named)

    def __getattr__(cls, name: str) -> Any:
        origin = vars(cls).get("_azr_origin")
        if origin is None or name.startswith("__"):
            raise AttributeError(name)
        return origin[0].ask("getattr", origin[1], name)


class _Own:
    """A base for exceptions that the other side defined: gives their text and other attributes."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.__dict__["_text"] if "_text" in self.__dict__ else super().__str__()

    def __getattr__(self, name: str) -> Any:
        if "_remote" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["_remote"], name)


def _safe(error: BaseException, steps: bool) -> BaseException:
    """Replace a StopIteration that a call raised: it would end a loop around it, as in ``map``.
    ``steps``: whether a generator was asked for its next step.
    """
    if isinstance(error, (StopIteration, StopAsyncIteration)) and not steps:
        return RuntimeError(f"raised {type(error).__name__}")
    return error


def _names_of(kind: type) -> str:
    return " ".join(base.__name__ for base in kind.__mro__ if base is not _Own)


def _exception_of_library(names: str) -> type[BaseException] | None:
    """The class of a loaded library module with these names of its own and its bases."""
    name = names.partition(" ")[0]
    for module in (sys.stdlib_module_names & sys.modules.keys()) - {"unittest"}:  # it has SkipTest
        found = vars(sys.modules[module]).get(name)
        if _is_exception(found) and _names_of(found) == names:
            return found
    return None


def _is_own(kind: type) -> bool:
    """Whether it is not the builtin class of that name."""
    return getattr(builtins, kind.__name__, None) is not kind


def _is_exception(kind: Any) -> TypeGuard[type[BaseException]]:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def answers() -> dict[str, Callable[..., Any]]:
    """The operations that can be asked of an object, by name, as stand-ins ask for them."""
    import copy
    import math
    import operator

    binary = {name: getattr(operator, name) for name in _BINARY} | {"divmod": divmod}
    binary |= {"and": operator.and_, "or": operator.or_}
    turned = {f"r{name}": _turned(function) for name, function in binary.items()}
    in_place = {f"i{n}": getattr(operator, f"i{n}", f) for n, f in binary.items()}
    order = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
    same: tuple[Any, ...] = (
        getattr,
        delattr,
        isinstance,
        issubclass,
        iter,
        next,
        len,
        bool,
        str,
        repr,
        format,
        bytes,
        hash,
        reversed,
    )
    numeric = (int, float, complex, round, abs)
    unary = ("neg", "pos", "invert", "index", "length_hint", "contains")
    return {
        **{name: getattr(operator, name) for name in unary},
        **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem")},
        **{name: getattr(math, name) for name in ("trunc", "floor", "ceil")},
        **order, **binary, **turned, **in_place,
        **{function.__name__: function for function in (*same, *numeric)},
        "setattr": _set,
        "call": _called,
        "invoke": _invoked,
        "subclass": subclass,
        "library": _of_library,
        "restore": _restore,
        "deepcopy": copy.deepcopy,
        "copy": copy.copy,
        "fspath": os.fspath,
        "enter": lambda manager: type(manager).__enter__(manager),
        "exit": lambda manager, error: type(manager).__exit__(manager, *_raised_as(error)),
        "await": _awaited,
        "aiter": lambda value: type(value).__aiter__(value),
        "anext": lambda value: _awaited(type(value).__anext__(value)),
        "aenter": lambda manager: _awaited(type(manager).__aenter__(manager)),
        "aexit": lambda manager, error=None: _awaited(
            type(manager).__aexit__(manager, *_raised_as(error))
        ),
    }  # fmt: skip


_BINARY = "add sub mul truediv floordiv mod pow matmul xor lshift rshift".split()  # noqa: SIM905
# Functions that look into an object or a class: they must run where that lives.
LOOKING = {
    "dataclasses": ("asdict", "astuple", "fields", "is_dataclass", "replace"),
    "inspect": (
        *("getdoc", "isabstract", "isclass", "iscoroutinefunction", "isfunction", "isgenerator"),
        *("isgeneratorfunction", "ismethod", "signature"),
    ),
    "asyncio": ("iscoroutinefunction",),
}  # fmt: skip
_originals: dict[tuple[str, str], Any] = {}
_loops: list[Any] = []


def _raised_as(error: BaseException | None) -> tuple[Any, Any, None]:
    """The arguments of ``__exit__``."""
    return (None if error is None else type(error)), error, None


def _invoked(kind: Any, name: str, args: list[Any], named: dict[str, Any]) -> Any:
    return kind(*args, **named) if name == "__call__" else getattr(kind, name)(*args, **named)


def _turned(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: function(b, a)


def _set(target: Any, name: str, value: Any) -> None:
    """Set an attribute. A function of the other side becomes a method if ``target`` is a class."""
    if isinstance(target, type(sys)):
        _originals.setdefault((target.__name__, name), getattr(target, name, None))
    if isinstance(target, type) and type(value).__name__ == "function" and is_remote(value):
        value = bound(value)
    setattr(target, name, value)


def _restore(module: Any, name: str) -> None:
    """Give a module's attribute back what it was before the other side set it."""
    setattr(module, name, _originals[module.__name__, name])


def _of_library(module: str, name: str, args: list[Any], named: dict[str, Any]) -> Any:
    if name not in LOOKING.get(module, ()) and (module, name) != ("random", "seed"):
        raise TypeError("not a function that may be asked for")
    return getattr(_imported(module), name)(*args, **named)


def _awaited(value: Any) -> Any:
    """Run an awaitable to its end."""
    import asyncio

    async def wait() -> Any:
        return await value

    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0].run_until_complete(wait())


def _called(function: Any, args: list[Any], named: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Call ``function``; return its value and the arguments that it changed in place. Changes are
    reported only if it returns None, as functions that change arguments do. (Otherwise the code
    could change the object that its value is compared with.)
    """
    kinds = (list, dict, set, bytearray)
    before = [(i, a, repr(a)) for i, a in enumerate(args) if type(a) in kinds]
    value = function(*args, **named)
    if value is not None:
        return value, []
    return None, [(i, a) for i, a, text in before if repr(a) != text]


# --- modules, functions, classes and values that both sides have ---


def _is_module(name: str, any_of_them: bool) -> bool:
    """Whether a module may be imported by name. Submodules may not, since a few of them are
    programs, and neither may modules that can turn text into code, unless ``any_of_them`` may.
    """
    return name in sys.stdlib_module_names and (any_of_them or name not in _PROGRAMS)


def _module(name: str, any_of_them: bool) -> Any:
    if not _is_module(name, any_of_them):
        raise CodecError("not a module of the standard library")
    return _imported(name)


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except Exception as error:
        raise CodecError(f"not a module: {error}") from None


def _shared_name(value: Any, functions: bool) -> str:
    """A name like ``builtins.int`` or ``math.sqrt`` for a builtin class, or for a class of the
    SHARED modules, or for one of their functions if ``functions``; otherwise an empty string.
    (Functions of ``builtins`` are not shared.)
    """
    kinds = (type, type(len), type(_shared_name)) if functions else (type,)
    if type(value) not in kinds and type(value).__module__ != "typing":
        return ""
    name = getattr(value, "__name__", None) or getattr(value, "_name", None)
    if type(name) is not str or name.startswith("_"):
        return ""
    modules = ("builtins", *SHARED) if type(value) is type else SHARED
    for module in modules:
        if getattr(sys.modules.get(module), name, None) is value:
            return f"{module}.{name}"
    return ""


def _shared(where: str, functions: bool) -> Any:
    module, _, name = where.partition(".")
    if module in ("builtins", *SHARED) and not name.startswith("_"):
        value = getattr(_imported(module), name, None)
        if isinstance(value, type) or type(value).__module__ == "typing":
            if not _is_exception(value):
                may = functions or _holds_data(module, name)
                return value if may else type(name, (), {})  # one that does nothing
        elif functions and module != "builtins" and callable(value):
            return value
    raise CodecError("no function or class of the standard library")


def _holds_data(module: str, name: str) -> bool:
    """Whether a class does no more than to hold values. With ``type`` or ``operator.attrgetter``,
    the code could make the tests' process do anything, if a function there calls what it is given.
    """
    if module == "builtins":
        return name in _DATA
    return module in ("collections", "datetime", "decimal", "fractions") or (
        module == "typing" and name != "ForwardRef"
    )


_DATA = frozenset(
    """
    bool bytearray bytes complex dict float frozenset int list object range set slice str tuple
    """.split()  # noqa: SIM905
)


def _parts_of(value: Any) -> tuple[str, tuple[Any, ...]] | None:
    """The name of a value's class and the arguments to make it again. None if not in _PARTS."""
    kind = type(value)
    module, name = kind.__module__, kind.__qualname__
    parts = _PARTS.get(f"{module}.{name}")
    if parts is None or getattr(sys.modules.get(module), name, None) is not kind:
        return None
    return f"{module}.{name}", parts(value)


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.items()))
# Types of the standard library whose values are sent as the arguments that make them.
_PARTS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "builtins.bytearray": lambda v: (bytes(v),),
    "builtins.set": lambda v: (list(v),),
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "collections.deque": lambda v: (list(v), v.maxlen),
    "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo),
    "datetime.datetime": lambda v: (*v.timetuple()[:6], v.microsecond, v.tzinfo),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
    "datetime.timezone": lambda v: (v.utcoffset(None), v.tzname(None)),
    "zoneinfo.ZoneInfo": lambda v: (v.key,),
    "collections.OrderedDict": lambda v: (list(v.items()),),
    "collections.Counter": lambda v: (dict(v),),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
}
