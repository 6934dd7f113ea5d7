# ruff: noqa: E501
"""Programs whose value is not settled by their input: none of them may become a task, since whoever
answers it would be paid by the toss of a coin."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from azr_mlx.config import SandboxConfig
from azr_mlx.sandbox import Job, JobBatch, Result, Sandbox, jail
from azr_mlx.tasks.gate import Draft, gate
from azr_mlx.tasks.parse import Proposal, check_program, clean_source, parse_proposal
from azr_mlx.types import TaskKind
from tests.conftest import SHARED

pytestmark = pytest.mark.sandbox

WORDS = "{'ab', 'cd', 'ef', 'gh'}"
# name: (program, input)
PROGRAMS: dict[str, str] = {
    # clocks
    "now": "import datetime\ndef f(x):\n    return x + datetime.datetime.now().second % 2",
    "today": "import datetime\ndef f(x):\n    return x + datetime.date.today().day % 2",
    "today by another name": "from datetime import date as d\ndef f(x):\n    return x + d.today().day % 2",
    "now by text": "import datetime\ndef f(x):\n    return getattr(datetime.datetime, 'n' + 'ow')().second % 2",
    "a clock by way of dataclasses": "import dataclasses\ndef f(x):\n    t = dataclasses.inspect.importlib.import_module('time')\n    return x + int(t.clock_gettime(0)) % 2",
    "inspect from dataclasses": "from dataclasses import inspect\ndef f(x):\n    return x + int(inspect.importlib.import_module('time').time()) % 2",
    "a module by another name": "import dataclasses as d\ndef f(x):\n    e = d\n    return int(e.inspect.importlib.import_module('time').time()) % 2",
    "a module by text": "import dataclasses\ndef f(x):\n    return getattr(getattr(dataclasses, 'inspect'), 'importlib') and x",
    "globals of a function": "import dataclasses\ndef f(x):\n    return dataclasses.dataclass.__globals__['inspect'] and x",
    "attrgetter": "import operator, dataclasses\ndef f(x):\n    return operator.attrgetter('inspect.importlib')(dataclasses) and x",
    "methodcaller": "import operator\ndef f(x):\n    return operator.methodcaller('__getattribute__', '__globals__')(f) and x",
    "a formatter": "import string\ndef f(x):\n    return string.Formatter().get_field('0.__globals__', (f,), {})[0] and x",
    "a pattern": "import dataclasses\ndef f(x):\n    match dataclasses:\n        case object(inspect=i):\n            return int(i.importlib.import_module('time').time()) % 2\n    return 0",
    "hints": "import typing\ndef f(x):\n    def g(a: '__import__(\"time\").time()'): pass\n    return typing.get_type_hints(g)['a'] % 2 > 1",
    "sys of enum": "import enum\ndef f(x):\n    return enum.sys.modules['time'].time() // 1 % 2",
    "os of another": "import statistics\ndef f(x):\n    return statistics.random.random() < 0.5",
    "codecs of json": "import json\ndef f(x):\n    return json.codecs.sys.modules['time'].time() // 1 % 2",
    "import by name": "def f(x):\n    return __import__('time').time() // 1 % 2",
    "import of time": "import time\ndef f(x):\n    return time.time() // 1 % 2",
    "import inside": "def f(x):\n    import random\n    return random.random() < 0.5",
    "builtins": "def f(x):\n    return __builtins__ and x",
    "dict of a class": "def f(x):\n    return f.__class__.__dict__['__globals__'].__get__(f)['__builtins__'] and x",
    "loader": "def f(x):\n    return __loader__ and x",
    "subclasses": "def f(x):\n    return len(object.__subclasses__()) % 2",
    # hashes and the order of sets
    "the first of two words": "def f(x):\n    return next(iter({'a', 'b'}))",
    "the last of two words": "def f(x):\n    return list({'left', 'right'})[-1]",
    "a set of words": f"def f(x):\n    return list({WORDS})",
    "pop": f"def f(x):\n    return {WORDS}.pop()",
    "frozenset": "def f(x):\n    return tuple(frozenset(['n', 'y']))",
    "set of a text": "def f(x):\n    return ''.join(set(x))",
    "a comprehension": "def f(x):\n    return [c for c in {c for c in x}][0]",
    "a set in a loop": "def f(x):\n    out = ''\n    for c in set(x):\n        out += c\n    return out",
    "the first of a difference": "def f(x):\n    return list(set(x) - {'a'})[0]",
    "keys as sets": "def f(x):\n    a = dict.fromkeys(x)\n    b = dict.fromkeys(x + 'z')\n    return list(a.keys() & b.keys())",
    "items as sets": "def f(x):\n    a = {c: 1 for c in x}\n    return list(a.items() | {'q': 1}.items())[0]",
    "max of a set by length": f"def f(x):\n    return max({WORDS}, key=len)",
    "hash of a word": "def f(x):\n    return hash(x) % 2",
    "hash of bytes": "def f(x):\n    return hash(x.encode()) & 1",
    "hash of a tuple": "def f(x):\n    return hash((x, 1)) % 3 == 0",
    "hash by method": "def f(x):\n    return x.__hash__() % 2",
    "sorted by hash": "def f(x):\n    return sorted(x, key=hash)",
    "an enumeration's set": "import enum\nclass C(enum.Enum):\n    R = 1\n    G = 2\ndef f(x):\n    return [c.name for c in {C.R, C.G}]",
    "a counter of a set": "import collections\ndef f(x):\n    return collections.Counter(list(set(x))).most_common(1)[0][0]",
    "zip of a set": "def f(x):\n    return dict(zip(set(x), range(9)))['a']",
    "a set in a text": "def f(x):\n    return str(set(x))",
    "star of a set": "def f(x):\n    a, *_ = set(x)\n    return a",
    "a set by union": "def f(x):\n    s = set().union(x)\n    return [*s][1]",
    # addresses
    "repr of a function": "def f(x):\n    return repr(f)",
    "a digit of an address": "def f(x):\n    return str(lambda: 0)[-6]",
    "an address by format": "def f(x):\n    return f'{object()}'",
    "an object's hash": "def f(x):\n    return hash(object()) % 7",
    "a class of its own": "class C:\n    pass\ndef f(x):\n    return str(C())",
    "an object in a set": "class C:\n    def __init__(self, n):\n        self.n = n\ndef f(x):\n    return [c.n for c in {C(1), C(2), C(3), C(4), C(5)}]",
    "a map as a text": "def f(x):\n    return str(map(str, x))",
    "a generator's text": "def f(x):\n    return str(c for c in x)[-5:-1]",
    "id": "def f(x):\n    return id(x) // 16 % 2",
    "id by another name": "g = id\ndef f(x):\n    return g(x) // 16 % 2",
    "a bound method's text": "def f(x):\n    return repr(x.upper)",
    "sorted by address": "class C:\n    def __init__(self, n):\n        self.n = n\ndef f(x):\n    return [c.n for c in sorted([C(1), C(2), C(3)], key=hash)]",
    # files and streams
    "a file's time": "def f(x):\n    open('a', 'w').close()\n    return 1",
}


BYPASSES = [
    "def g(__import__):\n    return 0\ndef f(x):\n    return int(__import__('time').time()) % 7",
    "h = lambda __import__: 0\ndef f(x):\n    return int(__import__('time').time()) % 7",
    "def f(x, eval=eval):\n    return eval('__import__(\"time\").time() // 86400 % 2')",
    "def g(exec):\n    return 0\ndef f(x):\n    d = {}\n    exec('r = 1', d)\n    return d['r']",
    "import datetime\ntoday = 1\ndef f(x):\n    return datetime.date.today().toordinal() % 100",
    "import datetime\ndef today():\n    pass\ndef f(x):\n    return datetime.date.today().day % 2",
    "import datetime\nclass C:\n    def today(self):\n        pass\ndef f(x):\n    return datetime.date.today().day % 2",
    "import datetime\n__getattribute__ = 1\ndef f(x):\n    return type.__getattribute__(datetime.date, 'to' + 'day')().day",
    "class C:\n    def __getattribute__(self, n):\n        pass\ndef f(x):\n    return type.__getattribute__(f, '__globals__')",
    "id = id\ndef f(x):\n    return id(x) % 7",
    "class C:\n    id = id\ndef f(x):\n    return C.id(x) % 7",
]


@pytest.mark.parametrize("program", BYPASSES)
def test_a_name_that_is_bound_elsewhere_is_still_banned(program: str) -> None:
    assert check_program(program, SandboxConfig().allowed_imports) == "banned"


TIME = "__import__('time').time() % 2 > 1"
ALIKE = "class M(type):\n    def __instancecheck__(c, o):\n        return True\n"
# Ways to what differs from run to run. Where f is not given, it is "def f(x):\n    return x".
WAYS: dict[str, str] = {
    "star of operator": "from operator import *\nimport dataclasses\ndef f(x):\n    return attrgetter('sys.modules')(dataclasses)['posix'].urandom(1)[0] % 2",
    "star, another name": "from operator import *\ng = attrgetter",
    "star inside if": "if 1 < 2:\n    from operator import *\ng = methodcaller",
    "star after an own name": "def attrgetter(x):\n    return x\nfrom operator import *\ndef f(x):\n    return attrgetter('a')(x)",
    "star of typing": f'from typing import *\ndef g(a: "{TIME}"):\n    pass\ndef f(x):\n    return get_type_hints(g)',
    "star of functools": "from functools import *\n@singledispatch\ndef g(a):\n    return a",
    "star of string": "from string import *\nclass A(Formatter):\n    pass",
    "star of dataclasses": "from dataclasses import *\nC = make_dataclass('C', ['a'])",
    "star of enum": "from enum import *\ng = pickle_by_enum_name",
    "star of functools, wraps": "from functools import *\ng = update_wrapper",
    "ForwardRef": f'import typing\ndef f(x):\n    return typing.ForwardRef("{TIME}")._evaluate({{}}, {{}}, frozenset())',
    "ForwardRef by import": f'from typing import ForwardRef as R\ndef f(x):\n    return R("{TIME}")._evaluate({{}}, {{}}, frozenset())',
    "ForwardRef of a list": f'from typing import List\ndef f(x):\n    return List["{TIME}"].__args__[0]._evaluate({{}}, {{}}, frozenset())',
    "ForwardRef by get_args": "from typing import List, get_args\ndef f(x):\n    return get_args(List['1'])[0]",
    "_evaluate as an own name": "class A:\n    def _evaluate(self):\n        pass\ndef f(x):\n    return x._evaluate({}, {}, frozenset())",
    "_eval_type": "import typing\ndef f(x):\n    return typing._eval_type(x, {}, {})",
    "_eval_type by import": "from typing import _eval_type as e\ndef f(x):\n    return e(x, {}, {})",
    "_eval_type by getattr": "import typing\ndef f(x):\n    return getattr(typing, '_eval_type')(x, {}, {})",
    "_create_fn": "import dataclasses\ng = dataclasses._create_fn('g', [], ['import time', 'return time.time()'])",
    "_create_fn as an own name": "import dataclasses\nclass A:\n    def _create_fn(self):\n        pass\ng = dataclasses._create_fn('g', [], [])",
    "an inner name as an own name": "import enum\nclass A:\n    def _make_class_unpicklable(self):\n        pass\ng = enum._make_class_unpicklable",
    "Formatter": "import string, dataclasses\nclass F(string.Formatter):\n    def format_field(self, v, s):\n        T.append(v)\n        return ''\nT = []\ndef f(x):\n    F().format('{0.sys.modules[time].clock_gettime}', dataclasses)\n    return T[0](0) % 2 > 1",
    "update_wrapper": "import dataclasses, functools\nclass O:\n    def __setattr__(self, n, v):\n        T.append(v)\nT = []\ndef f(x):\n    functools.update_wrapper(O(), dataclasses, ('sys',), ())\n    return T[0].modules['posix'].urandom(1)[0] % 2",
    "wraps": "import dataclasses, functools\ng = functools.wraps(dataclasses.dataclass, ('__globals__',), ())",
    "wraps with one argument": "from functools import wraps\nfrom enum import Enum\nclass O:\n    pass\no = wraps(Enum)(O())",
    "wraps by another name": "from functools import wraps as w\ng = w(len, ('__self__',), ())",
    "wraps as a value": "import functools\ng = functools.partial(functools.wraps, len)",
    "_convert_": "import enum\nE = enum.Enum._convert_('E', 'time', lambda n: n == 'clock_gettime')",
    "global_enum": "import enum\n@enum.global_enum\nclass E(enum.Enum):\n    A = 1",
    "getattr of enum": "import enum\ng = enum.pickle_by_enum_name(enum.RegexFlag, 0)[0]",
    "a builtin's module": "def f(x):\n    return len.__self__.eval('1')",
    "a builtin's module by getattr": "def f(x):\n    return getattr(len, '__self__')",
    "a builtin's module by pattern": "def f(x):\n    match len:\n        case object(__self__=b):\n            return b.eval(x)\n    return x",
    "a method's module": "import math\ndef f(x):\n    return math.sqrt.__self__",
    "a generator's frame": "def f(x):\n    g = (i for i in x)\n    return g.gi_frame",
    "a generator's code": "def f(x):\n    g = (i for i in x)\n    return type(f)(g.gi_code, {})",
    "a frame as an own name": "class A:\n    def __init__(self):\n        self.gi_frame = self.f_globals = 1\ndef f(x):\n    return (i for i in x).gi_frame.f_globals",
    "FunctionType": "import dataclasses\nF = dataclasses.FunctionType",
    "a module as a value": "import dataclasses\nm = dataclasses",
    "a module as an argument": "import dataclasses\ndef g(m):\n    return m.x\ndef f(x):\n    return g(dataclasses)",
    "a module in a module": "import typing\ndef f(x):\n    return str(typing.functools)",
    "a module from a module": "from typing import functools\ndef f(x):\n    return [functools]",
    "an own name of a module": "import operator\nclass A:\n    def attrgetter(self):\n        pass\ng = operator.attrgetter('a')",
    "an own name in a module's module": "import typing\nclass A:\n    attrgetter = 1\ng = typing.operator.attrgetter('a')",
    "state of a module": "import dataclasses\nd = dataclasses.__getstate__()",
    "a module's own getattr": "import typing\nd = typing.__getattr__('sys')",
    "cached_property by text": "import functools\nfrom enum import Enum\np = functools.cached_property(len)\np.attrname = 'mro'\ng = p.__get__(Enum)",
    "set_name by text": "import functools\np = functools.cached_property(len)\np.__set_name__(p, 'a' + 'b')",
    "json.tool": "from json import tool\ndef f(x):\n    return tool.Path('/dev/urandom').read_bytes()[0] % 2",
    "json.tool by import": "import json.tool\ndef f(x):\n    return json.tool.Path('/dev/urandom')",
    "a lock": "import functools\ng = functools.RLock()",
    "fields as code": "from dataclasses import dataclass\n@dataclass\nclass C:\n    __annotations__ = {'a=__import__(\"time\")': int}",
    "fields as code, later": "from dataclasses import dataclass\nclass C:\n    pass\nC.__annotations__ = {'a': int}\nC = dataclass(C)",
    "fields as code, added": "from dataclasses import dataclass\n@dataclass\nclass C:\n    b: int\n    __annotations__['a=1'] = int",
    "fields as code, by type": "from dataclasses import dataclass\nC = dataclass(type('C', (), {'__annotations__': {'a': int}}))",
    "fields as code, renamed": "from dataclasses import dataclass, fields\n@dataclass\nclass C:\n    a: int\nfields(C)[0].name = 'b'\n@dataclass\nclass D(C):\n    pass",
    "a pattern by text": ALIKE
    + "class C(metaclass=M):\n    __match_args__ = ('__glo' + 'bals__',)\ndef f(x):\n    match f:\n        case C(g):\n            return g\n    return x",
    "a pattern by literal": "class C:\n    __match_args__ = ('gi_frame',)",
    "a pattern by a named tuple": ALIKE
    + "from collections import namedtuple\nclass C(namedtuple('C', 'gi_frame'), metaclass=M):\n    pass\ndef f(x):\n    match (i for i in x):\n        case C(g):\n            return g\n    return x",
    "an address as a memo": "import copy\ndef f(x):\n    m = {}\n    copy.deepcopy([x], m)\n    return next(iter(m)) // 16 % 2",
    "an address as a memo, by name": "from copy import deepcopy as d\ndef f(x):\n    m = {}\n    d([x], memo=m)\n    return list(m)[0] // 16 % 2",
    "an address in __deepcopy__": "import copy\nclass C:\n    def __deepcopy__(self, memo):\n        return list(memo)\ndef f(x):\n    return copy.deepcopy([C()])[0][0] // 16 % 2",
    "a module in an error": "import dataclasses\ndef f(x):\n    try:\n        dataclasses.nothing\n    except AttributeError as e:\n        m = e.obj\n    return m",
    "a module in a class": "class A:\n    import operator as m\n    def attrgetter(self):\n        pass\ndef f(x):\n    return A.m.attrgetter('a.b')",
    "a module that is changed": "import enum, functools\nenum.EnumMeta.other = functools.cached_property(len)",
    "a class that is changed": "from enum import EnumMeta\nimport functools\nEnumMeta.other = functools.cached_property(len)",
    "fields as code, by a metaclass": "from dataclasses import dataclass\nclass M(type):\n    def __new__(m, n, b, d):\n        return super().__new__(m, n, b, {'__anno' + 'tations__': {'a': int}})\n@dataclass\nclass C(metaclass=M):\n    pass",
    "fields as code, by a metaclass above": "from dataclasses import dataclass\nclass M(type):\n    pass\nB = M('B', (), {})\n@dataclass\nclass C(B):\n    pass",
    "fields as code, by another type": "from dataclasses import dataclass\nT = type(type(1))\nC = dataclass(T('C', (), {'__anno' + 'tations__': {'a': int}}))",
    "fields as code, written by text": "from dataclasses import dataclass\n@dataclass\nclass C:\n    def __init_subclass__(cls):\n        type.__setattr__(cls, '__anno' + 'tations__', {'a': int})\n@dataclass\nclass D(C):\n    pass",
    "fields as code, of another name": "from dataclasses import dataclass as d\ng = d(int)",
    "a pattern by another name of type": "T = type\nM = T('M', (type,), {'__match_' + 'args__': ('__getattr' + 'ibute__',)})\nA = M('A', (), {})\ndef f(x):\n    match A:\n        case M(g):\n            return len(g(f, '__glo' + 'bals__')) > 0\n    return 0",
    "a pattern by a class named int": "T = type\nint = T('M', (type,), {'__match_' + 'args__': ('__getattr' + 'ibute__',)})\nA = int('A', (), {})\ndef f(x):\n    match A:\n        case int(g):\n            return len(g(f, '__glo' + 'bals__')) > 0\n    return 0",
    "a pattern that is set by text": "class M(type):\n    pass\ntype.__setattr__(M, '__match_' + 'args__', ('__getattr' + 'ibute__',))\nA = M('A', (), {})\ndef f(x):\n    match A:\n        case M(g):\n            return len(g(f, '__glo' + 'bals__')) > 0\n    return 0",
    "a field renamed by a copy": "from dataclasses import dataclass, field, fields\nimport copy\nfld = field()\n@dataclass\nclass D:\n    a: int = fld\nclass R:\n    def __reduce_ex__(self, p):\n        return (lambda: fld), (), (None, {'na' + 'me': 'a=1'})\ncopy.copy(R())\n@dataclass\nclass E(D):\n    pass\ndef f(x):\n    return E(1).a",
    "a field renamed by another name of object's method": "from dataclasses import dataclass, field, fields\ns = object.__setattr__\nfld = field()\n@dataclass\nclass D:\n    a: int = fld\ns(fld, 'na' + 'me', 'a=1')\n@dataclass\nclass E(D):\n    pass\ndef f(x):\n    return E(1).a",
    "a field renamed by another name of fields": "from dataclasses import dataclass, fields as fs\n@dataclass\nclass D:\n    a: int\nfs(D)[0].name = 'a=1'\n@dataclass\nclass E(D):\n    pass\ndef f(x):\n    return E(1).a",
    "a field renamed, made by its class": "from dataclasses import dataclass, Field, MISSING\nfld = Field(MISSING, MISSING, True, True, None, True, {}, False)\n@dataclass\nclass D:\n    a: int = fld\nfld.name = 'a=1'\n@dataclass\nclass E(D):\n    pass\ndef f(x):\n    return E(1).a",
    "a field renamed, read in its class": "from dataclasses import dataclass, field\nT = []\n@dataclass\nclass D:\n    a: int = field()\n    T.append(a)\nT[0].name = 'a=1'\n@dataclass\nclass E(D):\n    pass\ndef f(x):\n    return E(1).a",
    "a field renamed, read by the class above": "from dataclasses import dataclass, field\nT = []\nclass B:\n    def __init_subclass__(cls):\n        T.append(cls.a)\n@dataclass\nclass D(B):\n    a: int = field()\nT[0].name = 'a=1'\n@dataclass\nclass E(D):\n    a: int = field()\ndef f(x):\n    return 0",
    "fields as code, set by a metaclass": "from dataclasses import dataclass\nclass M(type):\n    pass\nclass D:\n    pass\nclass Fi:\n    pass\nsuper(M, M).__setattr__(D, '__dataclass_' + 'fields__', {})\n@dataclass\nclass E(D):\n    pass\ndef f(x):\n    return 'RAN' if E() else 0",
    "fields as code, of a base that stands for others": "from dataclasses import dataclass\nfrom typing import TypedDict\ndef T():\n    pass\nT.__mro_entries__ = lambda b: (TypedDict('T', {'a=1': int}),)\n@dataclass(init=True)\nclass D(T):\n    b: int\ndef f(x):\n    return 0",
    "fields as code, of a base in a named tuple": "from dataclasses import dataclass\nfrom collections import namedtuple\nfrom typing import TypedDict\np = namedtuple('P', 'B')(TypedDict('T', {'a=1': int}))\n@dataclass\nclass D(p.B):\n    b: int\ndef f(x):\n    return 0",
    "fields as code, of a base in a property": "from dataclasses import dataclass\nfrom typing import TypedDict\nclass H:\n    @property\n    def B(self):\n        return TypedDict('T', {'a=1': int})\n@dataclass\nclass D(H().B):\n    b: int\ndef f(x):\n    return 0",
    "fields as code, of an exception as a base": "from dataclasses import dataclass\nfrom typing import TypedDict\nclass X(Exception):\n    def __mro_entries__(self, b):\n        return (TypedDict('T', {'a=1': int}),)\ntry:\n    raise X\nexcept X as T:\n    @dataclass\n    class D(T):\n        b: int\ndef f(x):\n    return 0",
    "fields as code, of a generic base": "from dataclasses import dataclass\nfrom typing import TypedDict, Generic, TypeVar\nK = TypeVar('K')\nG = Generic[K]\nG.__mro_entries__ = lambda b: (TypedDict('T', {'a=1': int}),)\n@dataclass\nclass D(Generic[K]):\n    b: int\ndef f(x):\n    return 0",
    "called too early, by a function within": "def g():\n    eval = 1\n    def h():\n        global eval\n        return eval('1')\n    return h()\nT = g()\neval = 3\ndef f(x):\n    return T",
    "in a class of a space that is put into a metaclass": "from enum import Enum\nclass D(dict):\n    def __setitem__(self, k, v):\n        pass\ntype(Enum).__prepare__ = lambda *a: D()\nclass A(Enum):\n    eval = 3\n    T = eval('1')",
    "a module imported for the function around": "def f(x):\n    m = 1\n    def g():\n        nonlocal m\n        import dataclasses as m\n    g()\n    return [m]",
    "a module imported for the function around that": "def f(x):\n    m = 1\n    def g():\n        def h():\n            nonlocal m\n            import dataclasses as m\n        h()\n    g()\n    return [m]",
    "one name of two modules": "import dataclasses as m\ndef f(x):\n    return [m]\ndef g():\n    import math as m",
    "a dataclass by getattr": "import dataclasses\nfrom typing import TypedDict\nT = TypedDict('T', {'a=1': int})\ngetattr(dataclasses, 'dataclass')(T)",
    "a decorator by a known name": "from dataclasses import dataclass\nfrom typing import TypedDict\ndef final(c):\n    return TypedDict('T', {'a=1': int})\n@final\nclass T:\n    pass\n@dataclass\nclass D(T):\n    pass",
    "a module in a lambda, hidden in a default": "import dataclasses\ng = lambda x=(lambda dataclasses: 0): [dataclasses]\ndef f(x):\n    return g()",
    "a module in a comprehension, read in its target": "import dataclasses\nL = [0]\ndef f(x):\n    return [[dataclasses] for L[0 if dataclasses.field else 0] in [1]]",
    "a module by a keyword of an own getattr": "import dataclasses\ndef getattr(a, b, k):\n    return k\ndef f(x):\n    return getattr(x, 'a', k=dataclasses)",
    "a module that is added to": "import dataclasses\nT = []\nclass A:\n    def __radd__(self, o):\n        T.append(o)\ndataclasses += A()\ndef f(x):\n    return T",
    "called too early, by the target of a generator": "def g():\n    return list(1 for a in 'a' for L[eval('0')] in [1])\nL = [0]\nT = g()\neval = 3\ndef f(x):\n    return T",
    "a module in a class that shares it": "import dataclasses\ndef f(x):\n    dataclasses = 1\n    class A:\n        global dataclasses\n        y = [dataclasses]\n    return A.y",
    "a thread's number": "def f(x):\n    return int('{0.__globals__[sys].modules[threading]._main_thread._ident}'.format(f)) // 256 % 2",
    "a thread's number, in pieces": "def f(x):\n    return int(('{0.__glo' + 'bals__[sys].flags}').format(f))",
    "deepcopy by getattr": "import copy\ndef f(x):\n    m = {}\n    getattr(copy, 'deepcopy')([x], m)\n    return list(m)[0] // 16 % 2",
    "an address in another __deepcopy__": "import copy\nclass C:\n    __deepcopy__ = lambda self, memo: list(memo)\ndef f(x):\n    return copy.deepcopy([C()])[0][0] // 16 % 2",
    "an address by __getattr__": "import copy\nclass C:\n    def __getattr__(self, n):\n        return list\ndef f(x):\n    return copy.deepcopy([C()])[0][0] // 16 % 2",
    "a drawn number": "import statistics\ndef f(x):\n    return statistics.NormalDist().samples(1)[0] > 0",
    "a drawn number, no seed": "from statistics import NormalDist as N\ndef f(x):\n    return N().samples(1, seed=None)[0] > 0",
    "a site's printer": "def f(x):\n    license._Printer__filenames = ['/dev/urandom']\n    return repr(license)[0]",
    "a name of Python": "def f(x):\n    return __build_class__",
    # names that are not the program's own when they are read
    "deleted": "eval = 3\ndel eval\ndef f(x):\n    return eval('1')",
    "deleted by a function": "eval = 3\ndef g():\n    global eval\n    del eval\ng()\ndef f(x):\n    return eval('1')",
    "deleted by except": "eval = 3\ntry:\n    1 / 0\nexcept ZeroDivisionError as eval:\n    pass\ndef f(x):\n    return eval('1')",
    "a loop over nothing": "for eval in ():\n    pass\ndef f(x):\n    return eval('1')",
    "a loop over nothing, else": "for eval in ():\n    pass\nelse:\n    T = eval('1')",
    "a loop over an own range": "range = str.split\nfor eval in range(3):\n    pass\ndef f(x):\n    return eval('1')",
    "a loop that f reads": "def f(x):\n    return eval('1')\nfor eval in '':\n    pass",
    "bound too late": "T = eval('1')\neval = 3",
    "called too early": "def g():\n    return eval('1')\nT = g()\neval = 3",
    "called too early, by another": "def f(x):\n    return g(x)\ndef g(x):\n    return eval(x)\nT = f('1')\neval = 3",
    "in a with that passes over errors": "class A:\n    def __enter__(self):\n        pass\n    def __exit__(self, *a):\n        return True\nwith A() as a, A() as (eval, b):\n    pass\ndef f(x):\n    return eval('1')",
    "in one branch": "if len('a') > 3:\n    eval = 1\nelse:\n    pass\ndef f(x):\n    return eval('1')",
    "in a try": "try:\n    1 / 0\n    eval = 3\nexcept ZeroDivisionError:\n    pass\ndef f(x):\n    return eval('1')",
    "in a class of a computed base": "def g(n, b, d):\n    return B\nclass B:\n    pass\n@g\nclass C:\n    pass\nclass A(C):\n    eval = 3\n    T = eval('1')",
    "a decorator calls it": "def now(g):\n    return g()\n@now\ndef eval():\n    return eval('1')",
    "a default": "def eval(x, e=eval):\n    return e(x)",
    "its own value": "eval = [eval][0]",
    "added to": "class A:\n    def __radd__(self, o):\n        return o\neval += A()\ndef f(x):\n    return eval('1')",
    "perhaps": "if len('a') > 3:\n    eval = 1\ndef f(x):\n    return eval('1')",
    "a declaration": "eval: int\ndef f(x):\n    return eval('1')",
    "in a class, too late": "class A:\n    T = eval('1')\n    eval = 3",
    "in a class, not in its methods": "class A:\n    eval = 3\n    def m(self):\n        return eval('1')",
    "in a class, not in its comprehensions": "class A:\n    eval = 3\n    T = [eval('1') for _ in '1']",
    "in a class, a comprehension's": "class A:\n    T = [eval for eval in 'a']\n    U = eval('1')",
    "a comprehension's": "T = [eval for eval in 'a']\ndef f(x):\n    return eval('1')",
    "in a class of another space": "class D(dict):\n    def __setitem__(self, k, v):\n        pass\nclass M(type):\n    def __prepare__(n, b):\n        return D()\nclass A(metaclass=M):\n    eval = 3\n    T = eval('1')",
    "global, too late": "def f(x):\n    global eval\n    y = eval('1')\n    eval = 3\n    return y",
    "global, in another function": "def g():\n    return eval('1')\ndef f(x):\n    y = g()\n    global eval\n    eval = 3\n    return y",
    "a local that never is": "def f(x):\n    return eval('1')\n    eval = 3",
    "an import of itself": "from builtins import eval",
    "a dataclass, two classes below one that is made": "from dataclasses import dataclass\ndef made(c):\n    return c\n@made\nclass A:\n    pass\nclass B(A):\n    pass\nclass C(B):\n    pass\n@dataclass\nclass D(C):\n    x: int",
}


@pytest.mark.parametrize("name", WAYS)
def test_no_text_leads_out_of_a_program(name: str) -> None:
    """By the rules alone: two runs find a coin toss half of the time."""
    program = WAYS[name]
    if "def f(" not in program:
        program += "\ndef f(x):\n    return x"
    draft = Draft(Proposal(program, ("('abc',)",)), TaskKind.DEDUCTION)
    [result] = gate([draft], _NoRunner())
    assert result.reason in ("banned", "import")


class _NoRunner:
    def run(self, jobs: Sequence[Job]) -> list[Result]:
        raise AssertionError("it was to be refused before it ran")

    def batch(self) -> JobBatch:
        raise AssertionError("it was to be refused before it ran")


F = "\ndef f(x):\n    return x"
OWN: dict[str, str] = {
    "a variable": "id = 3\ndef f(x):\n    return id + x",
    "a variable below": "def f(x):\n    return id + x\nid = 3",
    "several": "id, vars = 3, 4\ninput = help = dir = 5\ndef f(x):\n    return id + vars + input + help + dir",
    "with a type": "id: int = 3\ndef f(x):\n    return id + x",
    "counted up": "id = 3\nid += 1\ndef f(x):\n    return id + x",
    "a loop": "T = {}\nfor id in range(3):\n    T[id] = id\ndef f(x):\n    return T",
    "a loop over what is there": "for id in [1, 2]:\n    pass\ndef f(x):\n    return id",
    "a loop, read in it": "for i, id in enumerate('ab'):\n    print(id)\ndef f(x):\n    return x",
    "a range, read later": "for id in range(3):\n    pass\ndef f(x):\n    return id",
    "an import": "import math as id\ndef f(x):\n    return id.sqrt(x)",
    "an import from": "from math import pi as vars\ndef f(x):\n    return vars",
    "compile of re": "from re import compile\ndef f(x):\n    return compile('a').findall(x)",
    "star of re": "from re import *\ndef f(x):\n    return findall('a', x)",
    "global": "def f(x):\n    global id\n    id = x\n    return id",
    "global, with a function": "def f(x):\n    global id\n    id = x\n    def g():\n        return id\n    return g()",
    "global and module": "id = 0\ndef g():\n    global id\n    id = id + 1\ndef f(x):\n    g()\n    return id",
    "a class": "class A:\n    id = 3\n    other = id + 1" + F,
    "a class that inherits": "from enum import Enum\nclass A(Enum):\n    id = 3\n    vars = id + 1"
    + F,
    "a property": "class A:\n    @property\n    def id(self):\n        return 1\n    @id.setter\n    def id(self, v):\n        pass"
    + F,
    "a recursive function": "def help(n):\n    return n and help(n - 1)\ndef f(x):\n    return help(x)",
    "a class by the name": "class vars:\n    def copy(self):\n        return vars()\ndef f(x):\n    return vars()",
    "a star's name": "from operator import *\ndef attrgetter(x):\n    return x\ndef f(x):\n    return attrgetter(x)",
    "deleted in a function": "def f(x):\n    id = x\n    del id\n    return x",
    "futures": "from __future__ import annotations, division\ndef f(x: int) -> int:\n    return x",
    "a future below a docstring": "'''Doc.'''\nfrom __future__ import annotations\nimport math\ndef f(x: A) -> A:\n    return math.pi",
    # what comes near the rules about modules and attributes
    "stars": "from math import *\nfrom typing import *\nfrom collections import *\nfrom itertools import *\ndef f(x: List[int]) -> Optional[int]:\n    return sqrt(len(Counter(x)))",
    "private attributes": "class A:\n    __slots__ = ('_a', '__b', '_cache')\n    def __init__(self):\n        self._a, self.__b, self._cache = 1, 2, {}\n    def _sum(self):\n        return self._a + self.__b\ndef f(x):\n    return A()._sum()",
    "a frozen object": "class A:\n    def __init__(self):\n        object.__setattr__(self, '_a', 1)\ndef f(x):\n    return A()._a",
    "named tuples": "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x):\n    return P(1, 2)._replace(a=3)._asdict()",
    "an enumeration": "from enum import Enum\nclass A(Enum):\n    R = 1\n    @classmethod\n    def _missing_(cls, v):\n        return cls.R\ndef f(x):\n    return A(3)._value_ + len(A.__members__)",
    "special methods": "class A(list):\n    def __init__(self, x):\n        super().__init__(x)\n    def __repr__(self):\n        return self.__class__.__name__\ndef f(x):\n    return repr(A(x)) + type(x).__name__ + x.__add__(x)",
    "functools.wraps": "import functools\ndef d(g):\n    @functools.wraps(g)\n    def h(*a):\n        return g(*a)\n    return h\n@d\ndef f(x):\n    return x",
    "loops of loops": "T = []\nfor i in range(3):\n    for id in range(i):\n        T.append(id)\nfor id in T:\n    print(id)\ndef f(x):\n    for id in x:\n        print(id)\n    return T",
    "comprehensions": "T = [id for id in range(3)] + [1 for dir in {vars for vars in 'a'}]\nclass A:\n    T = [id for id in 'a']\nid = 3\ndef f(x):\n    return id, {id: help for id, help in x}",
    "branches": "if len('a'):\n    id = 3\nelse:\n    id = 4\ndef f(x):\n    return id",
    "with": "from decimal import localcontext\nwith localcontext() as input:\n    input.prec = 3\ndef f(x):\n    return input",
    "a walrus": "T = (id := 3)\ndef f(x):\n    return id",
    "a class of a class": "class B(Exception):\n    pass\nclass A(B):\n    id = 3\n    other = id + 1"
    + F,
    "a decorator's name": "from functools import cache, lru_cache, cached_property, partial, reduce\n@cache\ndef f(x):\n    return x",
    "a named module": "import math, cmath\ndef f(x):\n    return [m.pi for m in (math, cmath)]",
    "a module's name as a variable": "import string\ndef g(string):\n    return [string]\ndef f(x):\n    string = x\n    return g(string) + [string for string in x] + [(lambda string: string)(1)]",
    "getattr of a module": "import math\ndef f(x):\n    return getattr(math, 'sqrt')(x) if hasattr(math, 'sqrt') else math.pi",
    "modules of modules": "import collections.abc\nimport json.decoder\nfrom collections import abc\ndef f(x):\n    return isinstance(x, abc.Sized) or json.decoder.JSONDecodeError",
    "heapq": "import heapq\ndef f(x):\n    heapq._heapify_max(x)\n    return heapq._heappop_max(x)",
    "re": "import re\nP = re.compile(r'(?P<a>\\d)', re.I | re.MULTILINE)\nS = re.Scanner([('a', None)])\ndef f(x):\n    return P.match(x).groupdict()",
    "decimal": "from decimal import *\ngetcontext().prec = 9\ndef f(x):\n    return str(Decimal(x).quantize(Decimal('0.1'), rounding=ROUND_HALF_UP))",
    "dates": "from datetime import datetime, timedelta, timezone\ndef f(x):\n    return datetime(2020, 1, 1, tzinfo=timezone.utc).isoformat() + str(timedelta(1))",
    "deepcopy": "import copy\nclass C:\n    def __deepcopy__(self, memo):\n        return C(copy.deepcopy(self.a, memo))\ndef f(x):\n    return [copy.deepcopy(x), list(map(copy.deepcopy, x))]",
    "samples with a seed": "from statistics import NormalDist\ndef f(x):\n    return NormalDist().samples(2, seed=7)",
    "samples of its own": "class A:\n    def __init__(self):\n        self.samples = []\ndef f(x):\n    return A().samples",
    "a dataclass": "from dataclasses import dataclass, field, asdict, replace, fields\n@dataclass(order=True)\nclass P:\n    a: int\n    b: list = field(default_factory=list)\n    def __post_init__(self):\n        self.a += 1\ndef f(x):\n    return asdict(replace(P(1), a=2)), [n.name for n in fields(P)]",
    "patterns": "from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\nclass Q:\n    __match_args__ = ('a', 'b')\ndef f(x):\n    match x:\n        case P(a) | Q(a, _) | int(a):\n            return a\n    return 0",
    "abstract classes": "from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def g(self): ...\nclass B(A):\n    def g(self):\n        return 1\ndef f(x):\n    return B().g()",
    "typing": "import typing as t\nT = t.TypeVar('T')\nclass S(t.Generic[T]):\n    def __init__(self, a: 't.List[T]'):\n        self._a = a\nclass N(t.NamedTuple):\n    a: int\ndef f(x: t.Union[int, 'S']):\n    return t.cast(int, x)",
    "type of three": "A = type('A', (), {'a': 1})\ndef f(x):\n    return A.a",
    "format": "T = 'a_b: {0.a} {1[0]:>3}. {name}'\ndef f(x):\n    return T.format(x, 'b', name=2) + '{:.2f} {}'.format(1.5, '__')",
    "a missing name": "import math\nfrom typing import Nothing\ndef f(x):\n    return math.nothing(x)",
    "names of objects": "from dataclasses import dataclass, field\n@dataclass\nclass E:\n    name: str\n    tags: list = field(default_factory=list)\nclass B:\n    def __init__(self, name):\n        self.name = name\ndef f(x):\n    e = E(x)\n    e.name = B('b').name\n    return e.name",
    "a generic dataclass": "from dataclasses import dataclass\nfrom typing import Generic, TypeVar\nfrom abc import ABC\nT = TypeVar('T')\nclass B(ABC):\n    def __init__(self, name):\n        self.name = name\n@dataclass(frozen=True)\nclass C(B, Generic[T]):\n    a: int\n    def __post_init__(self):\n        object.__setattr__(self, 'a', type(self.a)(3))\ndef f(x):\n    return C(x).a",
    "a descriptor": "class D:\n    def __set_name__(self, o, n):\n        self._n = n\n    def __get__(self, o, t=None):\n        return 3\nclass A:\n    d = D()\ndef f(x):\n    return A().d",
    "a private class in a class": "class A:\n    class _Node:\n        def __init__(self, v):\n            self.v = v\n    def make(self, v):\n        return self._Node(v)\ndef f(x):\n    return A().make(x).v",
    "a private attribute, from outside": "class _A:\n    def __init__(self):\n        self.__n = 1\ndef f(x):\n    return _A()._A__n",
    "attributes with names of modules": "from enum import Enum\nclass A:\n    def __init__(self):\n        self.os, self.types, self.keyword = 1, 2, 3\n    def random(self):\n        return self.types\ndef f(x):\n    return A().random() + A().os + A().keyword",
    "patterns of many classes": "from abc import ABCMeta\nfrom collections import namedtuple\nfrom typing import NamedTuple\nP = namedtuple('P', 'a b')\nclass Q(NamedTuple):\n    a: int\nclass R(P, metaclass=ABCMeta):\n    pass\nclass S:\n    class T:\n        __match_args__ = ('a',)\ndef f(x):\n    match x:\n        case P(a, _) | Q(a) | R(a, _) | S.T(a):\n            return a\n    return 0",
    "fields and a name": "from dataclasses import dataclass, fields\n@dataclass\nclass C:\n    name: str\ndef f(x):\n    c = C(x)\n    c.name = 'b'\n    return [n.name for n in fields(c)]",
    "a guarded attribute": "class A:\n    def __setattr__(self, name, value):\n        super().__setattr__(name, value + 1)\ndef f(x):\n    a = A()\n    a.b = 3\n    return a.b",
    "a state": "class A:\n    def __getstate__(self):\n        return 3\ndef f(x):\n    return x",
    "many branches": "if len('a') > 3:\n    id = 1\nelif len('a') > 0:\n    id = 0\nelif len('a') > 1:\n    id = 1\nelif len('a') > 2:\n    id = 2\nelse:\n    id = 3\ndef f(x):\n    return id",
}


@pytest.mark.parametrize("name", OWN)
def test_a_program_may_use_what_it_binds_and_what_modules_offer(name: str) -> None:
    program = OWN[name]
    assert check_program(program, SandboxConfig().allowed_imports) is None
    assert check_program(clean_source(program), SandboxConfig().allowed_imports) is None


ID = "id = 3\n" + "def f(x):\n    return id + x\n"
LONG = {
    "branches": "y = 1\nif y:\n    id = 0\n"
    + "elif y:\n    id = 1\n" * 150
    + "else:\n    id = 9\n"
    + ID[7:],
    "functions": "".join(f"def a{i}():a{i + 1}()\n" for i in range(1000))
    + "def a1000():\n    return id\n"
    + ID,
    "classes": "".join(f"class a{i + 1}(a{i}):\n id=1\n z=id\n" for i in range(600)).replace(
        "(a0)", ""
    )
    + F,
    "dataclasses": "from dataclasses import *\n"
    + "".join(f"@dataclass\nclass a{i + 1}(a{i}):pass\n" for i in range(500)).replace("(a0)", "")
    + ID,
}


@pytest.mark.parametrize("name", LONG)
def test_long_programs_are_checked_in_time(name: str) -> None:
    """Twenty branches took half a minute, and a thousand functions more."""
    began = time.process_time()
    assert check_program(LONG[name], SandboxConfig().allowed_imports) is None
    assert time.process_time() - began < 8, "half a second on a machine with nothing else to do"


@pytest.mark.parametrize(
    "program",
    [
        "def f(input):\n    return input + 1",
        "def f(x):\n    id = x + 1\n    return id",
        "def f(x):\n    return [open for open in x]",
        "def f(x):\n    def g():\n        return vars + 1\n    vars = x\n    return g()",
        "def open(x):\n    return x\ndef f(x):\n    return open(x)",
        "class C:\n    def __init__(self):\n        self.f_back = 4\ndef f(x):\n    return C().f_back",
    ],
)
def test_a_name_of_its_own_is_allowed(program: str) -> None:
    assert check_program(program, SandboxConfig().allowed_imports) is None


@pytest.fixture(scope="module", params=["strong", "limits-only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=2, isolation=request.param) as box:
        yield box


def test_none_becomes_a_task(sandbox: Sandbox) -> None:
    assert len(PROGRAMS) == 60
    drafts = [Draft(Proposal(p, ("('abc',)",)), TaskKind.DEDUCTION) for p in PROGRAMS.values()]
    results = gate(drafts, sandbox)
    accepted = [name for name, one in zip(PROGRAMS, results, strict=True) if one.task is not None]
    assert not accepted


HEAP = """
import sys
sys.path.insert(0, {folder!r})
import child
kept, falls = child._scattered({seed}), 0
for size in child._SIZES:
    made = [id(one) for one in [bytes(size - child._HEADER) for _ in range(16)]]
    falls += sum(a > b for a, b in zip(made, made[1:]))
print(falls / 15 / len(child._SIZES), len(kept))
"""


def test_new_objects_fill_a_scattered_heap_in_any_order() -> None:
    """Half of the time the next object lies before the last one. In a heap as it is, hardly ever."""
    folder = str(Path(jail.__file__).parent)
    shares = {}
    for seed in (0, 1, 7):
        code = HEAP.format(folder=folder, seed=seed)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        shares[seed], kept = map(float, done.stdout.split())
        assert bool(kept) == bool(seed)
    assert shares[0] < 0.25 and all(0.35 < shares[seed] < 0.65 for seed in (1, 7)), shares


def test_objects_never_lie_in_the_same_order_in_all_runs(sandbox: Sandbox) -> None:
    """One run in a hundred let it in while objects that are made in turn could lie in turn."""
    given = Draft(Proposal(PROGRAMS["sorted by address"], ("('abc',)",)), TaskKind.DEDUCTION)
    for _ in range(60):
        [result] = gate([given], sandbox)
        assert result.task is None


# Programs that come near the rules, and keep to them.
HONEST: dict[str, str] = {
    "prints": "def f(x):\n    print(x)\n    return x",
    "a set that is sorted": "def f(x):\n    return sorted(set(x))",
    "a set as the value": "def f(x):\n    return set(x)",
    "a set of numbers": "def f(x):\n    return list({len(x), 7, 9})",
    "the size of a set": "def f(x):\n    return len({c for c in x})",
    "membership": "def f(x):\n    return [c for c in x if c in {'a', 'b'}]",
    "keys in common, sorted": "def f(x):\n    return sorted(dict.fromkeys(x).keys() & {'a': 1}.keys())",
    "a class": "class C:\n    def __init__(self, n):\n        self.n = n\ndef f(x):\n    return C(x).n",
    "getattr by name": "def f(x):\n    return getattr(x, 'upper')()",
    "copy of a list": "def f(x):\n    a = list(x)\n    return a.copy()",
    "a parameter named as a module": "import string\ndef f(string):\n    return string.upper()",
    "abc of collections": "import collections.abc\ndef f(x):\n    return isinstance(x, collections.abc.Sized)",
    "a date": "import datetime\ndef f(x):\n    return str(datetime.date(2020, 2, 29))",
    "match": "def f(x):\n    match x:\n        case str():\n            return 1\n    return 0",
    "reduce": "import functools, operator\ndef f(x):\n    return functools.reduce(operator.add, x)",
    "itemgetter": "import operator\ndef f(x):\n    return operator.itemgetter(1)(x)",
    "a dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    n: int\ndef f(x):\n    return P(1).n",
    "str of values": "def f(x):\n    return str([x, 1.5, None])",
}


def test_honest_programs_are_let_in(sandbox: Sandbox) -> None:
    drafts = [Draft(Proposal(p, ("('abc',)",)), TaskKind.DEDUCTION) for p in HONEST.values()]
    results = gate(drafts, sandbox)
    refused = {n: one.reason for n, one in zip(HONEST, results, strict=True) if one.task is None}
    assert not refused


# The rules that a program or an input may break: docs/how-it-works.md.
RULES = {"no_return", "input", "invalid_value", "import", "too_large", "duplicate"}


@pytest.mark.slow
def test_programs_that_a_model_proposed_are_refused_by_the_rules_alone() -> None:
    """What the reference implementation's 3B model proposed for itself, as it was written."""
    folder = SHARED / "azr-seeds"
    if not folder.exists():
        pytest.skip("no AZR triplets in ../shared/data")
    drafts = []
    for name in ("3b_coder_seed_io.jsonl", "3b_coder_code_f_seed_io.jsonl"):
        for line in (folder / name).read_text("utf-8").splitlines()[:120]:
            row = json.loads(line)
            given = row["inputs"][:3] if "inputs" in row else [row["input"]]
            drafts += [_as_written(row["snippet"], text) for text in given]
    with Sandbox(workers=2) as box:
        reasons = Counter(result.reason for result in gate(drafts, box))
    assert len(drafts) > 400 and not reasons.keys() - RULES - {""}, reasons
    assert reasons[""] + reasons["duplicate"] > 0.9 * len(drafts), reasons


def _as_written(program: str, given: str) -> Draft:
    text = f"<answer>\n```python\n{program}\n```\n```input\n{given}\n```\n</answer>"
    return Draft(parse_proposal(text, TaskKind.DEDUCTION, "chat"), TaskKind.DEDUCTION)
