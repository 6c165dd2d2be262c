"""An ONNX model in the making: the word embeddings of the real MiniLM, looked up.

The little that is needed of the format (onnx.proto3) is written here: to test that real libraries
load a real model over the page's own ways, its layers are no matter.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

WEIGHTS = "embeddings.word_embeddings.weight"
FLOAT, INT64 = 1, 7  # TensorProto.DataType
IR_VERSION, OPSET = 8, 13


def embeddings_of(safetensors: Path) -> tuple[tuple[int, int], bytes]:
    """The shape and the little-endian floats of the word embeddings."""
    with safetensors.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        start, stop = header[WEIGHTS]["data_offsets"]
        file.seek(8 + length + start)
        rows, columns = header[WEIGHTS]["shape"]
        assert header[WEIGHTS]["dtype"] == "F32"
        return (rows, columns), file.read(stop - start)


def lookup_model(shape: tuple[int, int], floats: bytes) -> bytes:
    """`last_hidden_state` = the embeddings of `input_ids`; the other inputs are not used."""
    weights = (
        b"".join(_number(1, size) for size in shape)
        + _number(2, FLOAT)
        + _bytes(8, b"table")
        + _bytes(9, floats)
    )
    node = (
        _bytes(1, b"table")
        + _bytes(1, b"input_ids")
        + _bytes(2, b"last_hidden_state")
        + _bytes(4, b"Gather")
    )
    names = (b"input_ids", b"attention_mask", b"token_type_ids")
    graph = (
        _bytes(1, node)
        + _bytes(2, b"lookup")
        + _bytes(5, weights)
        + b"".join(_bytes(11, _value(name, INT64, b"batch", b"length")) for name in names)
        + _bytes(12, _value(b"last_hidden_state", FLOAT, b"batch", b"length", shape[1]))
    )
    return _number(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, _bytes(1, b"") + _number(2, OPSET))


def _value(name: bytes, kind: int, *dims: bytes | int) -> bytes:
    sizes = (_number(1, dim) if isinstance(dim, int) else _bytes(2, dim) for dim in dims)
    shape = b"".join(_bytes(1, size) for size in sizes)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
