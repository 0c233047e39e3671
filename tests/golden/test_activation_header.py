"""The header of an activation group, literally: readers of old captures depend on it."""

from __future__ import annotations

import json

import pytest
import torch

from artifacts.activations import ActivationWriter

CRC = {"name": "crc32c"}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BLOSC = {
    "name": "blosc",
    "configuration": {"typesize": 2, "cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 1048576},
}


@pytest.mark.parametrize(("codec", "inner"), [("crc32c", [LITTLE, CRC]), ("blosc", [LITTLE, BLOSC, CRC])])
def test_the_header_says_what_it_has_always_said(tmp_path, codec, inner):
    with ActivationWriter(tmp_path / "a.zarr", 8, codec=codec) as writer:
        writer.append(torch.ones(3, 8), [5, 6, 7], [1, 2, 3], [0, 0, 1], [0, 0, 0], [3])
    assert json.loads((tmp_path / "a.zarr/activations/zarr.json").read_text()) == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, 8],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [65536, 8]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [1024, 8],
                    "codecs": inner,
                    "index_codecs": [LITTLE, CRC],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {"activation_dtype": "bfloat16"},
        "storage_transformers": [],
    }
    assert sorted(p.name for p in (tmp_path / "a.zarr").iterdir()) == [
        "activations",
        "context_offsets",
        "document_id",
        "position",
        "sentence_id",
        "sentence_offsets",
        "token_id",
        "zarr.json",
    ]


def test_the_bits_of_a_one_are_where_they_have_always_been(tmp_path):
    with ActivationWriter(tmp_path / "a.zarr", 8) as writer:
        writer.append(torch.ones(3, 8), [5, 6, 7], [1, 2, 3], [0, 0, 1], [0, 0, 0], [3])
    data = (tmp_path / "a.zarr/activations/c/0/0").read_bytes()
    assert data[:48] == bytes.fromhex("803f") * 24
    assert data[48 : 1024 * 16] == bytes(1024 * 16 - 48)  # a short chunk is filled up with zeros
    assert (tmp_path / "a.zarr/token_id/c/0").read_bytes()[:12] == bytes.fromhex("050000000600000007000000")
