"""Imaging: decode and encode, regions, protect and recover, where sealed data lives in a file."""

from platecrypt.imaging.codec import Image, decode, encode, swapped
from platecrypt.imaging.containers import Format, embed, read_sealed, read_sidecar
from platecrypt.imaging.files import ProtectedFile, protect_file, sidecar_of, visible, write_whole
from platecrypt.imaging.protect import Covered, Protected, cover_and_seal, protect, written
from platecrypt.imaging.recover import Recovered, recover
from platecrypt.imaging.regions import MARGIN, Region, regions
from platecrypt.imaging.sealing import Origin

__all__ = [
    "MARGIN",
    "Covered",
    "Format",
    "Image",
    "Origin",
    "Protected",
    "ProtectedFile",
    "Recovered",
    "Region",
    "cover_and_seal",
    "decode",
    "embed",
    "encode",
    "protect",
    "protect_file",
    "read_sealed",
    "read_sidecar",
    "recover",
    "regions",
    "sidecar_of",
    "swapped",
    "visible",
    "write_whole",
    "written",
]
