// Writes one program: hands out registers and scalars from 0 up, and keeps what comes before all loops apart, so that a
// pointer can be asked for where it is used. Not here: which programs there are (lower.ts, attention.ts).

import { bytesOf, ELEMENT_BITS, type Element, type Fragment, registersOf } from "./fragment.ts";
import { type Instruction, NAMED_SCALARS, type Register, type Scalar, type Space } from "./instruction.ts";
import type { Program } from "./program.ts";

/** A matrix in memory: row r at scalar[base] + offset + r * stride. */
export interface Place {
  readonly space: Space;
  readonly base: Scalar;
  readonly offset: number;
  readonly stride: number;
}

export class Writer {
  readonly #before: Instruction[] = [];
  readonly #code: Instruction[] = [];
  #registers = 0;
  #most = 1;
  #scalars: number;

  /** @param parameters of a launch, in s0 and up */
  constructor(parameters = 0) {
    this.#scalars = parameters;
  }

  /** Registers of a fragment's own. */
  take(fragment: Fragment): Register {
    const at = this.#registers;
    this.#registers += registersOf(fragment);
    this.#most = Math.max(this.#most, this.#registers);
    return at;
  }

  /** Registers that the body takes are free again behind it. */
  scope(body: () => void): void {
    const before = this.#registers;
    body();
    this.#registers = before;
  }

  scalar(): Scalar {
    return this.#scalars++;
  }

  /** A scalar that is left * factor + right at the start of the program. */
  pointer(left: Scalar, factor: number, right: Scalar = NAMED_SCALARS.nil): Scalar {
    const to = this.scalar();
    this.#before.push({ kind: "lea", to, left, factor, right, addend: 0 });
    return to;
  }

  move(pointer: Scalar, bytes: number): void {
    if (bytes !== 0)
      this.add({ kind: "lea", to: pointer, left: pointer, factor: 1, right: NAMED_SCALARS.nil, addend: bytes });
  }

  add(...instructions: readonly Instruction[]): void {
    this.#code.push(...instructions);
  }

  /** Loads a matrix into registers of its own, or into those that are given. */
  load(
    of: { readonly rows: number; readonly columns: number; readonly element: Element },
    place: Place,
    to: Register = this.take({ kind: "matrix", ...of }),
    order: "rows" | "columns" = "rows",
  ): Register {
    this.add({ kind: "ld.mat", ...of, order, to, ...place });
    return to;
  }

  /** Repeats what the body writes; once needs no loop. */
  loop(times: number | { readonly count: Scalar }, body: () => void): void {
    if (times === 1) return body();
    const [count, number] = typeof times === "number" ? [NAMED_SCALARS.nil, times] : [times.count, 0];
    this.add({ kind: "loop", count, times: number });
    body();
    this.add({ kind: "end" });
  }

  program(settings: Omit<Program, "registers" | "code">): Program {
    return { ...settings, registers: this.#most, code: [...this.#before, ...this.#code] };
  }
}

/** A matrix that begins where a pointer is. */
export function placeAt(buffer: number | "shared", base: Scalar, stride = 0, offset = 0): Place {
  return { space: buffer === "shared" ? buffer : `g${buffer}`, base, offset, stride };
}

/** Bytes of so many numbers, one behind the other. */
export function sizeOf(count: number, element: Element): number {
  return (count * ELEMENT_BITS[element]) / 8;
}

/** Bytes of a row of tables. */
export function tableBytes(k: number, entry: Element): number {
  return bytesOf({ kind: "table", m: 1, k, entry });
}
