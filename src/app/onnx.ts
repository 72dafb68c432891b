// An ONNX file of one node, com.microsoft's MatMulNBits: the product of activations with a low-bit matrix, as ONNX
// Runtime's language models have it. Just as much of protobuf as that takes.
// Not here: running it (bench-product.ts). Sources: onnx.proto3 for the field numbers; ONNX Runtime's
// docs/ContribOperators.md for the operator: B is (n, k / block, block * bits / 8), codes from the low bits up, and
// their zero point is 2^(bits - 1) where none is given.

export interface MatMulNBits {
  readonly n: number;
  readonly k: number;
  readonly bits: number;
  readonly block: number;
  /** (n, k / block, block * bits / 8). */
  readonly codes: Uint8Array;
  /** (n, k / block). */
  readonly scales: Float32Array;
  /** What activations may be rounded to: 4 allows int8, and is what models in practice have. */
  readonly accuracyLevel: number;
}

/** TensorProto.DataType. */
const FLOAT = 1;
const UINT8 = 2;
/** AttributeProto.AttributeType. */
const INT = 2;
/** IR version 10 and operator set 21, of ONNX 1.16. */
const IR_VERSION = 10;
const OPSET = 21;

/** The bytes of a model with input A (m, k) and output Y (m, n), both float32, m free. */
export function matMulNBits(what: MatMulNBits): Uint8Array {
  const { n, k, bits, block, codes, scales, accuracyLevel } = what;
  const blocks = k / block;
  const integers = { K: k, N: n, bits, block_size: block, accuracy_level: accuracyLevel };
  const node = [
    ...["A", "B", "scales"].map((name) => field(1, name)),
    field(2, "Y"),
    field(4, "MatMulNBits"),
    ...Object.entries(integers).map(([name, value]) => field(5, [field(1, name), field(3, value), field(20, INT)])),
    field(7, "com.microsoft"),
  ];
  const tensor = (name: string, type: number, dims: readonly number[], data: Uint8Array): Field =>
    field(5, [...dims.map((length) => field(1, length)), field(2, type), field(8, name), field(9, data)]);
  const value = (at: number, name: string, length: number): Field => {
    const shape = [field(1, [field(2, "m")]), field(1, [field(1, length)])];
    return field(at, [field(1, name), field(2, [field(1, [field(1, FLOAT), field(2, shape)])])]);
  };
  const graph = [
    field(1, node),
    field(2, "product"),
    tensor("B", UINT8, [n, blocks, (block * bits) / 8], codes),
    tensor("scales", FLOAT, [n, blocks], new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength)),
    value(11, "A", k),
    value(12, "Y", n),
  ];
  const opset = (domain: string, version: number): Field => field(8, [field(1, domain), field(2, version)]);
  const model = [field(1, IR_VERSION), opset("", OPSET), opset("com.microsoft", 1), field(7, graph)];
  return Buffer.concat(model.flat());
}

/** A field's bytes, in pieces: large data are put together once, at the end. */
type Field = readonly Uint8Array[];

/** Whole numbers are varints; texts, bytes and messages have their length before them. */
function field(number: number, value: number | string | Uint8Array | readonly Field[]): Field {
  if (typeof value === "number") return [varint(number << 3), varint(value)];
  const parts =
    typeof value === "string"
      ? [new TextEncoder().encode(value)]
      : value instanceof Uint8Array
        ? [value]
        : value.flat();
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return [varint((number << 3) | 2), varint(length), ...parts];
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let left = value;
  for (; left >= 128; left = Math.floor(left / 128)) bytes.push((left % 128) | 128);
  return Uint8Array.from([...bytes, left]);
}
