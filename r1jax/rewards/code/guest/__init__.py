"""The programs that run inside a sandbox; they import only small modules of the standard library, to start quickly."""
