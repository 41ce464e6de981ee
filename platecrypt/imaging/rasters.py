"""PNG, WebP and TIFF without loss: the stored pixels in their own mode, metadata as it was.

Pixels stay as they are stored (no rotation, no colour conversion). 8 bits a channel: grey, RGB,
with or without alpha.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from platecrypt.errors import BadInputError
from platecrypt.imaging.containers import (
    Format,
    png_chunk,
    png_parts,
    read_header,
    without_sealed,
)
from platecrypt.imaging.tags import Thumbnail, only_orientation, orientation, without_pictures

_KEPT = ("L", "RGB", "RGBA")
_CONVERTED = {"1": "L", "LA": "RGBA", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Modes that are written in another one, which shows the same colours."""
_EXIF = b"Exif\0\0"
_PNG_PIXELS = (b"IHDR", b"IDAT", b"IEND")
_PNG_OF_MODE = (b"PLTE", b"tRNS", b"bKGD", b"sBIT", b"hIST")
_PNG_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"pHYs", b"eXIf")
_PNG_DEPTH_AT = 24
_TIFF_LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
_TIFF_SHAPE = (274, 282, 283, 296)
"""Orientation and resolution: kept always."""
_TIFF_ABOUT = (269, 270, 271, 272, 285, 305, 306, 315, 316, 700, 33432, 33723)
"""Names, makers, times, XMP, IPTC: kept unless they are to be stripped."""
_WEBP_EFFORT = 50


@dataclass(frozen=True, eq=False)
class Raster:
    """A picture of a lossless kind.

    Attributes:
        format: 'png', 'webp' or 'tiff'.
        pixels: as stored: (H, W) or (H, W, C) uint8; change them, then `write`.
        notes: what is written otherwise than it was read.
    """

    format: Format
    pixels: npt.NDArray[np.uint8] = field(repr=False)
    notes: tuple[str, ...]
    _source: bytes = field(repr=False)
    _info: dict[str, Any] = field(repr=False)
    _converted: bool

    @classmethod
    def read(cls, data: bytes) -> "Raster":
        """Decode a file whose header and size were checked.

        Raises:
            BadInputError: it is damaged, or of a depth that 8 bits would cut.
        """
        header = read_header(data)
        image = _open(data, header.format)
        if image.size != (header.width, header.height):
            raise _damaged(header.format)
        notes = []
        converted = image.mode not in _KEPT
        info = {**image.info, "tags": _tiff_tags(image)}
        if converted:
            transparent = image.mode == "P" and "transparency" in image.info
            target = "RGBA" if transparent else _CONVERTED[image.mode]
            notes.append(f"written as {target} instead of {image.mode}, with the same colours")
            image = image.convert(target)
        if header.format == "webp" and not header.lossless:
            notes.append("lossy WebP is written as lossless WebP so that no pixel changes: larger")
        compression = info.get("compression", "raw")
        if header.format == "tiff" and compression not in _TIFF_LOSSLESS:
            notes.append(f"TIFF with {compression} compression is written with deflate")
        pixels = np.array(image)
        return cls(header.format, pixels, tuple(notes), without_sealed(data), info, converted)

    def write(self, *, strip: bool, thumbnail: Thumbnail | None) -> bytes:
        """The file with these pixels.

        Args:
            strip: leave out what it says about makers, places and times.
            thumbnail: given where no picture of the source may stay in the metadata.
        """
        from PIL import Image

        image = Image.fromarray(self.pixels)
        out = io.BytesIO()
        if self.format == "png":
            image.save(out, "PNG")
            parts = _merged_png(self, out.getvalue(), strip=strip, thumbnail=thumbnail)
            return b"".join((self._source[:8], *parts))
        profile = self._info.get("icc_profile")
        if self.format == "webp":
            exif = self._info.get("exif", b"").removeprefix(_EXIF)
            image.save(
                out,
                "WEBP",
                lossless=True,
                exact=True,
                quality=_WEBP_EFFORT,
                exif=_EXIF + clean_exif(exif, strip, thumbnail) if exif else b"",
                xmp=b"" if strip else self._info.get("xmp", b""),
                icc_profile=profile,
            )
            return out.getvalue()
        compression = self._info.get("compression", "raw")
        known = compression in _TIFF_LOSSLESS
        tags = self._info["tags"]
        image.save(
            out,
            "TIFF",
            compression=compression if known else "tiff_adobe_deflate",
            tiffinfo={tag: tags[tag] for tag in tags if not (strip and tag in _TIFF_ABOUT)},
            icc_profile=profile,
        )
        return out.getvalue()


def clean_exif(body: bytes, strip: bool, thumbnail: Thumbnail | None) -> bytes:
    """EXIF, from the TIFF head on, as it may be published."""
    if strip:
        return only_orientation(orientation(body))
    return body if thumbnail is None else without_pictures(body, thumbnail)


def _open(data: bytes, form: Format) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=(form.upper(),))
            deep = form == "png" and data[_PNG_DEPTH_AT] > 8
            if deep or image.mode not in (*_KEPT, *_CONVERTED):
                raise BadInputError(
                    f"the image has more than 8 bits a channel (mode {image.mode}); convert it to 8"
                )
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise _damaged(form) from None
    return image


def _damaged(form: Format) -> BadInputError:
    return BadInputError(f"the {form} image is damaged or cut short; fetch it again")


def _tiff_tags(image: Any) -> dict[int, Any]:
    """What a TIFF says beside its pixels, without anything that points at a second picture."""
    tags = getattr(image, "tag_v2", None) or {}
    return {tag: tags[tag] for tag in (*_TIFF_SHAPE, *_TIFF_ABOUT) if tag in tags}


def _merged_png(
    raster: Raster, written: bytes, *, strip: bool, thumbnail: Thumbnail | None
) -> Iterator[bytes]:
    """The pixels of `written` between the metadata of the source, which stays where it stood."""
    pixels = dict.fromkeys(_PNG_PIXELS, b"")
    for kind, at, _, end in png_parts(written):
        if kind in pixels:
            pixels[kind] += written[at : end + 4]
        if kind == b"IEND":
            break
    source = raster._source
    for kind, at, body, end in png_parts(source):
        if kind in pixels:
            yield pixels[kind]
            pixels[kind] = b""  # several chunks of pixels became one
        elif kind == b"eXIf":
            yield png_chunk(kind, clean_exif(source[body:end], strip, thumbnail))
        elif kind in _PNG_OF_MODE:
            yield b"" if raster._converted else source[at : end + 4]
        elif not strip or kind in _PNG_COLOUR:
            yield source[at : end + 4]
        if kind == b"IEND":
            return
