"""Imaging: decode and encode, regions, protect and recover, where sealed data lives in a file."""

from platecrypt.imaging.codec import Image, decode, encode
from platecrypt.imaging.containers import Format, embed, read_sealed
from platecrypt.imaging.protect import Protected, protect
from platecrypt.imaging.recover import Recovered, recover
from platecrypt.imaging.regions import MARGIN, Region, regions

__all__ = [
    "MARGIN",
    "Format",
    "Image",
    "Protected",
    "Recovered",
    "Region",
    "decode",
    "embed",
    "encode",
    "protect",
    "read_sealed",
    "recover",
    "regions",
]
