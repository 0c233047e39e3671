"""One flipped byte in activations: the read stops, and file and chunk are named."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from artifacts.activations import Activations, ActivationWriter, damaged
from artifacts.errors import ArtifactCorrupt
from artifacts.keys import Artifact, key_of, recipe_json
from artifacts.shuffled import ShuffledRows
from artifacts.store import Store

ROWS = 70_000
"""Two files: 64 chunks, then 5."""


@pytest.fixture
def group(tmp_path, request):
    codec = getattr(request, "param", "crc32c")
    row = np.arange(ROWS)
    with ActivationWriter(tmp_path / "activations.zarr", 4, codec=codec) as writer:
        writer.append(torch.randn(ROWS, 4), row, row, row, row, [ROWS])
    return tmp_path / "activations.zarr"


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


CHUNK_BYTES = 1024 * 4 * 2 + 4


@pytest.mark.parametrize(
    ("file", "offset", "chunk"),
    [
        ("activations/c/0/0", 14 * CHUNK_BYTES + 77, "c/14/0"),
        ("activations/c/0/0", 15 * CHUNK_BYTES - 1, "c/14/0"),  # in the checksum itself
        ("activations/c/1/0", 4 * CHUNK_BYTES + 5, "c/68/0"),
        ("activations/c/1/0", 5 * CHUNK_BYTES - 6, "c/68/0"),  # in the padding of the short last chunk
        ("activations/c/1/0", -30, "index"),
        ("token_id/c/1", 17, "c/1"),
        ("context_offsets/c/0", 3, "c/0"),
    ],
)
def test_a_flipped_byte_is_found_in_its_file_and_chunk(group, file, offset, chunk):
    assert damaged(group) == []
    flip(group / file, offset)
    assert [(f, c) for f, c, _ in damaged(group)] == [(file, chunk)]


@pytest.mark.parametrize("group", ["crc32c", "blosc"], indirect=True)
def test_a_read_of_a_flipped_byte_stops_and_names_it(group):
    flip(group / "activations/c/0/0", 100)
    found = Activations.open(group, name="capture/9c2e41ab7730")
    with pytest.raises(
        ArtifactCorrupt,
        match=r"^capture/9c2e41ab7730: activations/c/0/0, chunk c/0/0, has crc32c .*; delete the artifact",
    ):
        found.activations(5, 10)
    assert found.activations(2000, 2010).shape == (10, 4)  # the other chunks are as good as before


def test_a_truncated_file_stops_the_read(group):
    os.truncate(group / "activations/c/0/0", 3 * CHUNK_BYTES)
    with pytest.raises(ArtifactCorrupt, match="activations/c/0/0"):
        Activations.open(group).chunk(0)
    os.truncate(group / "activations/c/0/0", 9)
    assert damaged(group)[0][:2] == ("activations/c/0/0", "index")


def test_a_missing_file_stops_the_read(group):
    os.unlink(group / "activations/c/1/0")
    with pytest.raises(ArtifactCorrupt, match=r"activations/c/1/0, chunk c/64/0, is missing"):
        Activations.open(group).chunk(64)
    assert {file for file, _, _ in damaged(group)} == {"activations/c/1/0"}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_shuffled_reader_raises_what_its_thread_found(group, prefetch):
    flip(group / "activations/c/0/0", 14 * CHUNK_BYTES + 77)
    reader = ShuffledRows([Activations.open(group, name="capture/9c2e41ab7730")], 512, seed=1, prefetch=prefetch)
    with pytest.raises(ArtifactCorrupt, match=r"chunk c/14/0"):
        for _ in zip(range(ROWS // 512 + 1), reader.batches(), strict=False):
            pass


def test_verify_names_artifact_file_and_chunk(tmp_path):
    recipe = recipe_json("capture", 1, {}, {})
    artifact, store = Artifact("capture", key_of(**recipe)), Store.at(tmp_path)
    row = np.arange(3000)
    with store.writing(artifact, recipe) as attempt, ActivationWriter(attempt.path / "activations.zarr", 4) as writer:
        writer.append(torch.randn(3000, 4), row, row, row, row, [3000])
    assert store.verify(artifact) == []
    opened = store.open(artifact)
    flip(opened.path / "activations.zarr/activations/c/0/0", CHUNK_BYTES + 9)
    (fault,) = store.verify(artifact)
    assert (fault.path, fault.chunk) == ("activations.zarr/activations/c/0/0", "c/1/0")
    assert str(artifact) in fault.why
    with pytest.raises(ArtifactCorrupt, match=rf"^{artifact}: activations/c/0/0, chunk c/1/0"):
        Activations.open(Store.at(tmp_path).open(artifact).path, str(artifact)).activations()


def test_a_flip_in_the_metadata_is_found_when_the_artifact_is_opened(tmp_path):
    recipe = recipe_json("capture", 1, {}, {})
    artifact, store = Artifact("capture", key_of(**recipe)), Store.at(tmp_path)
    with store.writing(artifact, recipe) as attempt:
        ActivationWriter(attempt.path / "activations.zarr", 4).close()
    path = store.open(artifact).path / "activations.zarr/activations/zarr.json"
    flip(path, 40)
    with pytest.raises(ArtifactCorrupt, match=r"activations.zarr/activations/zarr.json has digest"):
        Store.at(tmp_path).open(artifact)
