"""Matrix units against a product of whole matrices, and the moves that feed them against the manual's figures."""

import numpy as np
import pytest
from ptx.writing import at, kinds, run, sequence

DTYPES = {"f16": np.float16, "bf16": np.uint16, "tf32": np.uint32}


def as_bits(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers that the type holds exactly, as its bits."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    return bits if kind == "tf32" else (bits >> np.uint32(16)).astype(np.uint16)


def small(shape, seed: int) -> np.ndarray:
    """Eighths between -4 and 4: exact in every type, and so are their products and sums."""
    return np.random.default_rng(seed).integers(-32, 33, shape) / 8


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, transposed, engine):
    """Matrix i lies in rows of 16 bytes that lanes 8i … 8i+7 point to, here in a shuffled order."""
    tiles = np.arange(count * 64, dtype=np.uint16)
    order = np.random.default_rng(2).permutation(8 * count).astype(np.uint32)
    out = np.zeros((32, count), np.uint32)
    body = sequence(
        ".shared .align 16 .b8 tile[512]; mov.u32 %r10, tile;",
        [
            f"add.u32 %r4, %r0, {32 * i}; mad.wide.u32 %d10, %r4, 4, %d0; ld.global.b32 %r5, [%d10];"
            "mad.lo.u32 %r6, %r4, 4, %r10; st.shared.b32 [%r6], %r5;"
            for i in range(count)
        ],
        f"bar.warp.sync -1; rem.u32 %r4, %r0, {8 * count}; mad.wide.u32 %d10, %r4, 4, %d1; ld.global.b32 %r5, [%d10];",
        "mad.lo.u32 %r6, %r5, 16, %r10;",
        f"ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16 "
        f"{{{', '.join(f'%r{20 + i}' for i in range(count))}}}, [%r6];",
        at(2, "%r0", 4 * count),
        [f"st.global.b32 [%d10+{4 * i}], %r{20 + i};" for i in range(count)],
    )
    assert not kinds(run(body, tiles.view(np.uint32), order, out, engine=engine))
    for i in range(count):
        matrix = tiles.reshape(-1, 8)[order[8 * i : 8 * i + 8]]
        matrix = matrix.T if transposed else matrix
        assert (out[:, i].copy().view(np.uint16).reshape(8, 8) == matrix).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix_is_the_opposite(count, transposed, engine):
    given = np.random.default_rng(3).integers(0, 2**32, (32, count), np.uint32)
    out = np.zeros((8 * count, 4), np.uint32)
    body = sequence(
        ".shared .align 16 .b8 tile[512]; mov.u32 %r10, tile; mad.lo.u32 %r6, %r0, 16, %r10;",
        at(0, "%r0", 4 * count),
        [f"ld.global.b32 %r{20 + i}, [%d10+{4 * i}];" for i in range(count)],
        f"stmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16 [%r6], "
        f"{{{', '.join(f'%r{20 + i}' for i in range(count))}}};",
        f"bar.warp.sync -1; setp.lt.u32 %p1, %r0, {8 * count}; @!%p1 ret;",
        at(1, "%r0", 16),
        [f"ld.shared.b32 %r4, [%r6+{4 * i}]; st.global.b32 [%d10+{4 * i}], %r4;" for i in range(4)],
    )
    assert not kinds(run(body, given, out, engine=engine))
    for i in range(count):
        matrix = out.view(np.uint16)[8 * i : 8 * i + 8]
        matrix = matrix.T if transposed else matrix
        assert (np.ascontiguousarray(matrix).view(np.uint32).ravel() == given[:, i]).all()


def fragments(matrix: np.ndarray, kind: str, side: str) -> np.ndarray:
    """[32, registers] uint32: what the lanes hold of A [16,k], B [k,8] or C [16,8], read off the manual's figures."""
    wide = kind in ("f16", "bf16") and side != "c"
    registers = []
    for lane in range(32):
        group, place = divmod(lane, 4)
        words = []
        if side == "c":
            spots = [(group + 8 * (i // 2), 2 * place + i % 2) for i in range(4)]
            words = [int(np.float32(matrix[spot]).view(np.uint32)) for spot in spots]
        elif side == "a":
            step = 8 if wide else 4
            for block in range(matrix.shape[1] // step):
                for half in range(2):
                    row, column = group + 8 * half, block * step + (2 if wide else 1) * place
                    words.append(_word(matrix[row, column : column + (2 if wide else 1)], kind))
        else:
            step = 8 if wide else 4
            for block in range(matrix.shape[0] // step):
                row = block * step + (2 if wide else 1) * place
                words.append(_word(matrix[row : row + (2 if wide else 1), group], kind))
        registers.append(words)
    return np.array(registers, np.uint32)


def _word(values: np.ndarray, kind: str) -> int:
    bits = as_bits(values, kind)
    return int(bits[0]) if len(bits) == 1 else int(bits[0]) | int(bits[1]) << 16


@pytest.mark.parametrize(("kind", "k"), [("bf16", 16), ("bf16", 8), ("f16", 16), ("f16", 8), ("tf32", 8), ("tf32", 4)])
def test_mma(kind, k, engine):
    a, b, c = small((16, k), 4), small((k, 8), 5), small((16, 8), 6)
    given = [fragments(matrix, kind, side) for matrix, side in ((a, "a"), (b, "b"), (c, "c"))]
    counts = [words.shape[1] for words in given]
    out = np.zeros((32, 4), np.uint32)
    first = (20, 30, 40)
    names = ["{" + ", ".join(f"%r{start + i}" for i in range(n)) + "}" for start, n in zip(first, counts, strict=True)]
    body = sequence(
        [
            sequence(at(i, "%r0", 4 * n), [f"ld.global.b32 %r{start + j}, [%d10+{4 * j}];" for j in range(n)])
            for i, (start, n) in enumerate(zip(first, counts, strict=True))
        ],
        f"mma.sync.aligned.m16n8k{k}.row.col.f32.{kind}.{kind}.f32 {{%r50, %r51, %r52, %r53}}, {', '.join(names)};",
        at(3, "%r0", 16),
        "st.global.v4.b32 [%d10], {%r50, %r51, %r52, %r53};",
    )
    result = run(body, *given, out, engine=engine)
    assert not kinds(result)
    assert (out == fragments(a @ b + c, "f32", "c")).all()
    assert result.counts.matrix_operations == 2 * 16 * 8 * k


SWIZZLED = {128: 1, 64: 2, 32: 3, 16: 0}
"""The descriptor's mode by the bytes of a row of a tile."""


def laid_out(matrix: np.ndarray, width: int, *, transposed: bool) -> tuple[np.ndarray, int, int]:
    """Bytes of shared memory, and the descriptor's leading and stride offsets, of a matrix [rows, 16] of 16-bit words:
    written down element by element as the manual's figures of core matrices and swizzles show them."""
    rows, depth = matrix.shape
    lead, stride = (8 * width, 8 * width) if not transposed else (16 * width, 8 * width)
    if width == 16:
        lead, stride = 128, 256
    memory = np.zeros(rows * 64 + 4096, np.uint8)
    for i in range(rows):
        for k in range(depth):
            if width == 16:  # core matrices of 8 rows of 16 bytes, one behind the other
                place = i // 8 * stride + k // 8 * lead + i % 8 * 16 + k % 8 * 2
            elif transposed:  # 8 rows of k, each with `width` bytes of what is contiguous
                place = 2 * i // width * lead + k // 8 * stride + k % 8 * width + 2 * i % width
            else:
                place = i // 8 * stride + i % 8 * width + 2 * k
            chunk, row = place // 16 % (width // 16), place // 128 % (width // 16)
            place += ((chunk ^ row) - chunk) * 16
            memory[place : place + 2] = np.array([matrix[i, k]], np.uint16).view(np.uint8)
    return memory, lead, stride


def descriptor(start: int, lead: int, stride: int, width: int) -> int:
    return start >> 4 | (lead >> 4) << 16 | (stride >> 4) << 32 | SWIZZLED[width] << 62


@pytest.mark.parametrize(
    ("columns", "width", "transposed", "from_registers", "kind"),
    [
        (8, 32, False, True, "bf16"),
        (64, 128, False, True, "bf16"),
        (32, 64, False, False, "f16"),
        (64, 128, True, True, "bf16"),
        (128, 128, True, False, "bf16"),
        (64, 64, True, True, "f16"),
        (16, 16, False, False, "bf16"),
    ],
)
def test_wgmma(columns, width, transposed, from_registers, kind, engine):
    """D = A·B + D, then D += A·B again without waiting: 64 rows over four warps."""
    a, b, d = small((64, 16), 7), small((16, columns), 8), small((64, columns), 9)
    b_bytes, b_lead, b_stride = laid_out(as_bits(b.T, kind), width, transposed=transposed)
    a_bytes, a_lead, a_stride = laid_out(as_bits(a, kind), 16 if width == 16 else 32, transposed=False)
    start_a = -(-len(b_bytes) // 1024) * 1024
    memory = np.zeros(start_a + len(a_bytes), np.uint8)
    memory[: len(b_bytes)], memory[start_a:] = b_bytes, a_bytes
    memory = np.resize(memory, -(-len(memory) // 16) * 16)
    a_words = np.concatenate([fragments(a[16 * w : 16 * w + 16], kind, "a") for w in range(4)])
    count = columns // 2
    d_words = np.zeros((128, count), np.uint32)
    for warp in range(4):
        for block in range(columns // 8):
            part = fragments(d[16 * warp : 16 * warp + 16, 8 * block : 8 * block + 8], "f32", "c")
            d_words[32 * warp : 32 * warp + 32, 4 * block : 4 * block + 4] = part
    own = ", ".join(f"%r{20 + i}" for i in range(count))
    a_text, flags = "%d5", f"0, {int(transposed)}"
    if from_registers:
        a_text, flags = "{%r10, %r11, %r12, %r13}", str(int(transposed))
    product = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} {{{own}}}, {a_text}, %d4"
    words = len(memory) // 16
    body = sequence(
        f".shared .align 1024 .b8 tile[{len(memory)}]; mov.u32 %r4, %r0; mov.u32 %r9, tile;",
        f"fill: setp.ge.u32 %p1, %r4, {words}; @%p1 bra filled; mad.wide.u32 %d10, %r4, 16, %d0;",
        "ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%d10]; mad.lo.u32 %r3, %r4, 16, %r9;",
        "st.shared.v4.b32 [%r3], {%r5, %r6, %r7, %r8}; add.u32 %r4, %r4, 128; bra.uni fill; filled:",
        "fence.proxy.async.shared::cta; bar.sync 0;",
        at(1, "%r0", 16),
        [f"ld.global.b32 %r{10 + i}, [%d10+{4 * i}];" for i in range(4)],
        at(2, "%r0", 4 * count),
        [f"ld.global.b32 %r{20 + i}, [%d10+{4 * i}];" for i in range(count)],
        f"mov.b64 %d4, {descriptor(0, b_lead, b_stride, width)};",
        f"mov.b64 %d5, {descriptor(start_a, a_lead, a_stride, 16 if width == 16 else 32)};",
        "mov.pred %p2, 1; wgmma.fence.sync.aligned;",
        f"{product}, %p2, 1, 1, {flags}; {product}, %p2, 1, 1, {flags};",
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        at(2, "%r0", 4 * count),
        [f"st.global.b32 [%d10+{4 * i}], %r{20 + i};" for i in range(count)],
    )
    result = run(body, memory.view(np.uint32), a_words, d_words, threads=128, engine=engine)
    assert not kinds(result), result.findings
    assert result.counts.matrix_operations == 2 * 2 * 64 * columns * 16
    expected = 2 * (a @ b) + d
    for warp in range(4):
        for block in range(columns // 8):
            right = fragments(expected[16 * warp : 16 * warp + 16, 8 * block : 8 * block + 8], "f32", "c")
            assert (d_words[32 * warp : 32 * warp + 32, 4 * block : 4 * block + 4] == right).all()


@pytest.mark.parametrize(
    ("added", "signs", "factor"), [("0", "1, 1", 1.0), ("%p2", "-1, 1", -1.0), ("%p2", "1, -1", -1.0)]
)
def test_wgmma_that_begins_anew_and_with_opposite_signs(added, signs, factor, engine):
    """Without `scale-d` nothing is added: what the accumulators held, not even defined, does not matter."""
    b = small((16, 8), 1)
    memory, lead, stride = laid_out(as_bits(b.T, "bf16"), 32, transposed=False)
    memory = memory[: len(memory) // 16 * 16]
    out = np.zeros((128, 4), np.uint32)
    zero = "" if added == "0" else "mov.b32 %r20, 0; mov.b32 %r21, 0; mov.b32 %r22, 0; mov.b32 %r23, 0;"
    body = sequence(
        f".shared .align 1024 .b8 tile[{len(memory)}]; mov.u32 %r4, %r0; mov.u32 %r9, tile;",
        f"fill: setp.ge.u32 %p1, %r4, {len(memory) // 4}; @%p1 bra filled; mad.wide.u32 %d10, %r4, 4, %d0;",
        "ld.global.b32 %r5, [%d10]; mad.lo.u32 %r3, %r4, 4, %r9; st.shared.b32 [%r3], %r5;",
        "add.u32 %r4, %r4, 128; bra.uni fill; filled: fence.proxy.async.shared::cta; bar.sync 0;",
        "mov.b32 %r10, 0x3F803F80; mov.b32 %r11, %r10; mov.b32 %r12, %r10; mov.b32 %r13, %r10; mov.pred %p2, 1;",
        zero,
        f"mov.b64 %d4, {descriptor(0, lead, stride, 32)}; wgmma.fence.sync.aligned;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r20, %r21, %r22, %r23}, {%r10, %r11, %r12, %r13}, "
        f"%d4, {added}, {signs}, 0; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        at(1, "%r0", 16),
        "st.global.v4.b32 [%d10], {%r20, %r21, %r22, %r23};",
    )
    assert not kinds(run(body, memory.view(np.uint32), out, threads=128, engine=engine))
    right = fragments(np.broadcast_to(factor * b.sum(0), (16, 8)), "f32", "c")
    assert (out == np.concatenate([right] * 4)).all()
