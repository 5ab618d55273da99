"""Activations there and back, and what a stranger may not send."""

from __future__ import annotations

import pytest
import torch

from swarm import wire
from swarm.errors import ProtocolError
from swarm.model.blobs import from_blob, to_blob


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 7])
def test_there_and_back_through_bytes(dtype, rows):
    with torch.inference_mode():
        sent = torch.randn(9, 12).to(dtype)[1 : 1 + rows]
        blob = to_blob(sent)
    assert (len(blob), blob.width, blob.row_bytes) == (rows, 12, 12 * dtype.itemsize)
    step = wire.Step(b"s" * 16, 1, 0, 0, 0, tuple(range(rows)), blob)
    arrived = wire.decode(wire.encode(step)).hidden
    back = from_blob(arrived, "cpu", dtype, width=12)
    assert back.dtype == dtype
    assert torch.equal(back, sent)


def test_rows_are_those_of_the_tensor_and_sharing_copies_nothing():
    sent = torch.randn(5, 4)
    blob = to_blob(sent)
    assert torch.equal(from_blob(blob[2:4], "cpu", torch.float32), sent[2:4])
    assert blob.data.obj is not None
    sent[0, 0] = 42.0
    assert from_blob(blob, "cpu", torch.float32)[0, 0] == 42.0


def test_what_arrives_may_be_written_without_touching_the_bytes():
    data = bytes(4 * 4)
    rows = from_blob(wire.Blob("float32", 4, memoryview(data)), "cpu", torch.float32)
    rows += 1
    assert data == bytes(4 * 4)


def test_another_dtype_is_converted():
    assert from_blob(to_blob(torch.ones(2, 3)), "cpu", torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_none_are_refused(bad, dtype):
    rows = torch.zeros(3, 4, dtype=dtype)
    rows[2, 1] = bad
    with pytest.raises(ProtocolError, match="not a finite number"):
        from_blob(to_blob(rows), "cpu", dtype)


def test_width_and_rows_are_checked():
    with pytest.raises(ProtocolError, match="activations have width 4 where the model has 5"):
        from_blob(to_blob(torch.zeros(1, 4)), "cpu", torch.float32, width=5)
    with pytest.raises(ProtocolError, match="without rows"):
        from_blob(wire.Blob("float32", 4, memoryview(b"")), "cpu", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_no_model_has_are_refused(dtype):
    rows_nH = torch.ones(2, 3, dtype=dtype)
    for number in (-2e8, 2e8, 1e30):
        rows_nH[1, 2] = number
        with pytest.raises(ProtocolError, match="longer than any"):
            from_blob(to_blob(rows_nH.clone()), "cpu", dtype)
    rows_nH[1, 2] = 1e5
    assert from_blob(to_blob(rows_nH), "cpu", dtype)[1, 2] > 9e4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_too_long_as_a_whole_or_not_at_all(dtype):
    """No single number says so. Others are as large as a few features of real models for their first token, and as all of one whose embedding is scaled."""
    long_nH = torch.ones(3, 4096, dtype=dtype)
    long_nH[1] = 5e6
    with pytest.raises(ProtocolError, match="longer than any"):
        from_blob(to_blob(long_nH), "cpu", dtype)
    real_nH = torch.randn(3, 4096).to(dtype)
    real_nH[0, [7, 1415]] = torch.tensor([-8e5, 2e4], dtype=dtype)
    real_nH[1] *= 2e4
    real_nH[2] = 0
    assert torch.equal(from_blob(to_blob(real_nH), "cpu", dtype), real_nH)


@pytest.mark.parametrize("width", [1, 32, 33, 960])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compressed_rows_are_near_and_each_the_same_in_any_company(width, dtype):
    sent = torch.randn(5, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    sent[1], sent[2, 0] = 0, 1e4
    blob = to_blob(sent, compress=True)
    assert (blob.dtype, len(blob), blob.row_bytes) == (wire.COMPRESSED, 5, width + 2 * -(-width // wire.GROUP))
    back = from_blob(wire.Blob(blob.dtype, width, blob.data), "cpu", torch.float32, width=width)
    most = (
        torch.nn.functional.pad(sent.float().abs(), (0, -width % wire.GROUP)).view(5, -1, wire.GROUP).amax(-1).repeat_interleave(wire.GROUP, dim=1)[:, :width]
    )
    assert ((back - sent.float()).abs() <= most * 0.55 / 127 + most * 2**-7).all() and not back[1].any()
    for at in range(5):
        assert to_blob(sent[at : at + 1], compress=True).data == blob[at : at + 1].data


@pytest.mark.parametrize("scale", [0x7F80, 0x7FC0, 0x7F7F])
def test_compressed_rows_of_absurd_scales_are_refused(scale):
    data = bytes([1] * 32) + scale.to_bytes(2, "little")
    with pytest.raises(ProtocolError):
        from_blob(wire.Blob(wire.COMPRESSED, 32, memoryview(data)), "cpu", torch.float32)
    with pytest.raises(ValueError, match="no whole rows"):
        wire.Blob(wire.COMPRESSED, 32, memoryview(data[:-1]))
