"""46 to 50: values that differ from run to run, as ``deterministic`` jobs."""

from __future__ import annotations

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import Attack, Verdicts, body, one_of

_DIFFERS: Verdicts = one_of(Status.NONDETERMINISTIC)
_WORDS = "{'alpha', 'beta', 'gamma', 'delta', 'eps', 'zeta', 'eta', 'theta', 'iota', 'kappa'}"


def _differs(label: str, *lines: str, **rest: tuple[str, ...]) -> Attack:
    """A value with nothing to compare it with: the two runs alone must tell."""
    return Attack(label, body(*lines), _DIFFERS, **rest, deterministic=True)  # type: ignore[arg-type]


_BOTH = {"styles": ("call", "program")}

DETERMINISM = (
    _differs("46a order of a set", f"return list({_WORDS})", **_BOTH),
    _differs("46b text of a set", "return str({c for c in 'abcdefghijkl'})"),
    _differs("46c first of a set", f"return {_WORDS}.pop()"),
    _differs("46d order of keys from a set", f"return list(dict.fromkeys({_WORDS}))"),
    _differs("46e order of a frozenset", f"return list(frozenset({_WORDS}))"),
    _differs("46f order of what sets leave", f"return list({_WORDS} - {{'alpha', 'beta'}})"),
    _differs("46g joined", f"return ' '.join({_WORDS})"),
    _differs("47a hash of a string", "return hash('x')", **_BOTH),
    _differs("47b hash of bytes", "return hash(b'x') % 1000"),
    _differs("47c hash of a tuple", "return hash(('a', 1))"),
    _differs("47d hash of a date", "import datetime", "return hash(datetime.date(2020, 1, 1))"),
    _differs("47e hash of a function", "return hash(f)"),
    _differs("48a random", "import random", "return random.random()", **_BOTH),
    _differs("48b choice", "import random", "return random.choice(range(10 ** 9))"),
    _differs("48c shuffle", "import random", "x = list(range(20))", "random.shuffle(x)",
             "return x"),
    _differs("48d a generator of its own", "import random", "return random.Random().random()"),
    _differs("48e uuid4", "import uuid", "return str(uuid.uuid4())", **_BOTH),
    _differs("48f uuid1", "import uuid", "return str(uuid.uuid1())"),
    _differs("48g urandom", "import os", "return os.urandom(4)"),
    _differs("48h secrets", "import secrets", "return secrets.token_hex(4)"),
    _differs("48i the device", "return open('/dev/urandom', 'rb').read(4)"),
    _differs("48j name of a temporary file", "import tempfile", "return tempfile.mktemp()"),
    _differs("49a time", "import time", "return time.time()", **_BOTH),
    _differs("49b time in nanoseconds", "import time", "return time.time_ns()"),
    _differs("49c year", "import time", "return time.strftime('%Y')"),
    _differs("49d month", "import datetime", "return datetime.date.today().month"),
    _differs("49e hour", "import datetime", "return datetime.datetime.now().hour"),
    _differs("49f hour elsewhere", "import datetime",
             "return datetime.datetime.now(datetime.timezone.utc).hour"),
    _differs("49g monotonic", "import time", "return time.monotonic_ns()"),
    _differs("49h performance counter", "import time", "return time.perf_counter()"),
    _differs("49i getpid", "import os", "return os.getpid()", **_BOTH),
    _differs("49j a thread's number", "import threading", "return threading.get_native_id()"),
    _differs("49k what it took", "import time", "t = time.perf_counter_ns()", "sum(range(10000))",
             "return time.perf_counter_ns() - t"),
    _differs("49l year from gmtime", "import time", "return time.gmtime().tm_year"),
    _differs("50a id", "return id(object())", **_BOTH),
    _differs("50b repr of an object", "return repr(object())", **_BOTH),
    _differs("50c repr of a function", "return repr(f)"),
    _differs("50d repr of a generator", "return str(i for i in [])"),
    _differs("50e repr of an instance", "class C: pass", "return [str(C())]"),
    _differs("50f id in an order", "return sorted([id([]) % 9973, id(f)])"),
)  # fmt: skip
