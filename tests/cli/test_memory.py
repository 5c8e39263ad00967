"""Memory that is freed stays with the process, where there is a glibc; elsewhere nothing happens."""

import ctypes
import subprocess
import sys

import pytest

from odam_d2.cli.memory import keep_memory

# 100 MB, fetched, filled and freed ten times: how often the system had to hand out a page.
PAGES = """
import ctypes, resource
from odam_d2.cli.memory import keep_memory
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 100 * 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size)
"""

glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def fetched(call):
    done = subprocess.run([sys.executable, "-c", PAGES.format(call=call)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(not glibc, reason="the malloc of this machine is not glibc's")
def test_a_block_that_was_freed_is_not_fetched_again():
    kept, given_back = fetched("assert keep_memory()"), fetched("")
    # Large pages of the system count as one each: ten times as many, however large.
    assert kept < 1.5 and given_back > 5 * kept


@pytest.mark.parametrize(("platform", "library"), [("darwin", None), ("win32", None), ("linux", object())])
def test_without_glibc_nothing_is_done(platform, library, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_memory() is False
