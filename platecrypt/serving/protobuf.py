"""Large fields of a protobuf message, taken out and put in without copying what they hold.

Protobuf copies a tensor twice when a message is read and three times when one is written. On the
wire a message is a row of fields (tag, length, content), in any order: so the large ones are cut
out of the bytes where they lie, and what is left, some hundred bytes, goes to protobuf.
"""

from collections.abc import Iterable

MAX_FIELDS = 1024  # of a whole message: a request has a few, and this loop is Python's
_VARINT_BYTES = 10
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED = {_FIXED64: 8, _FIXED32: 4}

Buffer = bytes | memoryview


def take_out(data: bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """Every occurrence of one field of bytes, and the message without it.

    Args:
        data: a serialised message.
        field: its number.

    Returns:
        The rest, and views of `data` in their order.

    Raises:
        ValueError: this is no message, or one of too many fields.
    """
    view, at = memoryview(data), 0
    rest: list[memoryview] = []
    found: list[memoryview] = []
    for _ in range(MAX_FIELDS):
        if at == len(data):
            return b"".join(rest), found
        start = at
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        length = _FIXED.get(kind, 0)
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _LENGTH:
            length, at = _varint(data, at)
        elif not length:
            raise ValueError(f"wire type {kind}")
        begin, at = at, at + length
        if at > len(data):
            raise ValueError("a field leads beyond the end")
        if number == field and kind == _LENGTH:
            found.append(view[begin:at])
        else:
            rest.append(view[start:at])
    raise ValueError(f"more than {MAX_FIELDS} fields")


def put_in(message: bytes, field: int, contents: Iterable[Buffer]) -> bytes:
    """A serialised message with more occurrences of one field of bytes; copies each once."""
    parts: list[Buffer] = [message]
    for content in contents:
        parts += [_written(field << 3 | _LENGTH) + _written(len(content)), content]
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for index in range(_VARINT_BYTES):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number has no end")


def _written(value: int) -> bytes:
    """A number as `_varint` reads it."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
