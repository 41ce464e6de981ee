"""Recovering into a file, and writing files so that nobody ever sees half of one."""

import os
from pathlib import Path

from platecrypt.cipher import Keyring
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging.codec import encode
from platecrypt.imaging.recover import recover

SUFFIXES = (".png",)


def recover_file(data: bytes, output: Path, keyring: Keyring, *, plate: int | None = None) -> int:
    """Put the plates back into a published file and write the picture as PNG.

    PNG, because every other format that people use would change the plates again.

    Args:
        data: the published file.
        output: the `.png` to write; nothing is written unless every plate opened.
        keyring: what opens it.
        plate: the number of the only plate to put back, from 0.

    Returns:
        How many plates were put back.

    Raises:
        BadInputError: see `recover`; or the output is no `.png`.
        UnavailableError: it cannot be written.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise BadInputError(f"{output} must end in .png: another format would change the plates")
    found = recover(data, keyring, plate=plate)
    write_whole(output, encode(found.pixels, "png"))
    return found.count


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name first, so that it appears whole or not at all.

    Raises:
        UnavailableError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
