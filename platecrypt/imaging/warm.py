"""Imported by the server that workers are forked from: pays once for what each of them needs."""

import cv2
import jpeglib  # noqa: F401
import PIL.Image  # noqa: F401

from platecrypt.cipher import warm_up
from platecrypt.imaging import bulk  # noqa: F401

cv2.setNumThreads(1)
warm_up()
