// A module of Verilog under construction: nets of checked widths, gates, full and half adders, registers, instances.
// Nets carry the time at which they are there, in cycles behind the module's inputs; where nets of different times meet,
// the earlier ones are delayed by registers, so that a cut of one net cuts all beside it.
// Not here: arithmetic (arithmetic.ts, float.ts). What is written is Verilog-2005 without initial values, latches,
// variable slices or chains of conditions, which synthesis maps as it stands.

export interface Wire {
  readonly name: string;
  readonly width: number;
  readonly time: number;
}
/** A constant or one bit of a wire. */
export type Bit = 0 | 1 | { readonly wire: Wire; readonly index: number };
/** Bits, the least significant first. */
export type Net = readonly Bit[];

/** What a module looks like from outside. */
export interface Module {
  readonly name: string;
  readonly inputs: readonly Wire[];
  /** Times are those of the nets that drive them. */
  readonly outputs: readonly Wire[];
  readonly text: string;
  /** Those that it instantiates. */
  readonly parts: readonly Module[];
}

/** Cells that a library may have as such; synthesis knows them by these names. */
const ADDERS = `// One bit of three: s + 2 co = a + b + c.
module lutra_fa(input a, input b, input c, output s, output co);
  wire half = a ^ b;
  assign s = half ^ c;
  assign co = (a & b) | (half & c);
endmodule

// One bit of two: s + 2 co = a + b.
module lutra_ha(input a, input b, output s, output co);
  assign s = a ^ b;
  assign co = a & b;
endmodule
`;

/** Those words of Verilog that a net might well be called. */
const KEYWORDS =
  "and or not xor buf generate table small large medium signed cell design end begin case input output".split(" ");

/** The text of a module and all that it instantiates, each once, parts first. */
export function verilogOf(top: Module): string {
  const texts = new Map<string, string>();
  const visit = ({ name, text, parts }: Module): void => {
    for (const part of parts) visit(part);
    const before = texts.get(name);
    if (before !== undefined && before !== text) throw new Error(`two modules are called ${name}`);
    texts.set(name, text);
  };
  visit(top);
  return [ADDERS, ...texts.values()].join("\n");
}

/** `value` modulo 2^width. */
export function constant(value: bigint, width: number): Net {
  return Array.from({ length: width }, (_, i) => (((value >> BigInt(i)) & 1n) === 1n ? 1 : 0));
}

/** Two's complement, by as many copies of the highest bit as are needed. */
export function signExtended(x: Net, width: number): Net {
  return Array.from({ length: width }, (_, i) => x[Math.min(i, x.length - 1)]!);
}

export function zeroExtended(x: Net, width: number): Net {
  return Array.from({ length: width }, (_, i) => x[i] ?? 0);
}

export function timeOf(x: Net): number {
  return x.reduce<number>((most, bit) => (typeof bit === "number" ? most : Math.max(most, bit.wire.time)), 0);
}

/** A register whose next value is not known yet. */
export interface State {
  readonly name: string;
  readonly now: Net;
}

export class Circuit {
  readonly #name: string;
  readonly #about: readonly string[];
  readonly #inputs: Wire[] = [];
  readonly #outputs: Wire[] = [];
  readonly #lines: string[] = [];
  readonly #registers: string[] = [];
  readonly #parts = new Map<string, Module>();
  readonly #names = new Map<string, number>(["clk", ...KEYWORDS].map((name) => [name, 1]));
  /** Bits one cycle later, by the bit. */
  readonly #later = new Map<string, Bit>();
  readonly #inverted = new Map<string, Bit>();

  /** @param about lines of comment over the module */
  constructor(name: string, about: readonly string[]) {
    this.#name = name;
    this.#about = about;
  }

  /** @param time at which it is given */
  input(name: string, width: number, time = 0): Net {
    const wire = { name: this.#fresh(name), width, time };
    if (wire.name !== name) throw new Error(`${this.#name}: two ports are called ${name}`);
    this.#inputs.push(wire);
    return bitsOf(wire);
  }

  /** A port cannot have the name of a wire that is there; outputs are declared last. */
  output(name: string, x: Net): void {
    const wire = { name: this.#fresh(name), width: x.length, time: timeOf(x) };
    if (wire.name !== name) throw new Error(`${this.#name}: ${name} is taken, and cannot be a port`);
    this.#outputs.push(wire);
    this.#lines.push(`assign ${name} = ${textOf(this.at(x, wire.time))};`);
  }

  not(x: Net): Net {
    const bits = x.filter((bit) => typeof bit !== "number" && !this.#inverted.has(keyOf(bit)));
    if (bits.length > 0) {
      const inverted = this.#let("inv", bits.length, timeOf(bits), `~${textOf(this.at(bits, timeOf(bits)))}`);
      // Bits of several times have been brought to the latest one, and are known by the bits that went in.
      for (const [i, bit] of bits.entries()) this.#inverted.set(keyOf(bit), inverted[i]!);
    }
    return x.map((bit) => (typeof bit === "number" ? (bit === 0 ? 1 : 0) : this.#inverted.get(keyOf(bit))!));
  }

  and(a: Net, b: Net, hint = "both"): Net {
    return this.#bitwise("&", a, b, hint, (known, other) => (known === 0 ? 0 : other));
  }

  or(a: Net, b: Net, hint = "either"): Net {
    return this.#bitwise("|", a, b, hint, (known, other) => (known === 1 ? 1 : other));
  }

  xor(a: Net, b: Net, hint = "differ"): Net {
    return this.#bitwise("^", a, b, hint, (known, other) => (known === 0 ? other : this.not([other])[0]!));
  }

  /** Whether any bit is set. */
  any(x: Net, hint = "any"): Bit {
    return this.#reduce("|", x, 1, hint);
  }

  /** Whether all bits are. */
  all(x: Net, hint = "all"): Bit {
    return this.#reduce("&", x, 0, hint);
  }

  /** `yes` where `select` is 1, else `no`. */
  mux(select: Bit, yes: Net, no: Net, hint = "mux"): Net {
    this.#sameWidth("mux", yes, no);
    if (typeof select === "number") return select === 1 ? yes : no;
    // Where both are the same bit, or known, there is nothing to choose.
    const open = yes.flatMap((bit, i) => (sameBit(bit, no[i]!) ? [] : [i]));
    if (open.length === 0) return yes;
    const [y, n] = [open.map((i) => yes[i]!), open.map((i) => no[i]!)];
    const time = timeOf([select, ...y, ...n]);
    const [s, a, b] = [this.at([select], time), this.at(y, time), this.at(n, time)];
    const chosen = this.#let(hint, open.length, time, `${textOf(s)} ? ${textOf(a)} : ${textOf(b)}`);
    const out = [...yes];
    for (const [j, i] of open.entries()) out[i] = chosen[j]!;
    return out;
  }

  /** The sum and the carry of three bits: cells where all are wires, fewer gates where some are known. */
  fullAdder(a: Bit, b: Bit, c: Bit): readonly [sum: Bit, carry: Bit] {
    const wires = [a, b, c].filter((bit) => typeof bit !== "number");
    const ones = [a, b, c].filter((bit) => bit === 1).length;
    const [x, y] = wires;
    if (x === undefined) return [ones % 2 === 1 ? 1 : 0, ones >= 2 ? 1 : 0];
    if (y === undefined) {
      if (ones === 0) return [x, 0];
      return ones === 1 ? [this.not([x])[0]!, x] : [x, 1];
    }
    if (wires.length === 3) return this.#cell("fa", wires);
    if (ones === 0) return this.#cell("ha", wires);
    return [this.not(this.xor([x], [y], "s"))[0]!, this.or([x], [y], "co")[0]!];
  }

  /** The same bits `time - their time` cycles later, through registers. */
  at(x: Net, time: number): Net {
    let now = x;
    for (;;) {
      const early = now.filter((bit) => typeof bit !== "number" && bit.wire.time < time);
      if (early.length === 0) return now;
      const soonest = Math.min(...early.map((bit) => (typeof bit === "number" ? time : bit.wire.time)));
      now = this.#oneLater(now, soonest);
    }
  }

  /** One cycle later: a register on every bit that is known only at run time. */
  cut(x: Net): Net {
    const time = timeOf(x);
    return this.#oneLater(this.at(x, time), time);
  }

  /** A register that belongs to `time`: what is computed from it is there then. */
  state(hint: string, width: number, time: number): State {
    const name = this.#fresh(hint);
    this.#lines.push(`reg ${range(width)}${name};`);
    return { name, now: bitsOf({ name, width, time }) };
  }

  /** What a state takes on at the edge of the clock, where `enable` is 1. */
  drive({ name, now }: State, next: Net, enable: Bit): void {
    this.#sameWidth(name, now, next);
    const time = timeOf([...next, enable]);
    const [d, [on]] = [this.at(next, time), this.at([enable], time)];
    const condition = on === 1 ? "" : `if (${textOf([on!])}) `;
    this.#registers.push(`always @(posedge clk) ${condition}${name} <= ${textOf(d)};`);
  }

  /** A copy of a module. @returns its outputs, by name */
  instance(part: Module, name: string, inputs: Readonly<Record<string, Net>>): Readonly<Record<string, Net>> {
    this.#parts.set(part.name, part);
    const start = Math.max(0, ...part.inputs.map((wire) => timeOf(inputs[wire.name] ?? []) - wire.time));
    const ports = part.inputs.map((wire) => {
      const given = inputs[wire.name];
      if (given === undefined || given.length !== wire.width)
        throw new Error(`${part.name}.${wire.name} has ${wire.width} bits, and is given ${given?.length ?? "nothing"}`);
      return `.${wire.name}(${textOf(this.at(given, start + wire.time))})`;
    });
    const outputs = part.outputs.map((wire) => {
      const out = { name: this.#fresh(`${name}_${wire.name}`), width: wire.width, time: start + wire.time };
      this.#lines.push(`wire ${range(wire.width)}${out.name};`);
      return [wire.name, bitsOf(out)] as const;
    });
    const wired = [...ports, ...outputs.map(([port, net]) => `.${port}(${textOf(net)})`)];
    this.#lines.push(`${part.name} ${this.#fresh(name)}(.clk(clk), ${wired.join(", ")});`);
    return Object.fromEntries(outputs);
  }

  module(): Module {
    const ports = [
      "input clk",
      ...this.#inputs.map(({ name, width }) => `input ${range(width)}${name}`),
      ...this.#outputs.map(({ name, width }) => `output ${range(width)}${name}`),
    ];
    const text = [
      ...this.#about.map((line) => `// ${line}`),
      `module ${this.#name}(`,
      ports.map((port) => `  ${port}`).join(",\n"),
      ");",
      ...[...this.#lines, ...this.#registers].map((line) => `  ${line}`),
      "endmodule",
      "",
    ].join("\n");
    return {
      name: this.#name,
      inputs: this.#inputs,
      outputs: this.#outputs,
      text,
      parts: [...this.#parts.values()],
    };
  }

  #fresh(hint: string): string {
    const count = this.#names.get(hint) ?? 0;
    this.#names.set(hint, count + 1);
    return count === 0 ? hint : this.#fresh(`${hint}_${count}`);
  }

  #let(hint: string, width: number, time: number, text: string): Net {
    const wire = { name: this.#fresh(hint), width, time };
    this.#lines.push(`wire ${range(width)}${wire.name} = ${text};`);
    return bitsOf(wire);
  }

  /** @param fold of a known bit and any other one, what they make, if not a gate is needed */
  #bitwise(operator: "&" | "|" | "^", a: Net, b: Net, hint: string, fold: (known: Bit, other: Bit) => Bit): Net {
    this.#sameWidth(operator, a, b);
    const isOpen = (i: number): boolean => typeof a[i] !== "number" && typeof b[i] !== "number";
    const open = a.flatMap((_, i) => (isOpen(i) ? [i] : []));
    const [x, y] = [open.map((i) => a[i]!), open.map((i) => b[i]!)];
    const time = timeOf([...x, ...y]);
    const gates =
      open.length === 0
        ? []
        : this.#let(hint, open.length, time, `${textOf(this.at(x, time))} ${operator} ${textOf(this.at(y, time))}`);
    let next = 0;
    return a.map((bit, i) => {
      const other = b[i]!;
      if (isOpen(i)) return gates[next++]!;
      return typeof bit === "number" ? fold(bit, other) : fold(other, bit);
    });
  }

  /** @param decisive the bit that settles it */
  #reduce(operator: "&" | "|", x: Net, decisive: 0 | 1, hint: string): Bit {
    if (x.includes(decisive)) return decisive;
    const open = x.filter((bit) => typeof bit !== "number");
    if (open.length === 0) return decisive === 1 ? 0 : 1;
    if (open.length === 1) return open[0]!;
    const time = timeOf(open);
    return this.#let(hint, 1, time, `${operator}${textOf(this.at(open, time))}`)[0]!;
  }

  #cell(cell: "fa" | "ha", wires: Net): readonly [Bit, Bit] {
    const time = timeOf(wires);
    const [s, co] = [this.#fresh("s"), this.#fresh("co")];
    const ports = this.at(wires, time).map((bit, i) => `.${"abc"[i]}(${textOf([bit])})`);
    this.#lines.push(`wire ${s}, ${co};`);
    this.#lines.push(`lutra_${cell} ${this.#fresh(cell)}(${ports.join(", ")}, .s(${s}), .co(${co}));`);
    return [
      { wire: { name: s, width: 1, time }, index: 0 },
      { wire: { name: co, width: 1, time }, index: 0 },
    ];
  }

  /** The bits of one time a cycle later, each through one register however often it is asked for. */
  #oneLater(x: Net, time: number): Net {
    const isNow = (bit: Bit): boolean => typeof bit !== "number" && bit.wire.time === time;
    const fresh = [
      ...new Map(x.filter((bit) => isNow(bit) && !this.#later.has(keyOf(bit))).map((b) => [keyOf(b), b])).values(),
    ];
    if (fresh.length > 0) {
      const wire = { name: this.#fresh(`t${time + 1}`), width: fresh.length, time: time + 1 };
      this.#lines.push(`reg ${range(wire.width)}${wire.name};`);
      this.#registers.push(`always @(posedge clk) ${wire.name} <= ${textOf(fresh)};`);
      for (const [index, bit] of fresh.entries()) this.#later.set(keyOf(bit), { wire, index });
    }
    return x.map((bit) => (isNow(bit) ? this.#later.get(keyOf(bit))! : bit));
  }

  #sameWidth(what: string, a: Net, b: Net): void {
    if (a.length !== b.length) throw new Error(`${this.#name}: ${what} of ${a.length} and ${b.length} bits`);
  }
}

function bitsOf(wire: Wire): Net {
  return Array.from({ length: wire.width }, (_, index) => ({ wire, index }));
}

function keyOf(bit: Bit): string {
  return typeof bit === "number" ? String(bit) : `${bit.wire.name}[${bit.index}]`;
}

function sameBit(a: Bit, b: Bit): boolean {
  return typeof a === "number" || typeof b === "number" ? a === b : a.wire === b.wire && a.index === b.index;
}

function range(width: number): string {
  return width === 1 ? "" : `[${width - 1}:0] `;
}

/** A net in Verilog: neighbouring bits of a wire as one slice, equal bits repeated. */
function textOf(x: Net): string {
  const parts: string[] = [];
  for (let high = x.length - 1; high >= 0;) {
    const bit = x[high]!;
    let low = high;
    if (typeof bit === "number") {
      while (low > 0 && typeof x[low - 1] === "number") low--;
      const digits = x
        .slice(low, high + 1)
        .toReversed()
        .map((digit) => (digit === 1 ? "1" : "0"));
      parts.push(`${digits.length}'b${digits.join("")}`);
    } else {
      const follows = (i: number): boolean => {
        const next = x[i];
        return typeof next === "object" && next.wire === bit.wire && next.index === bit.index - (high - i);
      };
      while (low > 0 && follows(low - 1)) low--;
      if (low === high) {
        while (low > 0 && sameBit(x[low - 1]!, bit)) low--;
        const one = bit.wire.width === 1 ? bit.wire.name : `${bit.wire.name}[${bit.index}]`;
        parts.push(low === high ? one : `{${high - low + 1}{${one}}}`);
      } else {
        const lowest = bit.index - (high - low);
        const isWhole = lowest === 0 && high - low + 1 === bit.wire.width;
        parts.push(isWhole ? bit.wire.name : `${bit.wire.name}[${bit.index}:${lowest}]`);
      }
    }
    high = low - 1;
  }
  return parts.length === 1 ? parts[0]! : `{${parts.join(", ")}}`;
}
