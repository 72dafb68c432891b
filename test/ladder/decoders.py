"""Formats that no package decodes: each case packs or decodes random data in loops, from the layouts as their makers
describe them, with nothing of Lutra's declarations in it.

Standard output, once for each case: a line of JSON {"name", "storage", "rows", "columns", "buffers": [bytes of each],
"count"}, then the buffers, then `count` float64 values in row-major order. Rows are 0 for a type of blocks.
"""

import json
import struct
import sys

import ml_dtypes
import numpy as np

random = np.random.default_rng(20261123)


def emit(name, storage, rows, columns, buffers, values):
    buffers = [buffer if isinstance(buffer, bytes) else np.ascontiguousarray(buffer).tobytes() for buffer in buffers]
    values = np.asarray(values, dtype=np.float64).ravel()
    head = {"name": name, "storage": storage, "rows": rows, "columns": columns}
    head |= {"buffers": [len(buffer) for buffer in buffers], "count": values.size}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    for buffer in buffers:
        sys.stdout.buffer.write(buffer)
    sys.stdout.buffer.write(values.tobytes())


def halves(*shape):
    return random.normal(size=shape).astype(np.float16)


def singles(*shape):
    return random.normal(size=shape).astype(np.float32)


def ternary(rows, columns):
    return random.integers(-1, 2, size=(rows, columns))


# --- GGUF blocks ---------------------------------------------------------------------------------------------------


def bit_blocks(name, size, bits, value):
    """A half, then codes of `bits` bits, the lowest first."""
    raw, values = b"", []
    for _ in range(20):
        d = halves(1)[0]
        codes = random.integers(0, 2**bits, size=size)
        number = sum(int(code) << (bits * i) for i, code in enumerate(codes))
        raw += d.tobytes() + number.to_bytes(size * bits // 8, "little")
        values += [float(d) * value(int(code)) for code in codes]
    emit(name, "", 0, 0, [raw], values)


bit_blocks("Q1_0", 128, 1, lambda bit: 1 if bit else -1)
bit_blocks("Q2_0", 64, 2, lambda q: q - 1)
bit_blocks("Q2_0_128", 128, 2, lambda q: q - 1)

raw, values = b"", []
for _ in range(20):
    d, s, q = halves(1), halves(1), random.integers(-128, 128, size=32).astype(np.int8)
    raw += d.tobytes() + s.tobytes() + q.tobytes()
    values += [float(d[0]) * int(x) for x in q]
emit("Q8_1", "", 0, 0, [raw], values)

raw, values = b"", []
for _ in range(5):
    d, q = singles(1), random.integers(-128, 128, size=256).astype(np.int8)
    raw += d.tobytes() + q.tobytes() + q.reshape(16, 16).sum(axis=1).astype(np.int16).tobytes()
    values += [float(d[0]) * int(x) for x in q]
emit("Q8_K", "", 0, 0, [raw], values)

# --- bitnet.cpp ----------------------------------------------------------------------------------------------------


def i2_s(storage, rows, columns, per, step):
    """`per` values of the flattened matrix in `step` bytes: value j at byte j mod step, shift 6 - 2 (j div step)."""
    w, scale = ternary(rows, columns), singles(1)
    out = bytearray(rows * columns // 4)
    for f, x in enumerate(w.ravel()):
        out[f // per * step + f % per % step] |= (int(x) + 1) << (6 - 2 * (f % per // step))
    emit("I2_S", storage, rows, columns, [bytes(out) + scale.tobytes()], w * float(scale[0]))


i2_s("x86_128", 3, 256, 128, 32)
i2_s("x86_128", 2, 64, 128, 32)
i2_s("arm_64", 3, 192, 64, 16)

rows, columns = 8, 10
w, scale = ternary(rows, columns), singles(1)
out = bytearray()
for r in range(0, rows, 4):
    for c in range(columns):
        out.append(sum((int(w[r + i, c]) + 1) << (6 - 2 * i) for i in range(4)))
emit("I2_S", "x86_1x4", rows, columns, [bytes(out) + scale.tobytes()], w * float(scale[0]))

rows, columns = 12, 5
w = ternary(rows, columns)
quarter = rows // 4
out = sum((w[i * quarter : (i + 1) * quarter] + 1) << (2 * i) for i in range(4)).astype(np.uint8)
emit("BitNetHF", "", rows, columns, [out], w)


def tl1(name, rows, columns, BM, BY, bm):
    w, scale, by, out = ternary(rows, columns), singles(1), 256 // bm, bytearray()
    for mo in range(rows // BM):
        for ko in range(columns // BY):
            for mb in range(BM // bm):
                for pb in range(BY // by):
                    for mg in range(bm // 16):
                        for pq in range(by // 4):
                            for ml in range(16):
                                row = w[mo * BM + mb * bm + mg * 16 + ml]
                                k = ko * BY + pb * by + 4 * pq
                                high = 3 * row[k] + row[k + 1] + 4
                                out.append(int(high << 4 | 3 * row[k + 2] + row[k + 3] + 4))
    emit(name, "", rows, columns, [bytes(out), scale], w * float(scale[0]))


tl1("TL1_160_64", 160, 128, 160, 64, 32)
tl1("TL1_320_128", 320, 128, 320, 128, 64)


def tl2(name, rows, columns, BM, BK):
    w, scale = ternary(rows, columns), singles(1)
    K3 = columns // BK * BK
    order = [0, 2, 1, 3]
    nibbles, pairs = bytearray(), bytearray()

    def triple(row, k):
        return 9 * int(w[row, k]) + 3 * int(w[row, k + 1]) + int(w[row, k + 2])

    for mo in range(rows // BM):
        for ko in range(K3 // BK):
            for mb in range(BM // 32):
                for pb in range(BK // 6):
                    for x in range(32):
                        row, k = mo * BM + mb * 32 + 8 * order[x // 8] + x % 8, ko * BK + 6 * pb
                        nibbles.append(abs(triple(row, k)) << 4 | abs(triple(row, k + 3)))
    words = []
    for mo in range(rows // BM):
        for ko in range(K3 // BK):
            for mb in range(BM // 32):
                for sb in range(BK // 24):
                    for j in range(16):
                        word = 0
                        for s in range(8):
                            for h in range(2):
                                negative = triple(mo * BM + mb * 32 + 16 * h + j, ko * BK + 24 * sb + 3 * s) < 0
                                word |= int(negative) << (15 - (2 * s + h))
                        words.append(word)
    for mo in range(rows // BM):
        for ko in range((columns - K3) // 32):
            for mb in range(BM // 32):
                for pb in range(8):
                    for x in range(32):
                        row = w[mo * BM + mb * 32 + 8 * order[x // 8] + x % 8]
                        k = K3 + ko * 32 + 4 * pb
                        pairs.append(int((3 * row[k] + row[k + 1] + 4) << 4 | 3 * row[k + 2] + row[k + 3] + 4))
    main = bytes(nibbles) + struct.pack(f"<{len(words)}H", *words) + bytes(pairs)
    emit(name, "", rows, columns, [main, scale], w * float(scale[0]))


tl2("TL2_160_96", 160, 96 * 2 + 64, 160, 96)
tl2("TL2_128_96", 256, 96, 128, 96)

# --- checkpoints of GPU libraries ----------------------------------------------------------------------------------


def words_of(codes, bits):
    """Codes as one stream of bits, the lowest first, cut into words of 32; straddling where it must."""
    stream = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    return [(stream >> (32 * j)) & 0xFFFFFFFF for j in range(len(codes) * bits // 32)]


def gptq(name, bits, rows, columns, less, act):
    groups = -(-columns // 128)
    q = random.integers(0, 2**bits, size=(rows, columns))
    z = random.integers(less, 2**bits, size=(groups, rows))
    scales = halves(groups, rows)
    index = random.integers(0, groups, size=columns) if act else np.arange(columns) // 128
    qweight = np.array([words_of(q[n], bits) for n in range(rows)], dtype=np.uint32).T
    qzeros = np.array([words_of(z[g] - less, bits) for g in range(groups)], dtype=np.uint32)
    values = scales.astype(np.float64)[index].T * (q - z[index].T)
    buffers = [qweight, qzeros, scales] + ([index.astype(np.int32)] if act else [])
    emit(name, "", rows, columns, buffers, values)


for bits in (2, 3, 4, 8):
    gptq(f"GPTQ{bits}", bits, 32, 256, 1, False)
    gptq(f"GPTQ{bits}_v2", bits, 32, 160, 0, False)
    gptq(f"GPTQ{bits}_act", bits, 64, 256, 1, True)
gptq("GPTQ4_act_v2", 4, 32, 256, 0, True)

rows, columns = 16, 256
q = random.integers(0, 16, size=(rows, columns))
z = random.integers(0, 16, size=(2, rows))
scales = halves(2, rows)
order = [0, 2, 4, 6, 1, 3, 5, 7]


def awq_words(codes):
    eights = [codes[n : n + 8] for n in range(0, len(codes), 8)]
    return [sum(int(eight[column]) << (4 * p) for p, column in enumerate(order)) for eight in eights]


qweight = np.array([awq_words(q[:, k]) for k in range(columns)], dtype=np.uint32)
qzeros = np.array([awq_words(z[g]) for g in range(2)], dtype=np.uint32)
index = np.arange(columns) // 128
emit("AWQ4", "", rows, columns, [qweight, qzeros, scales], scales.astype(np.float64)[index].T * (q - z[index].T))

NF4 = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"""
table = np.array([float(x) for x in NF4.split()], dtype=np.float32).astype(np.float64)


def high_first(codes):
    return bytes(int(codes[i]) << 4 | int(codes[i + 1]) for i in range(0, len(codes), 2))


rows, columns = 5, 100
q = random.integers(0, 16, size=rows * columns)
absmax = np.abs(singles(-(-q.size // 64)))
values = table[q] * absmax.astype(np.float64)[np.arange(q.size) // 64]
emit("BnbNF4", "", rows, columns, [high_first(q), absmax], values)

rows, columns = 300, 64
q = random.integers(0, 16, size=rows * columns)
codes = random.integers(0, 256, size=300).astype(np.uint8)
quant_map, nested, offset = singles(256), np.abs(singles(2)), singles(1)
block = np.arange(300)
# Few bits each, so that the sum of products is a double.
quant_map, nested, offset = [x.astype(ml_dtypes.bfloat16).astype(np.float32) for x in (quant_map, nested, offset)]
scale = quant_map.astype(np.float64)[codes] * nested.astype(np.float64)[block // 256] + float(offset[0])
values = table[q] * scale[np.arange(q.size) // 64]
emit("BnbNF4_double", "", rows, columns, [high_first(q), codes, quant_map, nested, offset], values)

# --- small floats from ml_dtypes -----------------------------------------------------------------------------------


def numbers(dtype, codes):
    return codes.astype(np.uint8).view(dtype).astype(np.float64)


e2m1 = ml_dtypes.float4_e2m1fn
rows, columns = 3, 64
q = random.integers(0, 16, size=(rows, columns))
scale = random.integers(0, 127, size=(rows, columns // 16))
tensor_scale = singles(1)
packed = (q[:, 0::2] | q[:, 1::2] << 4).astype(np.uint8)
values = numbers(e2m1, q) * np.repeat(numbers(ml_dtypes.float8_e4m3fn, scale), 16, axis=1) * float(tensor_scale[0])
emit("ModelOptNVFP4", "", rows, columns, [packed, scale.astype(np.uint8), tensor_scale], values)


def low_first(codes, bits):
    return sum(int(code) << (bits * i) for i, code in enumerate(codes)).to_bytes(len(codes) * bits // 8, "little")


for name, dtype, bits in [
    ("FP8_E4M3", ml_dtypes.float8_e4m3fn, 8),
    ("FP8_E5M2", ml_dtypes.float8_e5m2, 8),
    ("FP6_E3M2", ml_dtypes.float6_e3m2fn, 6),
    ("FP6_E2M3", ml_dtypes.float6_e2m3fn, 6),
    ("FP4", e2m1, 4),
]:
    q = random.integers(0, 2**bits, size=(256, 32))
    scale = np.arange(256)
    values = numbers(dtype, q) * numbers(ml_dtypes.float8_e8m0fnu, scale)[:, None]
    blocks = b"".join(bytes([s]) + low_first(q[s], bits) for s in scale)
    emit(f"OCP_MX{name}", "", 0, 0, [blocks], values)
    emit(f"MX{name}_beside", "", 256, 32, [low_first(q.ravel(), bits), scale.astype(np.uint8)], values)

q = random.integers(-128, 128, size=(256, 32)).astype(np.int8)
scale = np.arange(256)
blocks = b"".join(bytes([s]) + q[s].tobytes() for s in scale)
emit("OCP_MXINT8", "", 0, 0, [blocks], q / 64.0 * numbers(ml_dtypes.float8_e8m0fnu, scale)[:, None])

# --- digits and posits ---------------------------------------------------------------------------------------------

values = [[code // 3**t % 3 - 1 for t in range(5)] for code in range(256)]
emit("AllTrits5", "", 0, 0, [bytes(range(256))], values)


def posit(code, bits, es):
    """Read bit by bit from the top, as the standard of 2022 describes it."""
    if code == 0:
        return 0.0
    if code == 1 << (bits - 1):
        return float("nan")
    sign = 1
    if code >> (bits - 1):
        sign, code = -1, (1 << bits) - code
    string = [(code >> i) & 1 for i in range(bits - 2, -1, -1)]
    first, length = string[0], 0
    while length < len(string) and string[length] == first:
        length += 1
    r = length - 1 if first else -length
    tail = string[length + 1 :]
    e = 0
    for i in range(es):
        e = 2 * e + (tail[i] if i < len(tail) else 0)
    f = sum(bit * 2.0 ** -(i + 1) for i, bit in enumerate(tail[es:]))
    return sign * (1 + f) * 2.0 ** (r * 2**es + e)


emit("Posit8", "", 0, 0, [bytes(range(256))], [posit(code, 8, 2) for code in range(256)])
emit("Posit8es0", "", 0, 0, [bytes(range(256))], [posit(code, 8, 0) for code in range(256)])
emit("Posit16", "", 0, 0, [np.arange(65536, dtype=np.uint16)], [posit(code, 16, 2) for code in range(65536)])
