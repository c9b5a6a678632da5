"""Hostile functions that try to earn a reward; what is expected of them starts with SECRET."""

from __future__ import annotations

from tests.rewards.code.attacks import programs

# Functions that must not earn a reward: what is expected of them is a secret.
FORGED = programs(
    r"""
### equals everything
class All:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def solve(x): return All()
### text that equals everything
class All(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def solve(x): return All('a')
### claims another class
class All:
    __class__ = str
    def __eq__(self, other): return True
def solve(x): return All()
### exits
import os
os._exit(0)
### exits politely
raise SystemExit(0)
### exits when called
import os
def solve(x): os._exit(0)
### raises SystemExit when called
def solve(x): raise SystemExit(0)
### ends in a destructor
import os
class A:
    def __del__(self): os._exit(0)
def solve(x): A(); return 1
### patches builtins
import builtins
builtins.len = lambda x: 0
builtins.type = lambda x: str
builtins.isinstance = lambda *a: True
builtins.compile = builtins.exec = None
def solve(x): return 1
### patches the guest
import sys
for name, module in list(sys.modules.items()):
    if name.startswith('guest'):
        for key in list(vars(module)):
            if key in ('pack', 'write'):
                setattr(module, key, lambda *a: '["value", true]')
def solve(x): return 1
### patches json
import json, _json
json.loads = json.dumps = lambda *a, **k: True
def solve(x): return True
### writes results to all files
import os
texts = [b'["value", true]', b'["result", true]', b'["output", "", 0]', b'true', b'1']
for fd in range(64):
    for text in texts:
        try: os.write(fd, len(text).to_bytes(4, 'big') + text)
        except OSError: pass
def solve(x): return True
### writes garbage to all files
import os
for fd in range(64):
    try: os.write(fd, b'\xff' * 4096)
    except OSError: pass
def solve(x): return 1
### closes all files
import os
os.closerange(0, 64)
def solve(x): return 1
### reads the next requests
import os
data = []
for fd in range(3, 12):
    try:
        os.set_blocking(fd, False)
        data.append(os.read(fd, 10**6))
    except OSError: pass
def solve(x): return str(data)
### contains itself
x = []
x.append(x)
def solve(_): return x
### very deep
x = []
for _ in range(10**5): x = [x]
def solve(_): return x
### very large
def solve(x): return 'a' * 10**8
### many colliding keys
def solve(x): return {i * (2**61 - 1): 0 for i in range(20000)}
### answers with keys of one hash
import os, time
def reply(text):
    for fd in range(3, 9):
        try: os.write(fd, len(text).to_bytes(4, 'big'))
        except OSError: continue
        while text: text = text[os.write(fd, text):]
keys = b','.join(b'["i","%x"]' % (i * (2**61 - 1)) for i in range(50000))
reply(b'["loaded"]')
reply(b'["value",["s",' + keys + b']]')
time.sleep(10)
### answers with many values
import os, time
for text in (b'["loaded"]', b'["value",["l"' + b',["l"]' * 2500000 + b']]'):
    text = len(text).to_bytes(4, 'big') + text
    for fd in range(3, 9):
        try:
            while text: text = text[os.write(fd, text):]
        except OSError: pass
time.sleep(10)
### a mapping that equals everything
from collections import Counter
class All(Counter):
    def __eq__(self, other): return True
    def __iter__(self): raise SystemExit
def solve(x): return All('a')
### does not read its input
import time
time.sleep(10**6)
### returns its arguments
def solve(x): return x
### no function
x = 1
### syntax error
def solve(:
"""
)
FORGED["null byte"] = "def solve(x): return 1\n\0"

# Functions under test code that calls them.
UNDER_TEST = programs(
    r"""
### rewrites the test
def check(f): pass
def solve(x): return 0
### patches assertions
import builtins
class Quiet(Exception): pass
builtins.AssertionError = Quiet
def solve(x): return 0
### equals everything
class All:
    def __eq__(self, other): return True
def solve(x): return All()
### reads frames of the test
import sys
def solve(x):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, str) and value.startswith('SECRET' + '-'): return value
        frame = frame.f_back
    return 0
### exits in the test
import os
def solve(x): os._exit(0)
### raises what the test may catch
def solve(x): raise AssertionError
### holds everything
class All:
    def __iter__(self):
        while True: yield 0
    def __contains__(self, other): return True
    def __len__(self): raise SystemExit
def solve(x): return All()
### a list that equals everything
class All(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def solve(x): return All()
### a function in a handle
def solve(x): return solve
"""
)
UNDER_TEST["writes results to all files"] = FORGED["writes results to all files"]
