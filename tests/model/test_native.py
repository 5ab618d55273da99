"""Products in machine code of our own: the same numbers as torch's, whatever stands beside a row; and what happens where they cannot be had."""

from __future__ import annotations

import logging
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from swarm.model import int4
from swarm.model.native import COMPILERS, FLAGS, FOLDER, NativeProduct, agrees, native_code

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler on this machine")


@pytest.fixture(scope="module")
def product(compiled_here) -> NativeProduct:
    made = native_code(compiled_here)
    assert made is not None, "there is a compiler, and it does not do"
    return made.product


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Compiles in a third of the time what need not be fast."""
    monkeypatch.setattr("swarm.model.native.FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in FLAGS))


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", range(1, 18))
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (33, 5), (7, 1), (160, 19)])
def test_the_sums_are_those_of_torch(product, dtype, rows, inputs, outputs):
    x_TI, w_OI = random(rows, inputs, dtype=dtype), random(outputs, inputs, dtype=dtype)
    out = product(x_TI, w_OI)
    assert out.dtype == dtype and out.shape == (rows, outputs) and out.is_contiguous()
    exact = linear(x_TI.double(), w_OI.double())
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(out.double(), exact, rtol=rounding, atol=1e-5 if dtype == torch.float32 else 1e-3)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_comes_out_the_same_to_the_last_bit_whatever_stands_beside_it(product, dtype):
    """So an answer does not depend on who else is served at the same time, nor on how many cores are free."""
    x_TI, w_OI = random(16, 200, dtype=dtype), random(67, 200, dtype=dtype)
    before = torch.get_num_threads()
    try:
        alone = torch.cat([product(x_TI[at : at + 1], w_OI) for at in range(16)])
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for rows in range(1, 17):
                assert torch.equal(product(x_TI[:rows], w_OI), alone[:rows])
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inputs", [200, 96, 31])
def test_so_does_a_row_times_weights_of_one_byte(product, dtype, inputs):
    """Though for many rows the weights are unpacked first."""
    x_TI, scales_O = random(11, inputs, dtype=dtype), torch.rand(67)
    w_OI = torch.randint(-127, 128, (67, inputs), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([product.int8(x_TI[at : at + 1], w_OI, scales_O) for at in range(11)])
    for rows in range(1, 12):
        assert torch.equal(product.int8(x_TI[:rows], w_OI, scales_O), alone[:rows])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inputs", [32, 96, 224])
def test_so_does_a_row_times_weights_of_half_a_byte(product, dtype, inputs):
    x_TI, (w_OB, widths_OG) = random(11, inputs, dtype=dtype), int4.rounded(random(67, inputs, dtype=dtype))
    alone = torch.cat([product.int4(x_TI[at : at + 1], w_OB, widths_OG) for at in range(11)])
    for rows in range(1, 12):
        assert torch.equal(product.int4(x_TI[:rows], w_OB, widths_OG), alone[:rows])
    exact = linear(x_TI.double(), int4.widened(w_OB, widths_OG).to(dtype).double())
    torch.testing.assert_close(alone.double(), exact, rtol={torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype], atol={torch.float32: 1e-4}.get(dtype, 0.05))


@needs_compiler
def test_products_of_several_threads_at_once_do_not_disturb_one_another(product):
    """Helpers belong to whoever comes first; everybody else does without."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        inputs = [(random(rows, 256, dtype=torch.float32), random(4096, 256, dtype=torch.float32)) for rows in (1, 2, 5, 9)]
        alone = [product(x_TI, w_OI) for x_TI, w_OI in inputs]

        def often(which: int) -> bool:
            return all(torch.equal(product(*inputs[which]), alone[which]) for _ in range(50))

        with ThreadPoolExecutor(len(inputs)) as threads:
            assert all(threads.map(often, range(len(inputs))))
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_what_it_was_not_made_for_torch_multiplies(product):
    halves, doubles = random(3, 64, dtype=torch.float16), random(3, 64, dtype=torch.float64)
    assert torch.equal(product(halves, halves), linear(halves, halves))
    assert torch.equal(product(doubles, doubles), linear(doubles, doubles))
    wide = random(8, 64, dtype=torch.float32)
    torch.testing.assert_close(product(wide[:, :32], wide[:, 32:]), linear(wide[:, :32], wide[:, 32:]))


@needs_compiler
def test_numbers_that_are_none_stay_so(product):
    for dtype in (torch.float32, torch.bfloat16):
        x_TI = torch.full((1, 64), float("nan"), dtype=dtype)
        assert product(x_TI, random(4, 64, dtype=dtype)).isnan().all()
        huge = torch.full((1, 64), torch.finfo(dtype).max, dtype=dtype)
        assert product(huge, torch.full((4, 64), 2.0, dtype=dtype)).isinf().all()


@needs_compiler
def test_the_compiler_runs_once(tmp_path, hasty):
    real = next(path for name in COMPILERS if (path := shutil.which(name)))
    calls = tmp_path / "calls"
    counting = _script(tmp_path / "counting", f'echo "$@" >> {calls}; exec {real} "$@"')
    with ThreadPoolExecutor(3) as peers:
        assert all(peers.map(lambda _: native_code(tmp_path / "cache", find=lambda name: counting), range(3)))
    assert native_code(tmp_path / "cache", find=lambda name: counting) is not None
    assert sum("products.cpp" in line for line in calls.read_text().splitlines()) == 1
    assert len(list((tmp_path / "cache").glob("*.so*"))) == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "no C++ compiler"),
        ("exit 1", "cannot compile"),
        ('[ "$1" = --version ] && exit 0; echo "error: unknown processor" >&2; exit 1', "unknown processor"),
        ('[ "$1" = --version ] && exit 0; exit 0', "cannot compile"),
    ],
)
def test_without_a_compiler_that_does_there_is_none_and_the_log_says_why(tmp_path, caplog, script, said):
    compiler = None if script is None else _script(tmp_path / "compiler", script)
    with caplog.at_level(logging.INFO, "swarm.model.native"):
        assert native_code(tmp_path / "cache", find=lambda name: compiler) is None
    assert said in caplog.text and len(caplog.records) == 1


multiplies_pairs = pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or "avx512_bf16" not in Path("/proc/cpuinfo").read_text(), reason="a processor that does not multiply pairs of bfloat16"
)


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param("lanes.h", "return all;", "return -all;", id="sums"),
        pytest.param("attention.cpp", "score *= all.scaling;", "", id="scaling", marks=pytest.mark.slow),
        pytest.param("attention.cpp", "session.start + at + 1, since", "session.start + session.count, since", id="causality"),
        pytest.param("attention.cpp", "(session.start + at) * width", "(session.start + at) * width + 1", id="caches", marks=pytest.mark.slow),
        pytest.param("prompts.cpp", "std::min(end, position + 1) - begin", "end - begin", id="causality of prompts", marks=multiplies_pairs),
    ],
)
def test_code_that_computes_something_else_is_not_used(tmp_path, caplog, monkeypatch, hasty, file, right, wrong):
    code = tmp_path / "cpp"
    shutil.copytree(FOLDER, code)
    text = (code / file).read_text()
    assert text.count(right) == 1
    (code / file).write_text(text.replace(right, wrong))
    monkeypatch.setattr("swarm.model.native.FOLDER", code)
    assert native_code(tmp_path / "cache") is None
    assert "wrong results" in caplog.text


def test_a_result_that_is_no_number_does_not_agree():
    assert agrees(linear)
    assert not agrees(lambda x_TI, w_OI: linear(x_TI, w_OI) * float("nan"))
    assert not agrees(lambda x_TI, w_OI: linear(x_TI, w_OI) * 1.01)


def _script(path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)
