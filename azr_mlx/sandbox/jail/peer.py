"""Lets one process use objects of another by asking it questions. So tests can use code that runs
in a different process.

Plain literals are sent by value, and so are a few types of the standard library. Any other object
stays where it is, and a ``Remote`` stands for it on the other side. An instance of a subclass of a
builtin type is sent as its plain value, with a ``Remote`` behind it for everything else. Each side
may ask while it is being asked (for example, if the code calls a key function of the tests), so a
side that waits for an answer also answers questions.

What is compared with a value of the other side never goes there: a ``Remote`` equals only objects
of the other side, and no arithmetic mixes the two. Standard library only.
"""

from __future__ import annotations

import _thread
import builtins
import os
import struct
import sys
from collections.abc import Callable
from typing import Any, TypeGuard

from codec import (  # type: ignore[import-not-found]
    CodecError,
    decode_named,
    encode_named,
    plain_base,
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
_OWN, _YOURS, _SHADOW, _SHARED, _MADE, _MODULE, _RAISED = b"oysrkme"
# Modules whose functions and classes are the same on both sides.
SHARED = """
    bisect collections copy datetime decimal fractions functools heapq itertools math operator
    random re string typing
""".split()  # noqa: SIM905 - a list of quoted words reads worse
_BINARY = """
    add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift eq ne lt le gt ge
""".split()  # noqa: SIM905
_ASKABLE = frozenset({"__name__", "__qualname__", "__doc__", "__dict__", "__annotations__"})


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
        self._trusts = trusts
        self._serve = serve
        self._mine: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._theirs: dict[int, Remote] = {}
        self._classes: dict[str, type[BaseException]] = {}  # classes of the other side's exceptions
        self._lock = _thread.RLock()
        self._read, self._write, self._error = os.read, os.write, OSError

    # --- questions ---

    def ask(self, asked: str, *operands: Any) -> Any:
        """Ask, and return the other side's answer. Raises what the other side raised, and Gone."""
        with self._lock:
            self._send(("ask", asked, list(operands)))
            while True:
                kind, name, value = self._receive()
                if kind == "ask":
                    self._answer(name, value)
                elif kind == "raise":
                    raise _safe(self._exception(name, value), asked)
                else:
                    return value

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
            message = ("raise", _names_of(type(error)), _told(error, self._trusts))
        try:
            self._send(message)
        except CodecError:
            kind, names, content = message
            self._send((kind, names, _Kept(content) if kind == "value" else ["", [], None]))

    def _exception(self, names: str, described: Any) -> BaseException:
        """The exception of this side that is most like the one that the other side raised."""
        text, args, itself = described
        try:
            error = self._exception_class(names)(*args)
        except Exception:  # the class takes other arguments, or cannot be made here
            return RuntimeError(f"{names.partition(' ')[0]}: {text}")
        if itself is not None and isinstance(error, _Own):
            error.__dict__.update(_text=text, _remote=itself)
        return error

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
        few = 0 < rest.count(" ") < _MAX_BASES
        nearest = self._exception_class(rest) if few else Exception
        own = () if issubclass(nearest, _Own) else (_Own,)
        kinds = [getattr(builtins, other, None) for other in rest.split(" ")]
        others = [k for k in kinds if _is_exception(k) and not issubclass(nearest, k)]
        self._classes[names] = type(name, (*own, nearest, *others[:1]), {})
        return self._classes[names]

    def _given_class(self, names: str) -> type[BaseException]:
        """An exception class that the other side sends as a value. If the class is builtin and the
        other side is not trusted, this is a subclass. From now on it catches what the other side
        raises under that name, but nothing that is raised here.
        """
        kind = self._exception_class(names)
        if not self._trusts and kind.__module__ == "builtins":
            kind = self._classes[names] = type(kind.__name__, (kind,), {})
        return kind

    # --- messages ---

    def _send(self, message: tuple[str, str, Any]) -> None:
        body = self._encoded(message)
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
        if kind is Remote:
            return self._numbered(_YOURS, object.__getattribute__(value, "_number"))
        if kind is _Kept:
            return self._numbered(_OWN, self._number(value.value))
        if kind is type(sys) and _is_module(value.__name__):
            return bytes([_MODULE]) + str(value.__name__).encode()
        if _is_exception(value):
            return bytes([_RAISED]) + _names_of(value).encode()
        if where := _shared_name(value, functions=not self._trusts):
            return bytes([_SHARED]) + where.encode()
        if made := _parts_of(value):
            return bytes([_MADE]) + self._encoded(made)
        if kind in _shadows.values():
            return self._name(vars(value)["_remote"])
        base = plain_base(value)
        if base is value:
            return self._numbered(_OWN, self._number(value))
        return self._numbered(_SHADOW, self._number(value)) + self._encoded(base)

    def _encoded(self, value: Any) -> bytes:
        return bytes(encode_named(value, self._name, MAX_MESSAGE))

    @staticmethod
    def _numbered(tag: int, number: int) -> bytes:
        return struct.pack("<BI", tag, number)

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
        if tag in (_OWN, _YOURS, _SHADOW):
            number = _LENGTH.unpack_from(rest)[0]
            if tag == _YOURS:
                return self._mine[number]
            if tag == _OWN:
                return self._remote(number)
            plain = decode_named(rest[_LENGTH.size :], self._known, MAX_MESSAGE)
            return _shadow(plain, self._remote(number))
        if tag == _MADE:
            kind, parts = decode_named(rest, self._known, MAX_MESSAGE)
            if kind not in _PARTS:
                raise CodecError("no value of the standard library")
            module, _, attribute = kind.partition(".")
            return getattr(_imported(module), attribute)(*parts)
        if tag == _SHARED:
            return _shared(rest.decode(), functions=self._trusts)
        return {_MODULE: _module, _RAISED: self._given_class}[tag](rest.decode())

    def _remote(self, number: int) -> Remote:
        if number not in self._theirs:
            self._theirs[number] = Remote(self, number)
        return self._theirs[number]


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
        return ["(its text cannot be read)", [], None]
    return [text, args, error if own and all_of_it else None]


class _Own:
    """A base for exceptions that the other side defined: gives their text and other attributes."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.__dict__["_text"] if "_text" in self.__dict__ else super().__str__()

    def __getattr__(self, name: str) -> Any:
        if "_remote" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["_remote"], name)


def _safe(error: BaseException, asked: str) -> BaseException:
    """Replace a StopIteration that a call raised: it would end a loop around it, as in ``map``."""
    if isinstance(error, StopIteration) and asked != "next":
        return RuntimeError("raised StopIteration")
    return error


def _names_of(kind: type) -> str:
    return " ".join(base.__name__ for base in kind.__mro__)


def _is_exception(kind: Any) -> TypeGuard[type[BaseException]]:
    return isinstance(kind, type) and issubclass(kind, BaseException)


class Remote:
    """Stands for an object that lives on the other side."""

    __slots__ = ("_number", "_peer")
    _peer: Peer
    _number: int

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **named: Any) -> Any:
        result, changed = _ask(self, "call", list(args), named)
        for position, content in changed if result is None else ():
            _refill(args[position], content)
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _ASKABLE:
            raise AttributeError(name)
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __iter__(self) -> Any:
        return _ask(self, "iter")

    def __exit__(self, *raised: object) -> None:
        _ask(self, "exit")

    def __deepcopy__(self, memo: Any) -> Any:
        return _ask(self, "deepcopy")

    def __eq__(self, other: object) -> Any:
        return self is other or (type(other) is Remote and _ask(self, "eq", other))

    def __ne__(self, other: object) -> Any:
        return not self == other

    __hash__ = object.__hash__


def _ask(remote: Remote, name: str, *operands: Any) -> Any:
    peer: Peer = object.__getattribute__(remote, "_peer")
    return peer.ask(name, remote, *operands)


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *operands: _ask(self, name, *operands)


def _operator(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return _ask(self, name, other) if type(other) is Remote else NotImplemented

    return method


for _special in "next len bool str repr getitem setitem delitem enter delattr".split():  # noqa: SIM905
    setattr(Remote, f"__{_special}__", _method(_special))
for _special in _BINARY:
    if _special not in ("eq", "ne"):
        setattr(Remote, f"__{_special.rstrip('_')}__", _operator(_special))


def answers() -> dict[str, Callable[..., Any]]:
    """The operations that can be asked of an object, by name. A ``Remote`` uses them."""
    import copy
    import operator

    plain = {name: getattr(operator, name) for name in _BINARY}
    same = (getattr, setattr, delattr, iter, next, len, bool, str, repr)
    return {
        **plain,
        **{function.__name__: function for function in same},
        "call": _called,
        "getitem": operator.getitem,
        "setitem": operator.setitem,
        "delitem": operator.delitem,
        "deepcopy": copy.deepcopy,
        "enter": lambda manager: type(manager).__enter__(manager),
        "exit": lambda manager: type(manager).__exit__(manager, None, None, None),
    }


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


def _refill(target: Any, content: Any) -> None:
    """Replace the content of a container by ``content``, which comes from a changed copy."""
    if type(target) is not type(content):
        return
    if isinstance(target, (list, bytearray)):
        target[:] = content
    else:
        target.clear()
        target.update(content)


# --- modules, functions, classes and values that both sides have ---


def _is_module(name: str) -> bool:
    """Whether a module may be imported by name here. Submodules may not, since a few of them are
    programs, and neither may modules that can turn text into code.
    """
    return name in sys.stdlib_module_names and name not in _PROGRAMS


def _module(name: str) -> Any:
    if not _is_module(name):
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
    modules = ("builtins", *SHARED) if type(value) is type else SHARED
    for module in modules:
        if type(name) is str and getattr(sys.modules.get(module), name, None) is value:
            return f"{module}.{name}"
    return ""


def _shared(where: str, functions: bool) -> Any:
    module, _, name = where.partition(".")
    if module in ("builtins", *SHARED) and not name.startswith("_"):
        value = getattr(_imported(module), name, None)
        if isinstance(value, type) or type(value).__module__ == "typing":
            if not _is_exception(value):
                return value
        elif functions and module != "builtins" and callable(value):
            return value
    raise CodecError("no function or class of the standard library")


def _parts_of(value: Any) -> tuple[str, tuple[Any, ...]] | None:
    """The name of a value's class and the arguments to make it again. None if not in _PARTS."""
    kind = type(value)
    module, name = kind.__module__, kind.__qualname__
    parts = _PARTS.get(f"{module}.{name}")
    if parts is None or getattr(sys.modules.get(module), name, None) is not kind:
        return None
    return f"{module}.{name}", parts(value)


# Types of the standard library whose values are sent as the arguments that make them.
_PARTS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "builtins.bytearray": lambda v: (bytes(v),),
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "collections.deque": lambda v: (list(v), v.maxlen),
    "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond),
    "datetime.datetime": lambda v: (*v.timetuple()[:6], v.microsecond),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
}


# --- builtin values with an object of the other side behind them ---


def is_remote(value: Any) -> bool:
    """Whether ``value``, or attributes of it, stand for an object of the other side."""
    return type(value) is Remote or type(value) in _shadows.values()


_shadows: dict[type, type] = {}


def _shadow(plain: Any, remote: Remote) -> Any:
    """``plain`` as an instance of a subclass that asks ``remote`` for all other attributes."""
    base = type(plain)
    if base in (bool, type(None), Remote) or base.__module__ != "builtins":
        raise CodecError("no builtin value")
    if base not in _shadows:
        body = {"__getattr__": lambda self, name: getattr(self.__dict__["_remote"], name)}
        if base is dict:
            body["__missing__"] = lambda self, key: self.__dict__["_remote"][key]
        _shadows[base] = type(base.__name__, (base,), body)
    shadow = _shadows[base](plain)
    shadow.__dict__["_remote"] = remote
    return shadow
