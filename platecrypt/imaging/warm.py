"""Imported by the server that workers are forked from: pays once for what each of them needs."""

import contextlib
import ctypes

import cv2
import jpeglib  # noqa: F401
import PIL.Image  # noqa: F401

from platecrypt.imaging import bulk  # noqa: F401

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
_KEEP = 1 << 30


def _keep_memory() -> None:
    """Let the allocator keep what a picture needed for the next one.

    Else every array of some megabytes is mapped and cleared anew by the system: a seventh of the
    time with two workers, measured.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt  # not every C library has it
        for what in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            mallopt(what, _KEEP)


cv2.setNumThreads(1)
_keep_memory()
