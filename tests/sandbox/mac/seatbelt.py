"""An interpreter of Seatbelt profiles: reads one, and says what it allows.

It knows the part of the language (SBPL, version 1) that profiles of other projects use, and refuses
every operation, filter and combination that it does not know. The last rule that matches decides.
Some operations are not closed by ``(deny default)``, but only by a rule that names them.

Standard library only, since the workers of a Mac made of Python load it, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Form = list  # of words, strings (as Text), patterns and forms

_FAMILIES = {
    "file-read": "data metadata xattr",
    "file-write": "acl create data flags mode mount owner setugid times umount unlink xattr",
    "file-issue-extension": "",
    "process-exec": "interpreter",
    "process-info": "codesignature dirtycontrol listpids pidfdinfo pidinfo rusage setcontrol",
    "network": "bind inbound outbound",
    "sysctl": "read write",
    "mach": "lookup register priv-task-port task-name cross-domain-lookup issue-extension",
    "ipc-posix-shm": "read-data read-metadata write-create write-data write-unlink",
    "ipc-posix-sem": "create open post unlink wait",
    "ipc-sysv": "msg sem shm",
    "iokit": "open get-properties set-properties",
    "system": "socket fsctl info fcntl audit swap suspend-resume",
    "user-preference": "read write",
}
_SINGLE = """
    file-map-executable file-test-existence file-link file-clone file-ioctl file-chroot file-mknod
    file-search process-fork signal pseudo-tty lsopen job-creation appleevent-send
    dynamic-code-generation syscall-unix syscall-mach syscall-mig
"""
OPERATIONS = frozenset(_SINGLE.split()) | {
    name
    for stem, ends in _FAMILIES.items()
    for name in (stem, *(f"{stem}-{e}" for e in ends.split()))
}
# Open until a rule names them.
_APART = ("syscall-", "process-info", "system-fcntl", "dynamic-code-generation")
_FILES = ("file-", "process-exec", "network", "ipc-posix")


class ProfileError(Exception):
    """The text is not a profile; the message says why."""


class Text(str):
    """A string of the profile, as opposed to a word."""


class Pattern(str):
    """A regular expression of the profile."""


class Rule(NamedTuple):
    """One rule: what it does, for which operations, and under which conditions (any of them)."""

    allows: bool
    names: tuple[str, ...]
    conditions: tuple[Form, ...]

    def concerns(self, operation: str) -> bool:
        return any(_covers(name, operation) for name in self.names)

    def holds(self, facts: Mapping[str, Any]) -> bool:
        return not self.conditions or any(_holds(one, facts) for one in self.conditions)


class Profile:
    """A profile that has been read. Raises ProfileError."""

    def __init__(self, text: str) -> None:
        forms = parse(text)
        if not forms or forms[0] != ["version", "1"]:
            raise ProfileError("a profile begins with (version 1)")
        self.rules = [_rule(form) for form in forms[1:]]
        self._last_first: dict[str, list[Rule]] = {}  # by operation

    def allows(self, operation: str, **facts: Any) -> bool:
        """What the profile says of an operation. Facts are ``path``, ``target`` (of signals and
        questions about processes: self, children, others), ``name`` (of a sysctl or a service) and
        ``number`` (of a system call, as its name).
        """
        if operation not in self._last_first:
            if operation not in OPERATIONS:
                raise ProfileError(f"no operation {operation}")
            concerned = [rule for rule in self.rules if rule.concerns(operation)]
            self._last_first[operation] = concerned[::-1]
        for rule in self._last_first[operation]:
            if rule.holds(facts):
                return rule.allows
        return operation.startswith(_APART)


def settled(profile: Profile, operation: str, path: str) -> bool:
    """What a profile says of a path, however rules are chosen.

    Others tell that the rule with the longest path decides, or that rules that name the operation
    itself go before those for its class. Fails if these come to something else.
    """
    found = [(False, -1, operation.startswith(_APART))]
    for rule in profile.rules:
        if rule.concerns(operation) and rule.holds({"path": path}):
            hits = [_length(c) for c in rule.conditions if _holds(c, {"path": path})]
            found.append((operation in rule.names, max(hits, default=-1), rule.allows))
    last = found[-1][2]
    # max takes the first of equals, and a later rule goes before an earlier one
    longest = max(reversed(found), key=lambda entry: entry[1])[2]
    named = max(reversed(found), key=lambda entry: entry[0])[2]
    assert longest == named == last, f"{operation} {path} depends on how rules are chosen"
    return last


def _length(condition: Form) -> int:
    return max(map(len, strings(condition)), default=-1)


# --- reading ---

_TOKEN = re.compile(r'(?:\s|;[^\n]*)*(?:([()])|(#?)"((?:[^"\\]|\\.)*)"|([^\s()";]+)|$)', re.DOTALL)


def parse(text: str) -> list[Form]:
    """The forms of a text. Raises ProfileError for anything but balanced forms."""
    stack: list[Form] = [[]]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ProfileError(f"not a token: {text[position : position + 40]!r}")
        position = match.end()
        bracket, raw, string, word = match.groups()
        if bracket == "(":
            stack.append([])
        elif bracket == ")":
            if len(stack) == 1:
                raise ProfileError("a bracket closes nothing")
            done = stack.pop()
            stack[-1].append(done)
        elif string is not None:
            plain = Pattern(string) if raw else Text(re.sub(r"\\(.)", r"\1", string))
            stack[-1].append(plain)
        elif word is not None:
            stack[-1].append(word)
    if len(stack) > 1:
        raise ProfileError("a bracket is not closed")
    if not all(isinstance(form, list) and form for form in stack[0]):
        raise ProfileError("a word outside of every form")
    return stack[0]


def strings(form: object) -> Iterator[Text]:
    """All strings in a form."""
    if isinstance(form, Text):
        yield form
    elif isinstance(form, list):
        for part in form:
            yield from strings(part)


def shape(form: object) -> object:
    """The form with its strings taken out."""
    if isinstance(form, Text):
        return Text
    return [shape(part) for part in form] if isinstance(form, list) else form


def _rule(form: Form) -> Rule:
    verb, *rest = form
    if verb not in ("allow", "deny"):
        raise ProfileError(f"no rule: {form}")
    names = tuple(part for part in rest if isinstance(part, str))
    conditions = tuple(part for part in rest if isinstance(part, list) and part[0] != "with")
    if not names:
        raise ProfileError(f"a rule without an operation: {form}")
    for name in names:
        if name != "default" and not any(_covers(name, one) for one in OPERATIONS):
            raise ProfileError(f"no operation {name}")
        for condition in conditions:
            _check(condition, name)
    return Rule(verb == "allow", names, conditions)


def _covers(name: str, operation: str) -> bool:
    if name == "default":
        return not operation.startswith(_APART)
    return name == operation or (name.endswith("*") and operation.startswith(name[:-1]))


# --- filters ---


def _literal(values: Form, facts: Mapping[str, Any]) -> bool:
    return facts.get("path") in values


def _subpath(values: Form, facts: Mapping[str, Any]) -> bool:
    path = facts.get("path", "")
    return any(path == value or path.startswith(value.rstrip("/") + "/") for value in values)


def _regex(values: Form, facts: Mapping[str, Any]) -> bool:
    return any(re.search(value, facts.get("path", "")) for value in values)


def _fact(name: str) -> Callable[[Form, Mapping[str, Any]], bool]:
    return lambda values, facts: facts.get(name) in values


def _prefix(values: Form, facts: Mapping[str, Any]) -> bool:
    return any(facts.get("name", "").startswith(value) for value in values)


# How each filter decides, what its values are, and the operations that it belongs to.
_FILTERS: dict[str, tuple[Callable[[Form, Mapping[str, Any]], bool], type, tuple[str, ...]]] = {
    "literal": (_literal, Text, _FILES),
    "subpath": (_subpath, Text, _FILES),
    "regex": (_regex, Pattern, _FILES),
    "target": (_fact("target"), str, ("signal", "process-info", "mach-priv-task-port")),
    "sysctl-name": (_fact("name"), Text, ("sysctl",)),
    "sysctl-name-prefix": (_prefix, Text, ("sysctl",)),
    "global-name": (_fact("name"), Text, ("mach",)),
    "syscall-number": (_fact("number"), str, ("syscall-unix",)),
}
_JOINING = ("require-all", "require-any", "require-not")


def _check(condition: Form, operation: str) -> None:
    kind, *values = condition
    if kind in _JOINING:
        if not values or not all(isinstance(value, list) for value in values):
            raise ProfileError(f"{kind} joins filters")
        for value in values:
            _check(value, operation)
        return
    if kind not in _FILTERS:
        raise ProfileError(f"no filter {kind}")
    _, form, belongs_to = _FILTERS[kind]
    if not operation.startswith(belongs_to):
        raise ProfileError(f"{kind} is no filter of {operation}")
    if not values or not all(type(value) is form for value in values):
        raise ProfileError(f"not a value of {kind}: {values}")
    if kind in ("literal", "subpath") and not all(value.startswith("/") for value in values):
        raise ProfileError(f"a relative path: {values}")


def _holds(condition: Form, facts: Mapping[str, Any]) -> bool:
    kind, *values = condition
    if kind == "require-all":
        return all(_holds(value, facts) for value in values)
    if kind == "require-any":
        return any(_holds(value, facts) for value in values)
    if kind == "require-not":
        return not any(_holds(value, facts) for value in values)
    return _FILTERS[kind][0](values, facts)
