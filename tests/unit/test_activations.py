"""Activation groups: what is written is read back, by us and by zarr-python."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from artifacts.activations import CHUNK_ROWS, FILE_ROWS, Activations, ActivationWriter, damaged
from artifacts.errors import ArtifactCorrupt


def write(path, x, lengths, **options):
    """A group whose row r says r in every column; sentences of 10 rows, documents of 100."""
    row = np.arange(len(x))
    with ActivationWriter(path, x.shape[1], **options) as writer:
        start = 0
        for stop in np.cumsum(lengths):
            part = slice(start, stop)
            writer.append(x[part], row[part], row[part] - start, row[part] // 10, row[part] // 100, [stop - start])
            start = stop
    return Activations.open(path)


@pytest.mark.parametrize("codec", ["crc32c", "blosc"])
@pytest.mark.parametrize("store_dtype", ["bfloat16", "float32"])
def test_rows_come_back_as_they_were_stored(tmp_path, codec, store_dtype):
    n = FILE_ROWS + 3 * CHUNK_ROWS + 17  # a second file, with a short last chunk
    x = torch.randn(n, 6)
    found = write(tmp_path / "activations.zarr", x, [5000, n - 5000], codec=codec, store_dtype=store_dtype)
    want = x.bfloat16().float() if store_dtype == "bfloat16" else x

    assert (found.n_rows, found.d, found.n_chunks) == (n, 6, 64 + 4)
    assert torch.equal(found.activations(), want)
    assert torch.equal(found.activations(1000, FILE_ROWS + 2000), want[1000 : FILE_ROWS + 2000])
    assert torch.equal(found.chunk(67).float(), want[67 * CHUNK_ROWS :])
    assert torch.equal(torch.cat([rows for _, rows in found.batches(3000)]), want)
    assert found._rows.codecs is not None  # the direct path read it, not zarr-python
    assert damaged(found.path) == []


def test_zarr_python_reads_the_same_bits(tmp_path):
    import zarr

    x = torch.randn(2500, 4)
    found = write(tmp_path / "activations.zarr", x, [2500])
    array = zarr.open_array(found.path / "activations", mode="r")
    bits = x.bfloat16().view(torch.int16).numpy().view("uint16")
    assert array.shape == (2500, 4)
    assert np.array_equal(array[:], bits)


@pytest.mark.parametrize("codec", ["zstd", "no checksum", "big endian"])
def test_an_array_in_other_codecs_is_read_through_zarr_python(tmp_path, codec):
    import zarr
    from zarr.codecs import BytesCodec, ZstdCodec

    x = torch.randn(2100, 4)
    found = write(tmp_path / "activations.zarr", x, [2100], store_dtype="float32")
    zarr.create_array(
        found.path / "activations",
        data=x.numpy(),
        chunks=(CHUNK_ROWS, 4),
        shards=(2 * CHUNK_ROWS, 4),
        filters=None,
        serializer=BytesCodec(endian="big" if codec == "big endian" else "little"),
        compressors=[ZstdCodec()] if codec == "zstd" else [],
        attributes={"activation_dtype": "float32"},
        overwrite=True,
    )
    again = Activations.open(found.path)
    assert again._rows.codecs is None
    assert torch.equal(again.activations(), x)
    assert torch.equal(again.chunk(2), x[2048:])


def test_a_row_knows_its_token_sentence_document_and_context(tmp_path):
    found = write(tmp_path / "activations.zarr", torch.zeros(300, 2), [95, 5, 200])
    assert found.token_id[123] == 123
    assert found.sentence_id[123] == 12
    assert found.document_id[123] == 1
    assert found.position[99] == 4
    assert found.context_offsets.tolist() == [0, 95, 100, 300]
    assert found.n_contexts == 3
    assert found.context_of(99) == 1
    assert found.context_of(np.array([0, 94, 95, 299])).tolist() == [0, 0, 1, 2]
    assert found.sentence_offsets.tolist() == list(range(0, 301, 10))


def test_a_sentence_cut_by_two_appends_is_one_run(tmp_path):
    with ActivationWriter(tmp_path / "a.zarr", 2) as writer:
        for sentence in ([7, 7, 8], [8, 8, 9]):
            writer.append(torch.zeros(3, 2), [0] * 3, [0] * 3, sentence, [0] * 3, [3])
    assert Activations.open(tmp_path / "a.zarr").sentence_offsets.tolist() == [0, 2, 5, 6]


def test_an_empty_group_is_a_group(tmp_path):
    ActivationWriter(tmp_path / "activations.zarr", 3).close()
    found = Activations.open(tmp_path)  # the folder that holds the group will do
    assert (found.n_rows, found.n_chunks, found.n_contexts) == (0, 0, 0)
    assert found.activations().shape == (0, 3)


def test_rows_of_zeros_are_written_like_any_other(tmp_path):
    found = write(tmp_path / "activations.zarr", torch.zeros(1500, 4), [1500])
    assert (found.path / "activations/c/0/0").stat().st_size == 2 * (CHUNK_ROWS * 8 + 4) + 64 * 16 + 4


def test_a_writer_refuses_columns_that_do_not_fit(tmp_path):
    writer = ActivationWriter(tmp_path / "activations.zarr", 4)
    with pytest.raises(ValueError, match="do not fit a writer of width 4"):
        writer.append(torch.zeros(3, 4), [1, 2], [1, 2, 3], [0] * 3, [0] * 3, [3])
    with pytest.raises(ValueError, match="context lengths of 2"):
        writer.append(torch.zeros(3, 4), [1] * 3, [1] * 3, [0] * 3, [0] * 3, [2])


def test_attributes_lie_on_the_group(tmp_path):
    found = write(tmp_path / "a.zarr", torch.zeros(4, 2), [4], attributes={"hookpoint": "layers.2"})
    assert found.attributes["hookpoint"] == "layers.2"
    assert found.attributes["layout"] == "saint-activations-1"


def test_a_folder_without_a_group_is_said_to_be_corrupt(tmp_path):
    with pytest.raises(
        ArtifactCorrupt, match=r"capture/0123: activations/zarr.json cannot be read .*delete the artifact"
    ):
        Activations.open(tmp_path, name="capture/0123")


def test_an_array_cut_across_its_columns_is_refused(tmp_path):
    found = write(tmp_path / "a.zarr", torch.zeros(4, 2), [4])
    meta = json.loads((found.path / "activations/zarr.json").read_text())
    meta["shape"] = [4, 5]
    (found.path / "activations/zarr.json").write_text(json.dumps(meta))
    with pytest.raises(ArtifactCorrupt, match="more than its first axis"):
        Activations.open(found.path)
