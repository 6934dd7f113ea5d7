"""Stand-ins for the objects and classes of another process.

For each class of the other side there is a class here, of metaclass ``RemoteClass``, with the same
name, the same bases and the same special methods; its instances stand for that side's instances. So
``isinstance``, ``type(x) is C``, ``len(x)`` and ``class D(C)`` mean what they mean in one process.
An instance of a subclass of a builtin type is that type's plain value here, and a stand-in for
everything else.

What is compared with a value of the other side never goes there: a stand-in equals only stand-ins,
and is ordered only among them. Arithmetic with a plain value is made only for classes that the
tests know by name, and only if an object comes out, so that ``abs(f(2) - 0.5) < 0.1`` is never left
to the other side. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_HEAP_TYPE = 1 << 9  # the flag of classes that a class statement or ``type`` made
_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod".split()  # noqa: SIM905
_ORDER = ("lt", "le", "gt", "ge")
# What makes a plain value of an object.
_NUMERIC = "bool len neg pos abs invert int float index complex round trunc floor ceil".split()  # noqa: SIM905
_CONVERTED = ("int", "float", "index", "complex")  # what gives a number
_OTHERS = """
    str repr format bytes hash iter next reversed getitem setitem delitem call enter exit
    fspath length_hint
""".split()  # noqa: SIM905
_STEPS = ("send", "throw", "__next__")
_SHOWN = ("str", "repr", "format")  # what a plain value with a stand-in behind it asks for
_AWAITED = ("await", "aiter", "anext", "aenter", "aexit")
_MIXING = [*_BINARY, *(f"r{name}" for name in _BINARY), *(f"i{name}" for name in _BINARY)]
SPECIALS = frozenset({
    *_MIXING, *_ORDER, *_NUMERIC, *_OTHERS, *_AWAITED, "eq", "ne", "contains", "nohash",
})  # fmt: skip
_PLAIN = (int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
_ALIKE = {
    "__module__",
    "__qualname__",
    "__classcell__",
    "__firstlineno__",
    "__dict__",
    "__weakref__",
}


class Remote:
    """Stands for an object that lives on the other side."""

    __slots__ = ("_azr_remote",)

    def __getattribute__(self, name: str) -> Any:
        if name[:2] == "__" == name[-2:] and name != "__doc__":
            try:
                return object.__getattribute__(self, name)
            except AttributeError:
                pass  # the other side may know it
        found = ask(self, "getattr", name)
        if name in _STEPS and type(found).__name__ == "builtin_function_or_method":
            state_of(found).steps = is_remote(found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        ask(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        ask(self, "delattr", name)

    def __deepcopy__(self, memo: Any) -> Any:
        return ask(self, "deepcopy")

    def __copy__(self) -> Any:
        return ask(self, "copy")


class State:
    """Whose object it is, its number there, and what the tests have done to it."""

    __slots__ = ("made", "mixed", "number", "peer", "steps")

    def __init__(self, peer: Any, number: int) -> None:
        self.peer, self.number = peer, number
        self.made = False  # by the tests, which called its class
        self.steps = False  # it is a method that steps a generator, by the name it was asked for
        self.mixed = False  # it came out of arithmetic with a plain value


def state_of(remote: Any) -> State:
    """The state of a stand-in for an object or a class."""
    own = isinstance(remote, RemoteClass)
    state: State = (
        vars(remote)["_azr_class"] if own else object.__getattribute__(remote, "_azr_remote")
    )
    return state


def is_remote(value: Any) -> bool:
    """Whether ``value``, or attributes of it, stand for an object of the other side."""
    return isinstance(value, RemoteClass) or isinstance(type(value), RemoteClass)


def ask(remote: Any, name: str, *operands: Any) -> Any:
    """Ask the other side to do something with the object."""
    return state_of(remote).peer.ask(name, remote, *operands)


def call(remote: Any, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """Call it; arguments that it has changed in place are changed here, too."""
    result, changed = ask(remote, "call", list(args), named)
    if isinstance(type(result), RemoteClass):
        state_of(result).made = False  # a method may return the object itself, for what is in it
    for position, content in changed if result is None else ():
        _refill(args[position], content)
    return result


def _refill(target: Any, content: Any) -> None:
    """Replace the content of a container by ``content``, which comes from a changed copy."""
    if type(target) is not type(content):
        return
    if isinstance(target, (list, bytearray)):
        target[:] = content
    else:
        target.clear()
        target.update(content)


# --- classes ---


class RemoteClass(type):
    """Stands for a class that lives on the other side."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **named: Any
    ) -> RemoteClass:
        """A stand-in, or, by a class statement of the tests, a class of theirs with such a base:
        then the other side gets a class with the same methods, which call those of the tests.
        """
        if "_azr_class" in body:
            return type.__new__(cls, name, bases, body)
        parent = next(base for base in bases if isinstance(base, RemoteClass))
        kept = {key: value for key, value in body.items() if key not in _ALIKE}
        for base in bases:
            if not isinstance(base, RemoteClass):
                kept = {key: value for key, value in vars(base).items() if key not in _ALIKE} | kept
        remote = [base for base in bases if isinstance(base, RemoteClass)]
        twin = state_of(parent).peer.ask("subclass", name, remote, _body(kept))
        state = state_of(twin)
        own = type.__new__(cls, name, bases, {**body, "__slots__": (), "_azr_class": state})
        state.peer.replace(state.number, own)
        return own

    def __init__(cls, *args: Any, **named: Any) -> None:
        super().__init__(*args)

    def __call__(cls, *args: Any, **named: Any) -> Any:
        made = call(cls, args, named)
        if isinstance(type(made), RemoteClass):
            state_of(made).made = state_of(cls).peer.knows_by_name(cls)
        return made

    def __getattr__(cls, name: str) -> Any:
        return ask(cls, "getattr", name)

    def __setattr__(cls, name: str, value: Any) -> None:
        state_of(cls).peer.set_class_attribute(cls, name, value)

    def __delattr__(cls, name: str) -> None:
        ask(cls, "delattr", name)

    def __instancecheck__(cls, value: Any) -> bool:
        if type.__instancecheck__(cls, value):
            return True
        return isinstance(type(value), RemoteClass) and bool(ask(value, "isinstance", cls))

    def __subclasscheck__(cls, kind: type) -> bool:
        if type.__subclasscheck__(cls, kind):
            return True
        return isinstance(kind, RemoteClass) and bool(ask(kind, "issubclass", cls))

    def __iter__(cls) -> Any:
        return ask(cls, "iter")

    def __len__(cls) -> Any:
        return ask(cls, "len")

    def __bool__(cls) -> bool:
        return True

    def __getitem__(cls, key: Any) -> Any:
        return ask(cls, "getitem", key)

    def __contains__(cls, value: Any) -> Any:
        return is_remote(value) and ask(cls, "contains", value)


def _body(members: dict[str, Any]) -> list[list[Any]]:
    """The members of a class, each with what kind of member it is."""
    body: list[list[Any]] = []
    for name, member in members.items():
        if isinstance(member, (staticmethod, classmethod)):
            body.append([name, type(member).__name__, member.__func__])
        elif isinstance(member, property):
            parts: list[Any] = [member.fget, member.fset, member.fdel]
            body.append([name, "property", parts])
        else:
            body.append([name, "function" if type(member) is type(_body) else "value", member])
    return body


def subclass(name: str, bases: Sequence[type], body: Sequence[Sequence[Any]]) -> type:
    """The class, on this side, of a class statement of the other side."""
    import types

    def fill(namespace: dict[str, Any]) -> None:
        for key, how, member in body:
            namespace[key] = _member(how, member)

    return types.new_class(name, tuple(bases), exec_body=fill)


def _member(how: str, member: Any) -> Any:
    if how == "property":
        return property(*[part and bound(part) for part in member])
    if how == "value":
        return member
    method = bound(member)
    if how == "staticmethod":
        return staticmethod(method)
    return classmethod(method) if how == "classmethod" else method


def bound(function: Any) -> Any:
    """A function of this side that calls a stand-in: as a member of a class it becomes a method."""

    def method(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return method


def described(kind: type, methods: bool) -> list[Any]:
    """What the other side needs to make a class like this one: names, the builtin type whose value
    its instances have, special methods, methods, bases."""
    lineage = [base for base in kind.__mro__ if base is not object]
    plain = next((base.__name__ for base in _PLAIN if issubclass(kind, base)), "")
    if kind in _PLAIN:
        plain = ""  # too large to be sent as a value
    heap = [base for base in lineage if base.__flags__ & _HEAP_TYPE]
    members = [vars(base) for base in (heap if plain else lineage)]
    specials = [s for s in SPECIALS if any(m.get(f"__{s}__") is not None for m in members)]
    if any("__hash__" in m for m in members) and kind.__hash__ is None:
        specials.append("nohash")
    if not methods:
        return [kind.__name__, "", "", plain, specials, [], [], ""]
    own = [n for n, m in vars(kind).items() if type(m) is type(described) and _is_method(n)]
    bases = [base for base in kind.__bases__ if base.__flags__ & _HEAP_TYPE]
    names = [kind.__name__, kind.__qualname__, kind.__module__]
    doc = kind.__doc__ if type(kind.__doc__) is str else None
    return [*names, plain, specials, own, bases, doc]


def _is_method(name: str) -> bool:
    return name.isidentifier() and (name == "__init__" or not name.startswith("__"))


def stand_in(state: State, description: Sequence[Any]) -> RemoteClass:
    """The class for a description. Raises an Exception if that makes no sense."""
    name, qualname, module, plain, specials, methods, bases, doc = description
    parents = [base for base in bases if isinstance(base, RemoteClass)]
    body: dict[str, Any] = {"_azr_class": state, "__module__": str(module), "__doc__": doc}
    body["__qualname__"] = str(qualname or name)
    body |= {str(n): _method(state, str(n)) for n in methods if _is_method(str(n))}
    kinds = {base.__name__: base for base in _PLAIN}
    if plain:
        body |= {f"__{n}__": _forward(n) for n in _SHOWN if n in specials}
        body |= {"__getattr__": _getattr, "__setattr__": Remote.__setattr__}
        if plain == "dict":
            body["__missing__"] = _forward("getitem")
        return _made(str(name), [*_of_plain(parents, kinds[plain])], (kinds[plain],), body)
    body |= {"__slots__": ()}
    for special in SPECIALS & set(specials):
        body |= _special(special, specials)
    return _made(str(name), parents or [Remote], (Remote,), body)


def _of_plain(parents: Sequence[type], plain: type) -> list[type]:
    own = [parent for parent in parents if issubclass(parent, plain)]
    return own or [plain]


def _made(
    name: str, bases: Sequence[type], fallback: tuple[type, ...], body: dict[str, Any]
) -> RemoteClass:
    try:
        return RemoteClass(name, tuple(bases), body)
    except TypeError:  # bases that cannot be combined here
        return RemoteClass(name, fallback, body)


def instance(kind: Any, state: State, plain: Any = None) -> Any:
    """A stand-in of this class; with a builtin value, if its class has one."""
    base: Any = next((base for base in _PLAIN if issubclass(kind, base)), None)
    if base is None:
        made = object.__new__(kind)
    elif type(plain) is not base:
        raise TypeError("not the value of this class")
    elif base in (list, dict, set):
        made = base.__new__(kind)
        base.__init__(made, plain)
    else:
        made = base.__new__(kind, plain)
    object.__setattr__(made, "_azr_remote", state)
    return made


def _getattr(self: Any, name: str) -> Any:
    return ask(self, "getattr", name)


# --- special methods ---


def _special(name: str, specials: Sequence[str]) -> dict[str, Any]:
    """The special method ``name``, among those that the class has."""
    if name == "nohash":
        return {"__hash__": None}
    if name in _MIXING:
        return {f"__{name}__": _operator(name)}
    if name in _ORDER:
        return {f"__{name}__": _order(name)}
    if name in ("eq", "ne"):
        hashed = {} if "hash" in specials or "nohash" in specials else {"__hash__": object.__hash__}
        return {"__eq__": _equal, "__ne__": _different, **hashed}
    if name == "contains":
        # Without it, Python goes through the items, and compares them here.
        return {} if {"iter", "getitem"} & set(specials) else {"__contains__": _contains}
    if name == "call":
        return {"__call__": lambda self, *args, **named: call(self, args, named)}
    if name == "exit":
        return {"__exit__": lambda self, kind, error, trace: _left(self, "exit", error)}
    if name == "await":
        return {"__await__": _await}
    if name in ("anext", "aenter", "aexit"):
        return {f"__{name}__": _async(name)}
    return {f"__{name}__": _numeric(name) if name in _NUMERIC else _forward(name)}


def _forward(name: str) -> Callable[..., Any]:
    return lambda self, *operands: ask(self, name, *operands)


def _method(state: State, name: str) -> Callable[..., Any]:
    """A method by its name in the class, as ``super().name()`` finds it."""

    def method(self: Any, *args: Any, **named: Any) -> Any:
        owner = state.peer.known(state.number)
        return state.peer.ask("invoke", owner, name, [self, *args], named)

    method.__name__ = name
    method.__dict__["_azr_method"] = name
    return method


def _numeric(name: str) -> Callable[..., Any]:
    def method(self: Any, *operands: Any) -> Any:
        state = state_of(self)
        if state.mixed:
            raise TypeError("arithmetic with the code's objects gives objects, not numbers")
        # Another object could say at each question what the tests want to hear then.
        known = state.made or state.peer.knows_by_name(type(self))
        if name in _CONVERTED and not known:
            raise TypeError("only an object of a class that the tests know is a number")
        return ask(self, name, *operands)

    return method


def _operator(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any, *more: Any) -> Any:
        if is_remote(other):
            return ask(self, name, other, *more)
        if not state_of(self).peer.knows_by_name(type(self)):
            return NotImplemented
        result = ask(self, name, other, *more)
        if not isinstance(type(result), RemoteClass) or isinstance(result, _PLAIN):
            raise TypeError("arithmetic with the code's objects gives objects, not plain values")
        state_of(result).mixed = True
        return result

    return method


def _order(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: ask(self, name, other) if is_remote(other) else NotImplemented


def _equal(self: Any, other: Any) -> Any:
    return self is other or (is_remote(other) and ask(self, "eq", other))


def _different(self: Any, other: Any) -> Any:
    return not _equal(self, other)


def _contains(self: Any, value: Any) -> Any:
    if not (is_remote(value) or state_of(self).made):
        raise TypeError("only an object that the tests have made says what it contains")
    return ask(self, "contains", value)


def _await(self: Any) -> Any:
    yield from ()
    return ask(self, "await")


def _left(manager: Any, how: str, error: BaseException | None) -> Any:
    """Leave a context manager of the code's. It may not make a failed assertion disappear."""
    swallowed = ask(manager, how, error)
    if swallowed:
        state_of(manager).peer.note_failure(error)
    return swallowed


def _async(name: str) -> Callable[..., Any]:
    async def method(self: Any, *operands: Any) -> Any:
        if name == "aexit":
            return _left(self, name, operands[1])
        return ask(self, name, *operands)

    return method


async def awaiting(remote: Any) -> Any:
    """A coroutine of this side for one of the other."""
    return ask(remote, "await")
