"""Memory that a network fetches again and again: glibc's malloc is told to keep it."""

import ctypes
import sys

# Numbers of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# What is larger is fetched from the system and given back each time. No layer of a batch is larger than the first;
# glibc takes no larger number than the second.
KEPT_BLOCK, KEPT_HEAP = 2**30, 2**31 - 1


def keep_memory() -> bool:
    """Let this process keep memory that it frees, for the next image; a batch of large layers takes half the time then.

    By itself, glibc gives every block of more than 32 MB back to the system, which has to fill it with zeros before it
    comes again. The process stays as large as it was at its largest. Other libraries' malloc is left as it is.

    Returns:
        whether there is a glibc that does so.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # A number that it refuses changes nothing; 1 means that it was taken.
    return bool(library.mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK) and library.mallopt(M_TRIM_THRESHOLD, KEPT_HEAP))
