"""Hostile programs, by what they try. SECRET stands for the start of the text that they look for.

PARENT stands for the process that judges them, and FILL for the start of the names of the files they leave behind.
"""

from __future__ import annotations

import re
import textwrap


def programs(text: str) -> dict[str, str]:
    """The programs of a text, each under a line with ### and its name."""
    parts = re.split(r"^### (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# Programs that would not end, that use up a resource, or that leave something behind.
EXHAUST = programs(
    r"""
### forks without end
import os
while True: os.fork()
### forks in threads
import os, threading
[threading.Thread(target=lambda: [os.fork() for _ in range(99)]).start() for _ in range(9)]
### threads without end
import threading, time
while True: threading.Thread(target=time.sleep, args=(99,)).start()
### allocates without end
data = []
while True: data.append(bytearray(10**7))
### allocates in threads
import threading
def grow():
    data = []
    while True: data.append(bytearray(10**6))
[threading.Thread(target=grow).start() for _ in range(9)]
### huge integers
n = 7
while True: n = n * n
### huge power
print(9 ** 9 ** 9)
### recursion
import sys
sys.setrecursionlimit(10**9)
def f(): f()
f()
### prints without end
while True: print('x' * 10**6)
### prints errors without end
import sys
while True: print('x' * 10**6, file=sys.stderr)
### waits for ever
import time
time.sleep(10**6)
### waits for input
import sys
while True: sys.stdin.read()
### computes for ever
while True: pass
### ignores signals
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
### leaves a daemon
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(10**6)
    os._exit(0)
print('left')
### leaves a shell
import subprocess
subprocess.Popen('sleep 1000 &', shell=True, start_new_session=True)
print('left')
### fills the disk
import itertools, os
for folder in ('.', '/tmp', '/dev/shm', '/var/tmp'):
    try:
        for i in range(200):
            with open(f'{folder}/FILL-{i}', 'wb') as f: f.write(bytes(10**6))
    except OSError: pass
print('filled', sum(os.path.getsize(f) for f in os.listdir('.')))
### one endless file
with open('big', 'wb') as f:
    while True: f.write(bytes(10**6))
### makes files without end
import itertools
for i in itertools.count(): open(f'f{i}', 'w').close()
### nests folders
import os
for _ in range(3000):
    os.mkdir('d'); os.chdir('d')
print('nested')
### closes folders
import os
os.makedirs('a/b/c'); open('a/b/c/file', 'w').close()
for path in ('a/b/c', 'a/b', 'a', '.'): os.chmod(path, 0)
print('closed')
### makes folders and links without end
import itertools, os
for i in itertools.count():
    os.mkdir(f'{i}'); os.symlink('/', f'{i}/root')
### stops itself
import signal
signal.raise_signal(signal.SIGSTOP)
print('stopped')
### never ends
import atexit, threading, time
atexit.register(time.sleep, 10**6)
threading.Thread(target=time.sleep, args=(10**6,)).start()
### raises its limits
import resource
for n in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
    resource.setrlimit(n, (resource.RLIM_INFINITY,) * 2)
print('raised')
"""
)

# What these try has to raise OSError. PARENT is replaced by the id of a process outside.
_TRIES = programs(
    r"""
### opens an internet socket
import socket
socket.create_connection(('127.0.0.1', 22), 1)
### opens a unix socket
import socket
socket.socket(socket.AF_UNIX)
### listens on an abstract socket
import socket
socket.socket(socket.AF_UNIX).bind(chr(0) + 'r1jax')
### sends to a socket of another process
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
### opens a raw socket
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
### kills its parent
import os
os.kill(PARENT, 9)
### kills all
import os
os.kill(-1, 9)
### kills a group
import os
os.killpg(PARENT, 15)
### writes to /usr
open('/usr/r1jax', 'w')
### writes to /
open('/r1jax', 'w')
### writes to the interpreter
import os
open(os.__file__, 'a')
### reads shadow
open('/etc/shadow').read()
### mounts
import ctypes
if ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None):
    raise OSError
### makes a user namespace
import ctypes
if ctypes.CDLL(None).unshare(0x10000000):
    raise OSError
### traces
import ctypes
if ctypes.CDLL(None).ptrace(16, PARENT, 0, 0):
    raise OSError
### reads memory of its parent
open('/proc/PARENT/mem', 'rb').read(1)
### writes to the memory of the guest
import os
open(f'/proc/{os.getppid()}/mem', 'r+b')
### writes to any memory
import glob, os
opened = 0
for name in glob.glob('/proc/[0-9]*/mem'):
    if name != f'/proc/{os.getpid()}/mem':
        try: open(name, 'r+b'); opened += 1
        except OSError: pass
if not opened:
    raise OSError
### looks for shared memory
import ctypes
if ctypes.CDLL(None).shmctl(0, 14, bytes(256)) == -1:
    raise OSError
### reads the log of the kernel
import ctypes
if ctypes.CDLL(None).klogctl(10, None, 0) == -1:
    raise OSError
### becomes root
import os
if os.getuid():
    os.setuid(0)
### outlives its parent
import ctypes
if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0):
    raise OSError
### changes the root
import os
os.chroot('/')
### executes a program
import os
os.execv('/bin/sh', ['sh', '-c', 'echo worked'])
"""
)
_TRY = """
def attempt():
{}
try:
    attempt()
except OSError:
    print("refused")
else:
    print("worked")
"""
REFUSED = {name: _TRY.format(textwrap.indent(code, "    ")) for name, code in _TRIES.items()}

# Programs that print all they find.
SEARCH = programs(
    r"""
### environment
import os
print(dict(os.environ), open('/proc/self/environ').read())
### environments and command lines of all
import glob
for name in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try: print(open(name).read())
    except OSError: pass
### memory of all
import glob
for name in glob.glob('/proc/[0-9]*/mem'):
    try:
        for line in open(name.replace('mem', 'maps')):
            if ' rw-p ' not in line: continue
            start, end = (int(x, 16) for x in line.split()[0].split('-'))
            with open(name, 'rb', 0) as f:
                f.seek(start)
                data = f.read(min(end - start, 2**24))
            i = data.find(('SECRET' + '-').encode())
            if i >= 0: print(data[i:i + 60])
    except (OSError, ValueError, OverflowError): pass
### objects of its interpreter
import gc, sys
for one in gc.get_objects():
    if isinstance(one, (list, tuple, dict)):
        text = ''
        try: text = repr(one)[:10000]
        except Exception: pass
        if 'SECRET' + '-' in text: print(text)
### frames
import sys
frame = sys._getframe()
while frame:
    for name, value in frame.f_locals.items():
        if name not in ('source', 'frame', 'name', 'value'): print(name, repr(value)[:2000])
    frame = frame.f_back
### files
import os
found = 0
for root in ('/tmp', '/work', '/home', '/root', os.getcwd()):
    for folder, _, names in os.walk(root):
        for name in names[:50]:
            found += 1
            if found > 3000: break
            try:
                text = open(os.path.join(folder, name), errors='replace').read(10**5)
                if 'SECRET' + '-' in text: print(text[:1000])
            except OSError: pass
### links
import os
for target in ('/etc/passwd', '/proc/1/environ', '/proc/1/root/etc/passwd'):
    try:
        os.symlink(target, 'link'); print(open('link').read())
    except OSError: pass
    if os.path.islink('link'): os.unlink('link')
"""
)
