"""Rewards for programs: candidates run in a sandbox, and all that is expected of them stays outside it.

``judge.py`` compares what a candidate returns or prints with what its tests expect; ``tests.py`` reads the tests of a
problem, ``program.py`` finds the program in a completion. ``sandbox.py`` starts and kills sandboxes, in one of the
levels of ``isolation.py``, with a user of ``users.py`` and a folder of ``folders.py``; ``guest`` is what runs inside
one. ``docs/sandbox.md`` says what each level stops.
"""
