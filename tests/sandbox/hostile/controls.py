"""Honest programs beside each theme: what a sandbox that blocks too much would fail.

Rows are like attacks; their label opens with the theme instead of a number.
"""

from __future__ import annotations

from dataclasses import replace

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import (
    ALL_STYLES,
    ERROR,
    FAIL,
    PASS,
    USUAL,
    Attack,
    body,
    children,
    one_of,
)


def _right(label: str, *lines: str, answer: str = "1") -> Attack:
    return Attack(label, body(*lines), PASS, ALL_STYLES, answer=answer)


_CLASSES = """
import abc, dataclasses, enum, typing
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 2
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...
class Square(Shape):
    def __init__(self, side): self.side = side
    def area(self): return self.side ** 2
    def __eq__(self, other): return isinstance(other, Square) and self.side == other.side
    def __hash__(self): return hash(self.side)
class Pair(typing.NamedTuple):
    a: int
    b: str
def f():
    pair = Pair(1, 'b')
    assert Point(1) < Point(2) and Square(2) == Square(2) and len({Square(1), Square(1)}) == 1
    return [Colour.RED.value, Point(1).y, Square(3).area(), pair.b, list(pair)]
"""

_SCRATCH = """
import glob, os, pathlib, shutil, tempfile
def f():
    with open('a.txt', 'w') as file: file.write('one')
    os.makedirs('d/e')
    shutil.copy('a.txt', 'd/e/b.txt')
    os.rename('d/e/b.txt', 'd/c.txt')
    os.symlink('a.txt', 'link')
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b'x'); file.flush()
        size = os.path.getsize(file.name)
    os.environ['MINE'] = 'yes'
    found = sorted(glob.glob('**/*.txt', recursive=True))
    text = pathlib.Path('link').read_text() + open('d/c.txt').read()
    shutil.rmtree('d'); os.remove('a.txt')
    with tempfile.TemporaryFile() as file: file.write(b'y')
    return found, text, size, os.path.expanduser('~') == os.environ['HOME']
"""

_MODULES = """
import array, base64, bisect, calendar, cmath, collections, configparser, contextlib, copy, csv
import datetime, decimal, difflib, email, enum, fractions, functools, gzip, hashlib, heapq, hmac
import html, inspect, io, ipaddress, itertools, json, locale, logging, lzma, math, numbers, operator
import pickle, platform, pprint, queue, random, re, secrets, select, shlex, sqlite3, statistics
import string, struct, textwrap, time, timeit, traceback, typing, unicodedata, unittest, uuid, zlib
import asyncio, concurrent.futures, ctypes, email.message, importlib, multiprocessing, socket, ssl
import subprocess, urllib.parse, urllib.request, xml.etree.ElementTree, zipfile, zoneinfo
def f():
    with sqlite3.connect(':memory:') as base:
        row = base.execute('select 1 + 2').fetchone()
    assert pickle.loads(pickle.dumps({'a': [1]})) == {'a': [1]}
    assert gzip.decompress(gzip.compress(b'x')) == lzma.decompress(lzma.compress(b'x')) == b'x'
    assert next(csv.reader(io.StringIO('a,b'))) == ['a', 'b']
    assert xml.etree.ElementTree.fromstring('<a b="c"/>').get('b') == 'c'
    assert datetime.date(2020, 2, 28) + datetime.timedelta(2) == datetime.date(2020, 3, 1)
    assert decimal.Decimal('0.1') * 3 == decimal.Decimal('0.3')
    assert locale.localeconv()['decimal_point'] == '.'
    return row[0], hashlib.sha256(b'').hexdigest()[:6]
"""

_POOLS = """
import queue, threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.dummy import Process
def f():
    box = queue.Queue()
    lock, total = threading.Lock(), [0]
    def add(n):
        with lock: total[0] += n
    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    process = Process(target=box.put, args=(4,))
    process.start(); process.join()
    with ThreadPoolExecutor(4) as pool:
        squares = list(pool.map(lambda x: x * x, range(5)))
    threading.Timer(0.01, box.put, (5,)).start()
    return total[0], box.get(), box.get(), squares
"""

_ASYNC = """
import asyncio
async def twice(x):
    await asyncio.sleep(0.001)
    return 2 * x
async def main():
    return await asyncio.gather(*(twice(i) for i in range(3))), await asyncio.wait_for(twice(5), 1)
def f(): return asyncio.run(main())
"""

_STREAMS = """
import contextlib, io, sys
def f():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print('caught')
    print('seen', file=sys.stderr)
    kept, sys.stdout = sys.stdout, io.StringIO()
    print('also caught')
    sys.stdout = kept
    return out.getvalue()
"""

_INTROSPECTION = """
import gc, inspect, sys, traceback, weakref
class C: pass
def f():
    x = C()
    seen = weakref.ref(x)
    del x
    gc.collect()
    try: [][0]
    except IndexError as error: line = traceback.format_exception_only(type(error), error)[0]
    assert sys._getframe().f_code.co_name == 'f'
    return seen() is None, line, list(inspect.signature(f).parameters)
"""

CONTROLS = (
    _right("processes: a thread", "import threading", "r = []",
           "t = threading.Thread(target=r.append, args=(1,), daemon=True)", "t.start(); t.join()",
           "return r[0]"),
    Attack("processes: pools of threads", _POOLS, PASS, ALL_STYLES,
           answer="(28, 4, 5, [0, 1, 4, 9, 16])"),
    Attack("processes: asyncio", _ASYNC, PASS, ALL_STYLES, answer="([0, 2, 4], 10)"),
    Attack("processes: multiprocessing.dummy's pool, which wants a semaphore, does not hang",
           "from multiprocessing.dummy import Pool\n"
           "def f():\n    with Pool(2) as pool: return pool.map(abs, [-1, 2])\n",
           one_of(Status.PASS, Status.ERROR), answer="[1, 2]"),
    Attack("processes: a child is refused with a reason",
           body("import subprocess", "return subprocess.run(['/bin/true']).returncode"), ERROR,
           ALL_STYLES, shielded=True, detail="Error: [Errno"),
    Attack("processes: a child where some are allowed", """
import os
def f(n):
    for i in range(n):
        if os.fork() == 0: os._exit(i)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == i
    return n
""", PASS, ALL_STYLES, args="(3,)", answer="3", limits=children(2)),
    Attack("processes: subprocess where some are allowed", body(
        "import subprocess", "return subprocess.run(['/bin/echo', 'a'], capture_output=True,"
        " text=True).stdout"), PASS, answer="'a\\n'", limits=children(3)),
    _right("time: sleeps a little", "import time", "t = time.monotonic()", "time.sleep(0.05)",
           "return int(time.monotonic() - t >= 0.05)"),
    _right("time: a regex", "import re",
           "return re.findall(r'(?:a|b)+?(\\d+)', 'ab12 b3' * 2)", answer="['12', '3', '12', '3']"),
    _right("time: an alarm of its own", "import signal", "hits = []",
           "signal.signal(signal.SIGALRM, lambda *_: hits.append(1))",
           "signal.setitimer(signal.ITIMER_REAL, 0.01)", "signal.pause()", "return hits[0]"),
    _right("time: catches BaseException", "import sys", "try: sys.exit(3)",
           "except BaseException as error: return error.code", answer="3"),
    Attack("time: stdin", "import sys\nn = int(input())\nfor line in sys.stdin: n += int(line)\n"
           "print(n)", PASS, ("program",), stdin="1\n2\n3", stdout="6\n"),
    Attack("time: stdin, all of it", "print(sum(map(int, open(0).read().split())))", PASS,
           ("program",), stdin="1 2\n3\n", stdout="6"),
    Attack("time: stdin, a long one", "print(len(input()))", PASS, ("program",),
           stdin="x" * 300_000, stdout="300000\n"),
    Attack("time: input at the end of stdin", """
total = 0
while True:
    try: total += int(input())
    except EOFError: break
print(total)
""", PASS, ("program",), stdin="1\n2\n", stdout="3\n"),
    _right("memory: a hundred megabytes", "return len(bytearray(100 << 20)) >> 20", answer="100"),
    _right("memory: catches MemoryError", "try: return len('a' * (1 << 40))",
           "except MemoryError: return 1"),
    _right("memory: recursion", "def down(n): return 0 if n == 0 else 1 + down(n - 1)",
           "return down(800)", answer="800"),
    _right("memory: deep recursion", "import sys", "sys.setrecursionlimit(6000)",
           "def down(n): return 0 if n == 0 else 1 + down(n - 1)", "return down(5000)",
           answer="5000"),
    _right("memory: catches RecursionError", "try: return f()", "except RecursionError: return 1"),
    _right("memory: large integers", "return 2 ** 10_000 % (10 ** 9 + 7), (3 ** 2000) // 3 ** 1999",
           answer="(905611805, 3)"),
    Attack("memory: a large integer as the answer", body("return 2 ** 10_000"), PASS,
           answer=str(2**10_000)),
    _right("memory: long text", "return len('x' * 10 ** 7)", answer="10000000"),
    Attack("memory: unusual text", body("return 'é\\n\\t\\x00\\U0001f600' + chr(0x202e)"), PASS,
           ALL_STYLES, answer="'é\\n\\t\\x00\\U0001f600\\u202e'",
           stdout="'é\\n\\t\\x00\U0001f600\\u202e'\n"),
    Attack("files: the scratch", _SCRATCH, PASS, ALL_STYLES,
           answer="(['a.txt', 'd/c.txt'], 'oneone', 1, True)"),
    Attack("files: a program that reads what it wrote",
           "with open('x', 'w') as file: print('a b', file=file)\nprint(open('x').read().split())",
           PASS, ("program",), stdout="['a', 'b']\n"),
    _right("files: /dev/null and the time zone", "import datetime, time",
           "open('/dev/null', 'w').write('x')", "time.tzset()",
           "return datetime.datetime(2020, 1, 1).isoformat()", answer="'2020-01-01T00:00:00'"),
    Attack("files: the standard library", _MODULES, PASS, ALL_STYLES, answer="(3, 'e3b0c4')",
           limits=replace(USUAL, wall_s=6, cpu_s=4)),
    _right("network: a pair of sockets in the process", "import socket",
           "a, b = socket.socketpair()", "a.sendall(b'x' * 100)", "return len(b.recv(200))",
           answer="100"),
    _right("network: addresses without a network", "import ipaddress, urllib.parse",
           "return urllib.parse.urlparse('http://a/b').path + str(ipaddress.ip_address(1))",
           answer="'/b0.0.0.1'"),
    Attack("network: is refused with a reason",
           body("import socket", "socket.create_connection(('127.0.0.1', @TCP@), 1)"), ERROR,
           ALL_STYLES, shielded=True, detail="rror: "),
    Attack("output: streams put in each other's place", _STREAMS, PASS, ALL_STYLES,
           answer="'caught\\n'"),
    Attack("output: prints beside its answer", "def f():\n    print('hello')\n    return 1", PASS,
           ALL_STYLES, stdout="hello\n1\n"),
    Attack("output: up to its limit", "print('x' * 16_000)", PASS, ("program",),
           stdout="x" * 16_000 + "\n"),
    Attack("output: writes on descriptor 1", "import os\nos.write(1, b'1\\n')", PASS, ("program",)),
    Attack("exits: a program that ends by sys.exit", "import sys\nprint(1)\nsys.exit(0)", PASS,
           ("program",)),
    Attack("exits: a program that ends by exit(None)", "print(1)\nexit()", PASS, ("program",)),
    Attack("exits: a program that fails", "import sys\nprint(1)\nsys.exit('no')", ERROR,
           ("program",)),
    Attack("exits: atexit", "import atexit\natexit.register(print, 1)", PASS, ("program",)),
    Attack("exits: under __main__", "if __name__ == '__main__':\n    print(1)", PASS, ("program",)),
    Attack("judgement: classes", _CLASSES, PASS, ALL_STYLES,
           answer="[1, 2, 9, 'b', [1, 'b']]"),
    Attack("judgement: its own frames and garbage", _INTROSPECTION, PASS, ALL_STYLES,
           answer="(True, 'IndexError: list index out of range\\n', [])"),
    _right("judgement: names that hide builtins", "len = max = sum = 3", "return len + max + sum",
           answer="9"),
    Attack("judgement: an own sorted at the top",
           "def sorted(x): return list(reversed(x))\ndef f(): return sorted([1, 2])", PASS,
           ALL_STYLES, answer="[2, 1]"),
    Attack("judgement: several functions",
           "def add(a, b): return a + b\ndef twice(x): return add(x, x)\nf = lambda: twice(4)",
           PASS, ALL_STYLES, answer="8"),
    Attack("judgement: check of HumanEval",
           "from typing import List\ndef f(x: List[int]) -> int:\n    return sum(x)", PASS,
           ("tests",), tests="METADATA = {}\ndef check(candidate):\n"
           "    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0, 'empty'\n"
           "    assert abs(candidate([0.1, 0.2]) - 0.3) < 1e-6\n    assert True\ncheck(f)"),
    Attack("judgement: the same, wrong", "def f(x):\n    return len(x)", FAIL, ("tests",),
           tests="def check(candidate):\n    assert candidate([1, 2]) == 3\ncheck(f)"),
    Attack("judgement: asserts about exceptions", "def f(x):\n    raise ValueError(x)", PASS,
           ("tests",), tests="try:\n    f(1)\n    assert False\nexcept ValueError as error:\n"
           "    assert str(error) == '1'"),
    Attack("judgement: asserts about kinds", "def f(x): return (x, [x])", PASS, ("tests",),
           tests="assert isinstance(f(1), tuple)\nassert type(f(1)[1]) is list\n"
           "assert all(f(i)[0] == i for i in range(4))\nassert sorted(f(2)[1]) == [2]"),
    Attack("judgement: asserts with math", "def f(x): return x ** 0.5", PASS, ("tests",),
           tests="import math\nassert math.isclose(f(2.0), 1.41421356, rel_tol=1e-6)\n"
           "assert round(f(3.0), 2) == 1.73"),
    Attack("judgement: asserts about True, 1 and 1.0", "def f(x): return x", PASS, ("tests",),
           tests="assert f(True) == 1\nassert f(1.0) == 1\nassert f(0) == False\n"
           "assert f((1, 2)) != [1, 2]\nassert f(1) is not None\nassert not f('')"),
    Attack("judgement: asserts about objects",
           "from collections import Counter, OrderedDict, deque\n"
           "kinds = {'c': Counter('aab'), 'o': OrderedDict(a=1), 'd': deque([1])}\n"
           "f = kinds.get", PASS, ("tests",),
           tests="assert f('c') == {'a': 2, 'b': 1}\nassert f('o') == {'a': 1}\n"
           "assert list(f('d')) == [1]"),
    Attack("determinism: sets are values", body("return {'alpha', 'beta', 'gamma', 'delta'}"),
           PASS, answer="{'beta', 'alpha', 'delta', 'gamma'}", deterministic=True),
    Attack("determinism: seeded", body(
        "import random", "r = random.Random(3)", "random.seed(4)",
        "return r.random() == random.Random(3).random(), random.random() == "
        "random.Random(4).random()"), PASS, answer="(True, True)", deterministic=True),
    Attack("determinism: dates that are given", body(
        "import datetime", "return datetime.date(2020, 2, 28).isoformat()"), PASS,
        answer="'2020-02-28'", deterministic=True),
    Attack("determinism: sorted", body("return sorted({'b', 'a', 'c'}), len({1, 2})"), PASS,
           ("call", "program"), answer="(['a', 'b', 'c'], 2)", deterministic=True),
    Attack("determinism: hashes of numbers", body("return hash(3), hash(2.0), hash((1, 2)) % 1"),
           PASS, answer="(3, 2, 0)", deterministic=True),
    Attack("determinism: an error is one every time", body("return 1 / 0"),
           one_of(Status.ERROR), deterministic=True, detail="ZeroDivisionError"),
)  # fmt: skip
