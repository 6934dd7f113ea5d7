# ruff: noqa: E501
"""Programs whose value is not settled by their input: none of them may become a task, since whoever
answers it would be paid by the toss of a coin."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from azr_mlx.config import SandboxConfig
from azr_mlx.sandbox import Sandbox, jail
from azr_mlx.tasks.gate import Draft, gate
from azr_mlx.tasks.parse import Proposal, check_program, parse_proposal
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
