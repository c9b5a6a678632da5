"""Programs that are right earn their reward in each level, however they read, print, end and return."""

from __future__ import annotations

import json
import sys

import pytest

from r1jax.rewards.code.config import CodeConfig, Level
from r1jax.rewards.code.judge import judge, same_output
from r1jax.rewards.code.sandbox import Sandbox, Sandboxes
from r1jax.rewards.code.tests import read_tests
from tests.rewards.code.attacks import programs

GIVEN = "3 1 2\né漢🎉\n"
# Programs that print the sum of the numbers in the first line of GIVEN.
PRINTED = programs(
    r"""
### reads to the end
n = -1
try:
    while True:
        line = input()
        if n == -1: n = sum(map(int, line.split()))
except EOFError: print(n)
### bytes
import sys
sys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin.buffer.read().split(b'\n')[0].split())))
### file descriptors
import os
os.write(1, b'%d\r\n' % sum(map(int, os.read(0, os.fstat(0).st_size).split(b'\n')[0].split())))
### devices
text = open('/dev/stdin').readline()
out = open('/dev/stdout', 'w')
out.write(str(sum(map(int, text.split()))))
### a thread that is not joined
import sys, threading, time
sys.setrecursionlimit(10**6)
threading.stack_size(2**26)
def main(): time.sleep(0.05); print(sum(map(int, input().split())))
threading.Thread(target=main).start()
### at exit
import atexit, io, sys
buffer = sys.stdout = io.StringIO()
atexit.register(lambda: sys.__stdout__.write(buffer.getvalue()))
print(sum(map(int, input().split())))
exit()
### a closed output
import sys
print(sum(map(int, input().split())))
sys.stdout.close()
### a guard
def main():
    print(sum(map(int, input().split())))
    quit(0)
if __name__ == '__main__': main()
### asyncio
import asyncio
async def main(): await asyncio.sleep(0.01); print(sum(map(int, input().split())))
asyncio.run(main())
### a pool of threads
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool: print(sum(pool.map(int, input().split())))
### a file
import os, tempfile
with tempfile.TemporaryFile('w+') as file:
    file.write(input()); file.seek(0); print(sum(map(int, file.read().split())))
assert __file__ and open('/proc/self/status').read()
### annotations are evaluated
from functools import singledispatch
def main():
    class Line(str): pass
    @singledispatch
    def total(line): return 0
    @total.register
    def _(line: Line): return sum(map(int, line.split()))
    print(total(Line(input())))
main()
### recursion
import sys
sys.setrecursionlimit(10**6)
def count(n): return 0 if n == 0 else 1 + count(n - 1)
print(sum(map(int, input().split())) + count(30000) - 30000)
"""
)
# A module whose functions return values of many types, and test code for them.
MODULE = r"""
import enum
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
Pair = namedtuple('Pair', 'a b')
class Level(enum.IntEnum):
    LOW = 1
class Name(str):
    pass
def counted(text): return Counter(text)
def grouped(text):
    found = defaultdict(list)
    for one in text: found[one].append(1)
    return found
def ordered(): return OrderedDict(a=1)
def pair(a): return Pair(a, 2)
def second(pair): return pair.b
def level(): return Level.LOW
def name(): return Name('x')
def items(n): yield from range(n)
def numbers(n): return range(n)
def queue(n): return deque(range(n))
def nested(n): return [nested(n - 1)] if n else []
class Solution:
    def items(self): return []
"""
ASSERTS = [
    "assert counted('aab') == {'a': 2, 'b': 1}",
    "assert len(counted('aab')) == 2 and counted('aab')['a'] == 2",
    "assert grouped('aab') == {'a': [1, 1], 'b': [1]}",
    "assert ordered() == dict(a=1)",
    "assert pair(1) == (1, 2)",
    "assert second(pair(1)) == 2 and pair(1)[1] == 2 and sorted([pair(3), pair(1)])[0] == (1, 2)",
    "assert level() == 1 and name() == 'x' and {name()} == {'x'}",
    "assert list(items(3)) == [0, 1, 2] and sum(items(3)) == 3 and set(numbers(2)) == {0, 1}",
    "assert len(numbers(3)) == 3 and sorted(queue(3)) == [0, 1, 2] and 2 in queue(3)",
    "assert str(nested(100)).count('[') == 101",
]


@pytest.fixture(scope="module")
def started(level: Level) -> Sandboxes:
    return Sandboxes(level, CodeConfig(), ahead=0)


def test_programs_that_read_and_print(level: Level) -> None:
    if sys.platform != "linux":
        del PRINTED["a file"], PRINTED["devices"]
    with Sandbox(level, CodeConfig(), 20.0) as sandbox:
        replies = {name: sandbox.ask(("run", source, GIVEN), 20.0) for name, source in PRINTED.items()}
        text = sandbox.ask(("run", "input()\nprint(input()[::-1])", GIVEN), 20.0)[1]
    assert {
        name
        for name, (_, text, status) in replies.items()
        if status or not same_output(bytes.fromhex(text).decode(), "6")
    } == set()
    assert bytes.fromhex(text).decode() == "🎉漢é\n"


def test_long_inputs_and_outputs() -> None:
    """More than a program may write into a file, and a million lines."""
    started = Sandboxes("rlimits", CodeConfig(), ahead=0)
    given, lines = "1 " * (9 * 2**20), "\n".join(map(str, range(10**6)))
    tests = {"tests": [{"input": given, "output": lines}]}
    source = "print(*range(len(input()) // 18 * 10**6 // 2**20), sep='\\n')"
    assert judge(source, read_tests(json.dumps(tests)), started, 60.0, "all") == 1.0


def test_functions_that_return_values_of_many_types(started: Sandboxes) -> None:
    for setup in ("", "import math"):  # the first asserts are cases without the setup
        tests = read_tests(json.dumps({"asserts": ASSERTS, "setup": setup}))
        assert judge(MODULE, tests, started, 20.0, "share") == 1.0


def test_a_value_that_does_not_cross_fails_its_test_alone(started: Sandboxes) -> None:
    cases = [{"args": [n], "expected": n} for n in range(4)]
    tests = read_tests(json.dumps({"function": "f", "cases": cases}))
    assert judge("def f(n): return n if n else object()", tests, started, 20.0, "share") == 0.75
