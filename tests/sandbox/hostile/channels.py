"""29 to 36: the network, the outputs, and ways to end before or after the result."""

from __future__ import annotations

from dataclasses import replace

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import (
    ALL_STYLES,
    ERROR,
    FAIL,
    KERNEL,
    NOT_PASSED,
    PASS,
    SHORT,
    TIMEOUT,
    TRIED,
    USUAL,
    Attack,
    Verdicts,
    body,
    one_of,
)

_CONNECTIONS = (
    TRIED
    + """
import http.client, socket, ssl, urllib.request, xmlrpc.client
def connect(family, kind, address):
    s = socket.socket(family, kind)
    s.settimeout(0.2)
    s.connect(address)
    s.send(b'x')
def f():
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
    v4, v6, unix = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
    return tried({
        'tcp': lambda: connect(v4, tcp, ('127.0.0.1', @TCP@)),
        'tcp, any address': lambda: connect(v4, tcp, ('0.0.0.0', @TCP@)),
        'tcp, version 6': lambda: connect(v6, tcp, ('::1', @TCP@)),
        'create_connection': lambda: socket.create_connection(('localhost', @TCP@), 0.2),
        'http': lambda: http.client.HTTPConnection('127.0.0.1', @TCP@, timeout=0.2).connect(),
        'udp': lambda: connect(v4, udp, ('127.0.0.1', @UDP@)),
        'unix stream': lambda: connect(unix, tcp, '@STREAM@'),
        'unix datagram': lambda: connect(unix, udp, '@DATAGRAM@'),
        'abstract': lambda: connect(unix, tcp, '\\0@TOKEN@'),
        'abstract datagram': lambda: connect(unix, udp, '\\0@TOKEN@-d'),
        'metadata': lambda: urllib.request.urlopen('http://169.254.169.254/latest', timeout=0.2),
        'metadata, version 6': lambda: connect(v6, tcp, ('fd00:ec2::254', 80)),
        'names': lambda: socket.getaddrinfo('localhost', 80),
        'dns': lambda: socket.gethostbyname('example.com'),
        'dns by hand': lambda: connect(v4, udp, ('8.8.8.8', 53)),
        'xml-rpc': lambda: xmlrpc.client.ServerProxy('http://127.0.0.1:@TCP@/').system(),
    })
"""
)

_SOCKETS = (
    KERNEL
    + TRIED
    + """
import socket
from multiprocessing.connection import Client, Listener
def f():
    kinds = {n: getattr(socket, n) for n in dir(socket) if n.startswith('AF_')}
    ways = {f'{n} {k}': lambda a=a, k=k: socket.socket(a, k)
            for n, a in kinds.items() for k in (1, 2, 3, 5)}
    return tried(ways | {
        'kernel': lambda: call('socket', 2, 1, 0), 'ring': lambda: call(
            'io_uring_setup', 4, ctypes.create_string_buffer(120)),
        'x32': lambda: os.close(check(libc.syscall(ctypes.c_long(0x40000029), 2, 1, 0))),
        'server': lambda: socket.create_server(('127.0.0.1', 0)),
        'listener': lambda: Listener('here'), 'client': lambda: Client('@STREAM@'),
    })
def check(fd):
    if fd < 0: raise OSError
    return fd
"""
)

_PAIRED = (
    TRIED
    + """
import socket
def f():
    def pair(kind): return socket.socketpair(socket.AF_UNIX, kind)[0]
    ways = {}
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        for name in ('@DATAGRAM@', '@STREAM@', '\\0@TOKEN@', '\\0@TOKEN@-d'):
            ways[f'send {kind} {name}'] = lambda k=kind, n=name: pair(k).sendto(b'x', n)
            ways[f'message {kind} {name}'] = lambda k=kind, n=name: pair(k).sendmsg(
                [b'x'], [], 0, n)
            ways[f'connect {kind} {name}'] = lambda k=kind, n=name: pair(k).connect(n)
    # a stream that is connected already leaves the name aside
    return [n for n in tried(ways) if not n.startswith(('send 1', 'message 1'))]
"""
)

_INHERITED = """
import os, socket
def f():
    got = []
    for fd in range(3, 256):
        try: end = socket.socket(fileno=os.dup(fd))
        except OSError: continue
        try: got.append((fd, end.getpeername(), end.getsockname())) if end.family != 1 else 0
        except OSError: pass
        for name in ('@DATAGRAM@', '@STREAM@'):
            try: got.append((end.connect(name), name))
            except OSError: pass
    return got
"""

# --- forged results ---

_WRITE = """
import os
data = {data}
for fd in range(3, 128):
    try: os.write(fd, data)
    except OSError: pass
"""
_WRITE_FOR_EVER = """
import os
def f():
    fds = list(range(3, 128))
    while fds:
        for fd in list(fds):
            try: os.write(fd, bytes(1 << 16))
            except OSError: fds.remove(fd)
    return 1
"""

# Finds, by what it can do and not by its name, the object that sends results, and 16-byte nonces.
_FOUND = """
import gc, os, sys
def found():
    frame, objects = sys._getframe(), []
    while frame:
        objects += list(frame.f_locals.values()) + list(frame.f_globals.values())
        frame = frame.f_back
    for x in list(objects):
        names = list(getattr(x, '__dict__', ())) + list(getattr(type(x), '__slots__', ()))
        objects += [getattr(x, name, None) for name in names]
    objects += [x for x in gc.get_objects() if not isinstance(x, (type, dict, list, tuple))]
    senders = [x for x in objects if callable(getattr(x, 'send', None)) and hasattr(x, 'nonce')]
    nonces = [x for x in objects if type(x) is bytes and len(x) == 16]
    nonces += [x.nonce for x in senders if type(x.nonce) is bytes]
    return senders, list(dict.fromkeys(nonces))
def word(text): return b'S' + len(text).to_bytes(4, 'little') + text.encode()
def frame_of(kind, value): return b'U\\4\\0\\0\\0' + word(kind) + b'N' + word('') + value
def write(data):
    for fd in range(3, 16):
        try: os.write(fd, data)
        except OSError: pass
"""

_FORGES_A_PASS = (
    _FOUND
    + """
senders, nonces = found()
for sender in senders:
    for kind, value in (('pass', None), ('value', 1), ('done', None)):
        try: sender.send(kind, None, '', value)
        except BaseException: pass
for nonce in nonces:
    write(nonce + frame_of('pass', b'N') + nonce + frame_of('value', b'I\\1\\0\\0\\0\\1'))
{end}
def f(): return 2
"""
)

# Speaks the protocol itself: says that the code has run, takes what comes, answers for the tests.
_SPEAKS_FOR_THE_TESTS = (
    _FOUND
    + """
import select
for nonce in found()[1]:
    write(nonce + b'\\0')
    got = b''
    while select.select([3], [], [], 0.1)[0]:
        part = os.read(3, 1 << 16)
        if not part: break
        got += part
    for key in (got[-16:], nonce):
        write(key + frame_of('pass', b'N'))
os._exit(0)
def f(): return 2
"""
)

_SWALLOWS_THE_TESTS = """
import os, threading
def swallow():
    while True:
        try: os.read(3, 1 << 16)
        except OSError: return
threading.Thread(target=swallow, daemon=True).start()
def f(): return 2
"""

_JSON_LINE = '{"id": "hostile", "status": "pass", "value": "1", "detail": "", "seconds": 0}'
_PRINTS_A_RESULT = f"""
import os, sys
def f():
    print({_JSON_LINE!r}, flush=True)
    print({_JSON_LINE!r}, file=sys.stderr, flush=True)
    for fd in (1, 2): os.write(fd, b'pass\\n1 passed\\n')
    for name in ('out.jsonl', 'result.json', 'stdout', 'frame'):
        with open(name, 'w') as file: file.write({_JSON_LINE!r})
    return 2
"""


def _forged(label: str, data: str, verdicts: Verdicts = NOT_PASSED, then: str = "") -> Attack:
    """Bytes on every descriptor, and then a right answer: unasked-for bytes spoil it."""
    code = _WRITE.format(data=data) + then + "\ndef f(): return 1\n"
    return Attack(label, code, verdicts, ("call", "tests"), tests="assert f() == 2")


def _exit(label: str, line: str) -> Attack:
    """Ends before the result. What a program has not printed it has not answered."""
    allowed = one_of(Status.ERROR, Status.KILLED)
    in_program = {"program": allowed | FAIL}
    return Attack(label, body(line, "return 1"), allowed, ALL_STYLES, also=in_program)


def _early(label: str, line: str) -> Attack:
    """The same while the code is read, before there is an ``f``."""
    allowed = one_of(Status.ERROR, Status.KILLED)
    return Attack(label, f"{line}\ndef f(): return 1", allowed, ALL_STYLES,
                  also={"program": allowed | FAIL}, tests="assert True")  # fmt: skip


def _late(label: str, before: str, verdicts: Verdicts, **also: Verdicts) -> Attack:
    """Prepares an end after the result, which is right."""
    return Attack(label, before, verdicts, ALL_STYLES, also=also, limits=SHORT)


_AT_EXIT = "import atexit, os, sys\natexit.register({})\ndef f(): return {}\n"
_ON_DELETE = """
import os, sys
class Last:
    def __del__(self, leave=os._exit): {act}
kept = Last()
def f(last=Last()): return {answer}
"""

CHANNELS = (
    Attack("29a connections", _CONNECTIONS, PASS, answer="[]", shielded=True,
           limits=replace(USUAL, wall_s=4, cpu_s=3)),
    Attack("29b every kind of socket", _SOCKETS, PASS, answer="[]", shielded=True, linux=True),
    Attack("29c sockets made in pairs", _PAIRED, PASS, answer="[]", shielded=True),
    Attack("29d sockets that were there", _INHERITED, PASS, ALL_STYLES, answer="[]", shielded=True),
    Attack("30a stdout flood", body("while True: print('x' * 1000)"), TIMEOUT, ALL_STYLES,
           limits=SHORT),
    Attack("30b stderr flood", body("import sys", "while True: sys.stderr.write('x' * 1000)"),
           TIMEOUT, limits=SHORT),
    Attack("30c flood of both, and a right answer", body(
        "import os", "for fd in (1, 2):", "    for _ in range(200): os.write(fd, bytes(1 << 15))",
        "return 1"), PASS, ("call", "tests")),
    Attack("30d flood that begins with the right answer", body("return 1 if 0 else 'x' * 50_000"),
           FAIL, ("program",), stdout="'" + "x" * ((16 << 10) - 1)),
    Attack("30e bytes that are no text", body("import os", "os.write(1, b'\\xff\\0\\xc3' * 9999)",
                                              "return 1"), PASS, ("call", "tests")),
    Attack("31a closes its outputs, then loops", body("import os", "os.closerange(0, 64)",
                                                      "while True: pass"), TIMEOUT,
           limits=SHORT),
    Attack("31b closes stdout, then answers", body("import os", "os.close(1)", "return 1"), PASS,
           ALL_STYLES, also={"program": FAIL | ERROR}),
    Attack("31c closes sys.stdout, then answers", body("import sys", "sys.stdout.close()",
                                                       "return 1"), PASS | ERROR, ALL_STYLES,
           also={"program": FAIL | ERROR}),
    Attack("31d closes everything, then answers", body("import os", "os.closerange(0, 256)",
                                                       "return 1"), NOT_PASSED, ALL_STYLES),
    Attack("31e turns stdout round", body("import os", "os.dup2(0, 1)", "os.dup2(2, 3)",
                                          "return 1"), NOT_PASSED, ("call", "tests")),
    Attack("32a prints a result", _PRINTS_A_RESULT, FAIL, ALL_STYLES),
    Attack("32b prints a result and ends", _PRINTS_A_RESULT.replace(
        "return 2", "os._exit(0)"), ERROR, ALL_STYLES, also={"program": FAIL}),
    Attack("32c sends a result by what it finds", _FORGES_A_PASS.format(end=""), NOT_PASSED,
           ("call", "tests"), limits=SHORT),
    Attack("32d sends a result and ends", _FORGES_A_PASS.format(end="os._exit(0)"), NOT_PASSED,
           ("tests",), tests="assert False", limits=SHORT),
    Attack("32e speaks for the tests", _SPEAKS_FOR_THE_TESTS, NOT_PASSED, ("tests",),
           limits=SHORT),
    Attack("32f swallows the tests", _SWALLOWS_THE_TESTS, NOT_PASSED, ("call", "tests"),
           limits=SHORT),
    _forged("33a word", "b'pass'"),
    _forged("33b nonce of zeros", "b'\\0' * 16 + b'\\0'"),
    _forged("33c frame under a nonce of zeros",
            "b'\\0' * 17 + b'U\\4\\0\\0\\0S\\4\\0\\0\\0passNS\\0\\0\\0\\0N'"),
    _forged("33d too much", "b'x' * 60_000"),
    _forged("33e length of 4 GB", "b'U' + b'\\xff' * 4"),
    _forged("33f JSON", f"b{_JSON_LINE!r}"),
    _forged("33g part of a frame, then nothing", "b'\\0' * 9", then="os._exit(0)"),
    Attack("33h part of a frame, then a wait", _WRITE.format(data="b'U'") + """
import time
time.sleep(1000)
def f(): return 1
""", one_of(Status.TIMEOUT, Status.INVALID), ("call", "tests"), limits=SHORT),
    Attack("33i frame without end", _WRITE_FOR_EVER,
           one_of(Status.INVALID, Status.TIMEOUT, Status.ERROR), ("call", "tests"), limits=SHORT),
    Attack("33j part of a frame under the right nonce", _FOUND + """
for nonce in found()[1]:
    write(nonce + frame_of('value', b'I\\1\\0\\0\\0\\1')[:-3])
os._exit(0)
def f(): return 1
""", NOT_PASSED, ("call", "tests")),
    Attack("33k two frames", _FOUND + """
def f():
    for nonce in found()[1]:
        write((nonce + frame_of('value', b'I\\1\\0\\0\\0\\1')) * 2)
    return 2
""", NOT_PASSED, ("call", "tests")),
    Attack("34a writes to every descriptor", _WRITE.format(data="b'x'") + "def f(): return 1",
           NOT_PASSED, ("call", "tests")),
    Attack("34b ends every connection", body(
        "import os, socket", "for fd in range(3, 128):",
        "    try: socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR)",
        "    except OSError: pass", "return 1"), NOT_PASSED, ("call", "tests")),
    Attack("34c makes every descriptor fail at once", body(
        "import os", "for fd in range(3, 128):", "    try: os.set_blocking(fd, False)",
        "    except OSError: pass", "return 1"), one_of(Status.PASS, Status.INVALID, Status.ERROR),
        ("call", "tests")),
    Attack("34d fills every descriptor it can make", body(
        "import os", "try:", "    while True: os.pipe()", "except OSError: pass", "return 1"),
        PASS, ALL_STYLES),
    _exit("35a sys.exit(0)", "import sys; sys.exit(0)"),
    _exit("35b os._exit(0)", "import os; os._exit(0)"),
    _exit("35c SystemExit", "raise SystemExit"),
    _exit("35d KeyboardInterrupt", "raise KeyboardInterrupt"),
    _exit("35e exit()", "exit()"),
    _exit("35f quit(0)", "quit(0)"),
    _exit("35g GeneratorExit", "raise GeneratorExit"),
    _exit("35h another program", "import os; os.execv('/bin/true', ['true'])"),
    _exit("35i from a thread", "import os, threading; t = threading.Thread("
          "target=os._exit, args=(0,)); t.start(); t.join()"),
    _exit("35j from a signal", "import os, signal; "
          "signal.signal(signal.SIGALRM, lambda *_: os._exit(0)); signal.setitimer(0, 0.02); "
          "signal.pause()"),
    _early("35k sys.exit(0) at once", "import sys; sys.exit(0)"),
    _early("35l os._exit(0) at once", "import os; os._exit(0)"),
    _early("35m SystemExit at once", "raise SystemExit"),
    _early("35n KeyboardInterrupt at once", "raise KeyboardInterrupt"),
    _late("36a atexit leaves", _AT_EXIT.format("os._exit, 3", 1), PASS, program=PASS | ERROR),
    _late("36b atexit loops", _AT_EXIT.format("lambda: exec('while 1: 0')", 1), PASS,
          program=TIMEOUT),
    _late("36c atexit raises", _AT_EXIT.format("lambda: 1 / 0", 1), PASS, program=PASS | ERROR),
    _late("36d atexit prints more", _AT_EXIT.format("print, 'more'", 1), PASS, program=FAIL),
    _late("36e atexit turns a wrong answer", _AT_EXIT.format("os._exit, 0", 2), FAIL),
    _late("36f __del__ leaves", _ON_DELETE.format(act="leave(0)", answer=1), PASS),
    _late("36g __del__ loops", _ON_DELETE.format(act="exec('while 1: 0')", answer=1), PASS,
          program=PASS | TIMEOUT),
    _late("36h __del__ turns a wrong answer", _ON_DELETE.format(act="leave(0)", answer=2), FAIL),
    _late("36i thread that leaves a little later", """
import os, threading
def f():
    threading.Timer(0.02, os._exit, (0,)).start()
    return 2
""", FAIL | ERROR),
)  # fmt: skip
