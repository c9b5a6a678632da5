"""Hostile programs. Each prints what it achieved; SECRET is what it looks for, and is replaced before it runs."""

from __future__ import annotations

# Programs that would not end, or use up a resource, or leave something behind.
EXHAUST = {
    "forks without end": "import os\nwhile True: os.fork()",
    "forks in threads": "import os, threading\n[threading.Thread(target=lambda: [os.fork() for _ in range(99)]).start() for _ in range(9)]",
    "threads without end": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "allocates without end": "data = []\nwhile True: data.append(bytearray(10**7))",
    "allocates in threads": (
        "import threading\ndef grow():\n    data = []\n    while True: data.append(bytearray(10**6))\n"
        "[threading.Thread(target=grow).start() for _ in range(9)]"
    ),
    "huge integers": "n = 7\nwhile True: n = n * n",
    "huge power": "print(9 ** 9 ** 9)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "prints without end": "while True: print('x' * 10**6)",
    "prints errors without end": "import sys\nwhile True: print('x' * 10**6, file=sys.stderr)",
    "waits for ever": "import time\ntime.sleep(10**6)",
    "waits for input": "import sys\nwhile True: sys.stdin.read()",
    "computes for ever": "while True: pass",
    "ignores signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass"
    ),
    "leaves a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(10**6)\n    os._exit(0)\nprint('left')"
    ),
    "leaves a shell": "import subprocess\nsubprocess.Popen('sleep 1000 &', shell=True, start_new_session=True)\nprint('left')",
    "fills the disk": (
        "import itertools, os\nfor folder in ('.', '/tmp', '/dev/shm', '/var/tmp'):\n    try:\n"
        "        for i in range(200):\n            with open(f'{folder}/fill{os.getpid()}-{i}', 'wb') as f: f.write(bytes(10**6))\n"
        "    except OSError: pass\nprint('filled', sum(os.path.getsize(f) for f in os.listdir('.')))"
    ),
    "one endless file": "with open('big', 'wb') as f:\n    while True: f.write(bytes(10**6))",
    "makes files without end": "import itertools\nfor i in itertools.count(): open(f'f{i}', 'w').close()",
    "raises its limits": (
        "import resource\nfor n in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n"
        "    resource.setrlimit(n, (resource.RLIM_INFINITY,) * 2)\nprint('raised')"
    ),
}

# Programs that must print "refused": what they try has to raise an error.
_TRY = "try:\n    {}\nexcept (OSError, PermissionError) as error:\n    print('refused')\nelse:\n    print('worked')"
REFUSED = {
    "opens an internet socket": "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
    "opens a unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "listens on an abstract socket": "import socket; socket.socket(socket.AF_UNIX).bind(chr(0) + 'r1jax')",
    "opens a raw socket": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "kills its parent": "import os; os.kill(PARENT, 9)",
    "kills all": "import os; os.kill(-1, 9) if os.getpid() > 2 else os.kill(PARENT, 9)",
    "kills a group": "import os; os.killpg(PARENT, 15)",
    "writes to /usr": "open('/usr/r1jax', 'w')",
    "writes to /": "open('/r1jax', 'w')",
    "writes to the interpreter": "import os; open(os.__file__, 'a')",
    "reads shadow": "open('/etc/shadow').read()",
    "mounts": "import ctypes; l = ctypes.CDLL(None, use_errno=True); r = l.mount(b'x', b'/tmp', b'tmpfs', 0, None); os = __import__('os'); [][r] if r == 0 else (_ for _ in ()).throw(OSError())",
    "makes a user namespace": "import ctypes; r = ctypes.CDLL(None).unshare(0x10000000); [].pop() if r == 0 else (_ for _ in ()).throw(OSError())",
    "traces": "import ctypes; r = ctypes.CDLL(None).ptrace(16, PARENT, 0, 0); [].pop() if r == 0 else (_ for _ in ()).throw(OSError())",
    "reads memory of its parent": "open('/proc/PARENT/mem', 'rb').read(1)",
    "becomes root": "import os; os.setuid(0) if os.getuid() else [].pop()",
    "changes the root": "import os; os.chroot('/')",
    "executes a program": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo worked'])",
}
REFUSED = {name: _TRY.format(code) for name, code in REFUSED.items()}

# Programs that print all they find; what they look for must not be in it.
SEARCH = {
    "environment": "import os\nprint(dict(os.environ), open('/proc/self/environ').read())",
    "environments and command lines of all": (
        "import glob\nfor name in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: print(open(name).read())\n    except OSError: pass"
    ),
    "memory of all": (
        "import glob\nfor name in glob.glob('/proc/[0-9]*/mem'):\n    try:\n"
        "        for line in open(name.replace('mem', 'maps')):\n"
        "            if ' rw-p ' not in line: continue\n"
        "            start, end = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "            with open(name, 'rb', 0) as f:\n                f.seek(start)\n                data = f.read(min(end - start, 2**24))\n"
        "            i = data.find(('SECRET' + '-').encode())\n"
        "            if i >= 0: print(data[i:i + 60])\n"
        "    except (OSError, ValueError, OverflowError): pass"
    ),
    "objects of its interpreter": (
        "import gc, sys\nfor one in gc.get_objects():\n    if isinstance(one, (list, tuple, dict)):\n"
        "        text = ''\n        try: text = repr(one)[:10000]\n        except Exception: pass\n"
        "        if 'SECRET' + '-' in text: print(text)"
    ),
    "frames": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for name, value in frame.f_locals.items():\n"
        "        if name not in ('source', 'frame', 'name', 'value'): print(name, repr(value)[:2000])\n    frame = frame.f_back"
    ),
    "files": (
        "import os\nfound = 0\nfor root in ('/tmp', '/work', '/home', '/root', os.getcwd()):\n    for folder, _, names in os.walk(root):\n"
        "        for name in names[:50]:\n            found += 1\n            if found > 3000: break\n            try:\n"
        "                text = open(os.path.join(folder, name), errors='replace').read(10**5)\n"
        "                if 'SECRET' + '-' in text: print(text[:1000])\n            except OSError: pass"
    ),
    "links": (
        "import os\nfor target in ('/etc/passwd', '/proc/1/environ', '/proc/1/root/etc/passwd'):\n    try:\n"
        "        os.symlink(target, 'link'); print(open('link').read())\n    except OSError: pass\n"
        "    if os.path.islink('link'): os.unlink('link')"
    ),
}

# Functions that must not earn a reward; the judge expects the secret.
FORGED = {
    "equals everything": (
        "class All:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "    def __hash__(self): return 0\n    def __bool__(self): return True\ndef solve(x): return All()"
    ),
    "text that equals everything": (
        "class All(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef solve(x): return All('a')"
    ),
    "claims another class": "class All:\n    __class__ = str\n    def __eq__(self, other): return True\ndef solve(x): return All()",
    "exits": "import os\nos._exit(0)",
    "exits politely": "raise SystemExit(0)",
    "exits when called": "import os\ndef solve(x): os._exit(0)",
    "raises SystemExit when called": "def solve(x): raise SystemExit(0)",
    "ends in a destructor": "import os\nclass A:\n    def __del__(self): os._exit(0)\ndef solve(x): A(); return 1",
    "patches builtins": (
        "import builtins\nbuiltins.len = lambda x: 0\nbuiltins.type = lambda x: str\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.compile = builtins.exec = None\ndef solve(x): return 1"
    ),
    "patches the guest": (
        "import sys\nfor name, module in list(sys.modules.items()):\n    if name.startswith('guest'):\n"
        "        for key in list(vars(module)):\n            if key in ('pack', 'write'):\n"
        "                setattr(module, key, lambda *a: '[\"value\", true]')\ndef solve(x): return 1"
    ),
    "patches json": "import json, _json\njson.loads = json.dumps = lambda *a, **k: True\ndef solve(x): return True",
    "writes results to all files": (
        "import os\ntexts = [b'[\"value\", true]', b'[\"result\", true]', b'[\"output\", \"\", 0]', b'true', b'1']\n"
        "for fd in range(64):\n    for text in texts:\n        try: os.write(fd, len(text).to_bytes(4, 'big') + text)\n        except OSError: pass\n"
        "def solve(x): return True"
    ),
    "writes garbage to all files": (
        "import os\nfor fd in range(64):\n    try: os.write(fd, b'\\xff' * 4096)\n    except OSError: pass\ndef solve(x): return 1"
    ),
    "closes all files": "import os\nos.closerange(0, 64)\ndef solve(x): return 1",
    "reads the next requests": (
        "import os\ndata = []\nfor fd in range(3, 12):\n    try:\n        os.set_blocking(fd, False)\n        data.append(os.read(fd, 10**6))\n    except OSError: pass\n"
        "def solve(x): return str(data)"
    ),
    "contains itself": "x = []\nx.append(x)\ndef solve(_): return x",
    "very deep": "x = []\nfor _ in range(10**5): x = [x]\ndef solve(_): return x",
    "very large": "def solve(x): return 'a' * 10**8",
    "many colliding keys": "def solve(x): return {i * (2**61 - 1): 0 for i in range(20000)}",
    "does not read its input": "import time\ntime.sleep(10**6)",
    "returns its arguments": "def solve(x): return x",
    "no function": "x = 1",
    "syntax error": "def solve(:",
    "null byte": "def solve(x): return '\\0'\n\0",
}

# Functions under test code that calls them; the test is ``check(solve)``.
UNDER_TEST = {
    "rewrites the test": "def check(f): pass\ndef solve(x): return 0",
    "patches assertions": "import builtins\nclass Quiet(Exception): pass\nbuiltins.AssertionError = Quiet\ndef solve(x): return 0",
    "equals everything": "class All:\n    def __eq__(self, other): return True\ndef solve(x): return All()",
    "reads frames of the test": (
        "import sys\ndef solve(x):\n    frame = sys._getframe()\n    while frame:\n        for value in frame.f_locals.values():\n"
        "            if isinstance(value, str) and value.startswith('SECRET' + '-'): return value\n        frame = frame.f_back\n    return 0"
    ),
    "exits in the test": "import os\ndef solve(x): os._exit(0)",
    "raises what the test may catch": "def solve(x): raise AssertionError",
    "a function in a handle": "def solve(x): return solve",
    "writes results to all files": FORGED["writes results to all files"],
}
