"""20 to 28: files and secrets."""

from __future__ import annotations

from dataclasses import replace

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import (
    ALL_STYLES,
    ERROR,
    KERNEL,
    PASS,
    SHORT,
    TRIED,
    Attack,
    Verdicts,
    body,
    one_of,
)

_READS = """
import os
def read(path):
    if os.path.isdir(path):
        return os.listdir(path)
    with open(path, 'rb') as file:
        return file.read(1)
def f(paths):
    got = []
    for path in paths:
        for way in (path, '/proc/self/cwd/' + '../' * 20 + path, '/proc/self/root' + path,
                    '/proc/1/root' + path, '/proc/@PARENT@/root' + path):
            try:
                if read(way): got.append(way)
            except OSError: pass
    return got
"""

_WRITES = """
import os
def f(paths):
    done = []
    for path in paths:
        inside = os.path.join(path, '@TOKEN@')
        for name, act in {
            'create': lambda: open(inside, 'x').close(),
            'mkdir': lambda: os.mkdir(inside),
            'symlink': lambda: os.symlink('/', inside),
            'fifo': lambda: os.mkfifo(inside),
            'rename': lambda: (open('mine', 'w').close(), os.rename('mine', inside)),
            'link': lambda: (open('mine', 'w').close(), os.link('mine', inside)),
        }.items():
            try: act()
            except OSError: continue
            done.append((name, path))
    return done
"""

_CHANGES = (
    TRIED
    + """
import os
def f(path):
    def write(mode):
        with open(path, mode) as file: file.write(b'x')
    return tried({
        'write': lambda: write('wb'), 'append': lambda: write('ab'), 'patch': lambda: write('r+b'),
        'truncate': lambda: os.truncate(path, 0), 'unlink': lambda: os.unlink(path),
        'move': lambda: os.rename(path, 'mine'), 'move over': lambda: (
            open('mine', 'w').close(), os.replace('mine', path)),
        'delete its folder': lambda: os.rmdir(os.path.dirname(path)),
    })
"""
)

_METADATA = (
    TRIED
    + """
import os
def f(path):
    return tried({
        'mode': lambda: os.chmod(path, 0o600), 'times': lambda: os.utime(path, (1, 1)),
        'owner': lambda: os.chown(path, os.getuid(), os.getgid()),
        'attribute': lambda: os.setxattr(path, 'user.x', b'y'),
    })
"""
)

_DEVICES = """
import os
def f(paths):
    done = []
    for path in paths:
        try: os.close(os.open(path, os.O_RDWR | os.O_NOCTTY))
        except OSError: continue
        done.append(path)
    try: done.append(os.mknod('disk', 0o60666, os.makedev(8, 0)) or 'mknod')
    except OSError: pass
    return done
"""

_NAMESPACES = (
    KERNEL
    + TRIED
    + """
def f():
    root, here = ctypes.c_char_p(b'/'), ctypes.c_char_p(b'.')
    none, tmpfs = ctypes.c_char_p(b'none'), ctypes.c_char_p(b'tmpfs')
    flags = {'user': 0x10000000, 'mount': 0x20000, 'pid': 0x20000000, 'net': 0x40000000}
    return tried({
        'mount': lambda: call('mount', none, here, tmpfs, 0, None),
        'bind': lambda: call('mount', root, here, none, 4096, None),
        'unmount': lambda: call('umount2', here, 2),
        'pivot_root': lambda: call('pivot_root', here, here),
        'chroot': lambda: call('chroot', here),
        'open_tree': lambda: call('open_tree', -100, root, 1),
        'fsopen': lambda: call('fsopen', tmpfs, 0),
        **{f'unshare {n}': lambda flag=flag: call('unshare', flag) for n, flag in flags.items()},
        'setns': lambda: call('setns', os.open(f'/proc/{os.getppid()}/ns/mnt', os.O_RDONLY), 0),
        'setuid': lambda: os.setresuid(0, 0, 0) if os.getuid() else os.setgroups([]),
    })
"""
)

_WIPE = """
import os, shutil
def f():
    try:
        os.unlink('@PRECIOUS@')
        return 'it began with what it may not touch'
    except OSError:
        pass
    shutil.rmtree('/', ignore_errors=True)
    shutil.rmtree(os.getcwd(), ignore_errors=True)
    return 1
"""

_REPLACED_SCRATCH = """
import os
def f():
    here = os.getcwd()
    os.rename(here, os.path.join(os.path.dirname(here), 'gone'))
    os.symlink('@VICTIM@', here)
    return 1
"""

_LEAVES_EVERYTHING = (
    KERNEL
    + TRIED
    + """
import builtins, decimal, gc, locale, math, random, signal, sys, threading, warnings
def f():
    shared = lambda name: open('/dev/shm/' + name, 'x').close()
    tried({
        'tmp': lambda: open('/tmp/@TOKEN@', 'x').close(),
        'var': lambda: open('/var/tmp/@TOKEN@', 'x').close(),
        'shm': lambda: shared('@TOKEN@'), 'sem': lambda: shared('sem.@TOKEN@'),
        'segment': lambda: call('shmget', @KEY@, 4096, 0o1666),
        'queue': lambda: call('msgget', @KEY@, 0o1666),
        'semaphore': lambda: call('semget', @KEY@, 1, 0o1666),
        'key': lambda: call('add_key', b'user', b'@TOKEN@', b'x', 1, -4),
        'nice': lambda: os.nice(5),
    })
    math.mark = sys.mark = builtins.mark = random.mark = 1
    math.sqrt = builtins.sorted = None
    os.environ['MARK'] = '1'; os.umask(0o777); os.chdir('/')
    sys.path.insert(0, os.getcwd()); sys.meta_path.insert(0, object()); sys.setrecursionlimit(90)
    decimal.getcontext().prec = 3; gc.disable(); warnings.simplefilter('error')
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    return 1
"""
)

_PLANTS = """
import os, site, sys
def f():
    text = "raise SystemExit('planted')"
    names = ['random.py', 'colorsys.py', 'sitecustomize.py', 'usercustomize.py', 'x.pth',
             '.pythonrc', 'pyvenv.cfg', 'codec.py', 'child.py', 'ast.py']
    home = os.path.expanduser('~')
    version = 'python%d.%d' % sys.version_info[:2]
    folders = ['.', home, os.path.join(home, '.local/lib', version, 'site-packages'),
               os.path.join(home, 'Library/Python')]
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        for name in names:
            with open(os.path.join(folder, name), 'w') as file: file.write(text)
    os.environ.update(PYTHONSTARTUP=os.path.abspath('.pythonrc'), PYTHONPATH=os.getcwd(),
                      PYTHONHOME=os.getcwd(), LD_PRELOAD=os.path.abspath('x.pth'))
    import colorsys
    return 1 if hasattr(colorsys, 'rgb_to_hls') else 2
"""

_POISONS = (
    TRIED
    + """
import importlib.util, os, sys
def f():
    import colorsys
    source = colorsys.__file__
    cached = importlib.util.cache_from_source(source)
    def append(path):
        with open(path, 'ab') as file: file.write(b'')
    folder = os.path.dirname(source)
    return tried({
        'source': lambda: append(source), 'bytecode': lambda: append(cached),
        'sitecustomize': lambda: open(folder + '/@TOKEN@.py', 'x').close(),
        'packages': lambda: open(folder + '/site-packages/@TOKEN@.pth', 'x').close(),
        'cache': lambda: open(os.path.dirname(cached) + '/@TOKEN@.pyc', 'x').close(),
        'interpreter': lambda: append(sys.executable),
    })
"""
)

_SECRET = """
import os
def f():
    word = '@TERCES@'[::-1]
    got = [name for name, value in os.environ.items() if word in value]
    for pid in ('self', '1', str(os.getppid()), '@PARENT@', '@CANARY@'):
        for name in ('environ', 'cmdline'):
            try:
                with open(f'/proc/{pid}/{name}', 'rb') as file:
                    if word.encode() in file.read(): got.append(f'{pid}/{name}')
            except OSError: pass
    return got
"""


def _left(label: str, line: str, verdicts: Verdicts = PASS) -> Attack:
    return Attack(label, body("import os", line, "return 1"), verdicts)


FILES = (
    Attack("20 keys and tokens", _READS, PASS, answer="[]", args="(@KEYS@,)", shielded=True),
    Attack("21a project, tests and data", _READS, PASS, ALL_STYLES, answer="[]",
           args="(@PROJECT@,)", shielded=True),
    Attack("21b the system's own", _READS, PASS, answer="[]", shielded=True,
           args="(['/etc/passwd', '/etc/shadow', '/etc/hosts', '/var/log', '/root', '/home', "
                "'/run', '/sys/class', '/boot'],)"),
    Attack("21c other jobs", """
import os
def f(bases):
    got = []
    for base in bases:
        if os.getcwd().startswith(base): continue
        for path in (base, base + '/scratch'):
            for act in (lambda: os.listdir(path), lambda: open(path + '/@TOKEN@', 'x')):
                try: got.append((path, act() is None))
                except OSError: pass
    return got
""", PASS, answer="[]", args="(@BASES@,)", shielded=True),
    Attack("21d packages", TRIED + """
def f():
    names = ('azr_mlx', 'tests', 'numpy', 'pytest', 'mlx', 'yaml')
    return tried({name: lambda name=name: __import__(name) for name in names})
""", PASS, ALL_STYLES, answer="[]", shielded=True),
    Attack("22a names in the environment", body("import os", "return sorted(os.environ)"), PASS,
           ALL_STYLES, answer="['HOME', 'LANG', 'PATH', 'TMPDIR']"),
    Attack("22b a secret in the environment", _SECRET, PASS, answer="[]", shielded=True),
    Attack("23a everything", _WIPE, one_of(Status.PASS, Status.TIMEOUT), limits=SHORT,
           shielded=True),
    Attack("23b its folder", body("import os", "os.rmdir(os.getcwd())", "return 1"),
           one_of(Status.PASS, Status.ERROR), ALL_STYLES),
    Attack("23c its folder, while it is somewhere else",
           body("import os, shutil", "here = os.getcwd()", "os.chdir('/')",
                "shutil.rmtree(here, ignore_errors=True)", "return 1"), PASS, shielded=True),
    Attack("24a new files everywhere", _WRITES, PASS, answer="[]", args="(@FOLDERS@,)",
           shielded=True),
    Attack("24b what is there", _CHANGES, PASS, ALL_STYLES, answer="[]", args="('@PRECIOUS@',)",
           shielded=True),
    # under limits-only the calls seem to succeed; that nothing has changed is what counts
    Attack("24c modes, times, owners", _METADATA, one_of(Status.PASS, Status.FAIL), answer="[]",
           args="('@PRECIOUS@',)", shielded=True, linux=True),
    Attack("24d beside the scratch", _WRITES, PASS, answer="[]", args="(['..', '../..'],)",
           shielded=True),
    Attack("24e devices", _DEVICES, PASS, answer="[]", shielded=True,
           args="(['/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/tty', '/dev/ptmx', "
                "'/dev/fuse', '/dev/kvm', '/dev/net/tun', '/proc/sysrq-trigger', "
                "'/proc/sys/kernel/core_pattern', '/sys/kernel/uevent_helper', "
                "'/proc/self/oom_score_adj', '/proc/@PARENT@/oom_score_adj'],)"),
    Attack("24f mounts and namespaces", _NAMESPACES, PASS, answer="[]", shielded=True, linux=True),
    Attack("25a symlink to a file",
           body("import os", "os.symlink('@PRECIOUS@', 'link')", "open('link', 'w').write('x')"),
           ERROR, ALL_STYLES, shielded=True),
    Attack("25b symlink to a folder",
           body("import os", "os.symlink('@VICTIM@', 'link')", "open('link/@TOKEN@', 'w')"),
           ERROR, shielded=True),
    Attack("25c hard link",
           body("import os", "os.link('@PRECIOUS@', 'link')", "open('link', 'w').write('x')"),
           ERROR, shielded=True),
    Attack("25d symlinks for whoever tidies up", body(
        "import os", "os.makedirs('a/b')", "os.symlink('@VICTIM@', 'a/b/out')",
        "os.symlink('@VICTIM@', 'out')", "os.symlink('@PRECIOUS@', 'file')",
        "os.symlink('/', 'root')", "os.chmod('a/b', 0)", "return 1"), PASS, ALL_STYLES,
        shielded=True),
    Attack("25e a symlink in place of the scratch", _REPLACED_SCRATCH,
           one_of(Status.PASS, Status.ERROR), shielded=True),
    Attack("26a file that grows",
           body("with open('big', 'wb') as file:", "    while True: file.write(bytes(1 << 20))"),
           ERROR, ALL_STYLES),
    Attack("26b 10-GB file at once", TRIED + """
import os
def f():
    fd = os.open('big', os.O_RDWR | os.O_CREAT)
    ways = {'truncate': lambda: os.ftruncate(fd, 10 << 30),
            'seek': lambda: (os.lseek(fd, 10 << 30, 0), os.write(fd, b'x'))}
    if hasattr(os, 'posix_fallocate'):
        ways['allocate'] = lambda: os.posix_fallocate(fd, 0, 10 << 30)
    return tried(ways)
""", PASS, answer="[]"),
    Attack("26c many large files", body(
        "for i in range(8):", "    with open(str(i), 'wb') as file:",
        "        for _ in range(16): file.write(bytes(1 << 20))", "return 1"),
        one_of(Status.PASS, Status.ERROR)),
    Attack("26d 10^6 files", body(
        "for i in range(10 ** 6): open(f'f{i}', 'w').close()"),
        one_of(Status.ERROR, Status.TIMEOUT), limits=SHORT),
    Attack("26e 10^6 folders, each in the last", body(
        "import os", "for _ in range(10 ** 6): os.mkdir('d'); os.chdir('d')"),
        one_of(Status.ERROR, Status.TIMEOUT), limits=replace(SHORT, wall_s=1), strong=True),
    Attack("26f 10^6 links", body(
        "import os", "open('a', 'w').close()",
        "for i in range(10 ** 6): os.link('a', f'l{i}')"),
        one_of(Status.ERROR, Status.TIMEOUT), limits=SHORT, strong=True),
    _left("27a a file", "open('left', 'w').write('x')"),
    _left("27b folders, 400 deep", "[(os.mkdir('d'), os.chdir('d')) for _ in range(400)]"),
    _left("27c folders that are locked",
          "os.makedirs('a/b/c'); open('a/b/c/f', 'w'); os.chmod('a/b', 0); os.chmod('a', 0)"),
    _left("27d odd names", "[open(n, 'w') for n in ('-rf', 'a\\nb', '\\udcff', '.' * 200)]"),
    _left("27e links and pipes",
          "os.symlink('/', 'root'); os.symlink('x', 'x'); os.mkfifo('fifo')"),
    _left("27f a locked scratch", "os.chmod('.', 0)", one_of(Status.PASS, Status.ERROR)),
    Attack("27g globals, and shared memory by name", _LEAVES_EVERYTHING, PASS, ALL_STYLES,
           also={"program": PASS | ERROR}, shielded=True, linux=True),
    Attack("27h files held open and locked", body(
        "import fcntl, os", "kept = [open(f'f{i}', 'w') for i in range(60)]",
        "for file in kept: fcntl.flock(file, fcntl.LOCK_EX); os.unlink(file.name)", "return 1"),
        PASS),
    Attack("27i marks on its folder", TRIED + """
import os
def f():
    tried({
        'mode': lambda: os.chmod('.', 0o711), 'times': lambda: os.utime('.', (1, 1)),
        'owner': lambda: os.chown('.', os.getuid(), os.getgid()),
        'attribute': lambda: os.setxattr('.', 'user.mark', b'x'),
    })
    return 1
""", PASS),
    Attack("28a modules in its folder", _PLANTS, PASS, ALL_STYLES),
    Attack("28b the library and its bytecode", _POISONS, PASS, answer="[]", shielded=True),
)  # fmt: skip
