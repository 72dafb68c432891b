// Values on the nets of a netlist, 32 independent streams at once, one a bit of a word; and how often each net turns.
// Gates become a tape of operations of two operands, done in order: without delays once a cycle, or, with unit delays,
// all at once again and again until nothing changes, so that the turns on the way, the glitches, are counted too.
// Not here: what a turn costs (energy.ts), what the netlist is (netlist.ts).

import type { Expression } from "./expression.ts";
import { type Model, type Netlist, NetlistError } from "./netlist.ts";

export const STREAMS = 32;

/** Words of one port, the least significant bit's first; bit i of a word is stream i. */
export type Words = ArrayLike<number>;

export interface Simulator {
  /** Sets input ports, those not named stay as they are, and lets all gates settle. */
  settle(inputs: Readonly<Record<string, Words>>): void;
  /** The words of a port as they are now. */
  read(port: string): Int32Array;
  /** The rising edge of the clock: flip-flops take what they see; outputs follow with the next `settle`. */
  tick(): void;
  /** Turns of each net since the beginning, over all streams; the clock's own are not counted. */
  readonly turns: Float64Array;
  /** Cycles that turns were counted over: calls of `settle` but the first, from which the state is unknown before. */
  readonly cycles: number;
}

/** How gates settle: at once, or each one step behind its inputs. */
export type Delays = "zero" | "unit";

const OPS = ["copy", "not", "and", "or", "xor"] as const;

/** A simulator whose nets are all 0, flip-flops too. */
export function makeSimulator<M extends Model>(netlist: Netlist<M>, delays: Delays): Simulator {
  const count = netlist.netNames.length;
  const tape: number[] = [];
  let slots = count;
  /** Appends what computes the expression; the slot of its value. */
  const compile = (expression: Expression, slotOf: (pin: string) => number, into: number | null): number => {
    const place = (): number => into ?? slots++;
    switch (expression.op) {
      case "const":
        if (into === null) return expression.value;
        tape.push(0, expression.value, 0, into);
        return into;
      case "pin": {
        const slot = slotOf(expression.name);
        if (into === null) return slot;
        tape.push(0, slot, 0, into);
        return into;
      }
      case "not": {
        const a = compile(expression.a, slotOf, null);
        const to = place();
        tape.push(1, a, 0, to);
        return to;
      }
      default: {
        const a = compile(expression.a, slotOf, null);
        const b = compile(expression.b, slotOf, null);
        const to = place();
        tape.push(OPS.indexOf(expression.op), a, b, to);
        return to;
      }
    }
  };
  for (const { model, nets } of netlist.gates)
    for (const output of model.outputs) compile(output.function, (pin) => nets.get(pin)!, nets.get(output.name)!);
  const gateTape = Int32Array.from(tape);
  // What flip-flops take, and what their outputs become, from a slot that holds the state.
  tape.length = 0;
  const states = netlist.flipFlops.map(({ model, nets }) => {
    const state = slots++;
    compile(model.flipFlop!.next, (pin) => nets.get(pin)!, state);
    return state;
  });
  const nextTape = Int32Array.from(tape);
  tape.length = 0;
  for (const [i, { model, nets }] of netlist.flipFlops.entries()) {
    const { inverse } = model.flipFlop!;
    const turned = slots++;
    tape.push(1, states[i]!, 0, turned);
    for (const output of model.outputs)
      compile(output.function, (pin) => (pin === inverse ? turned : states[i]!), nets.get(output.name)!);
  }
  const stateTape = Int32Array.from(tape);

  const values = new Int32Array(slots);
  values[1] = -1;
  runTape(stateTape, values);
  const before = new Int32Array(count);
  const turns = new Float64Array(count);
  const inputs = new Map(netlist.inputs.map((port) => [port.name, port.nets]));
  const outputs = new Map([...netlist.inputs, ...netlist.outputs].map((port) => [port.name, port.nets]));
  const clock = netlist.clock?.net ?? -1;
  let settled = 0;
  const countTurns = (): void => {
    if (settled > 0) for (let n = 2; n < count; n++) if (n !== clock) turns[n]! += ones(values[n]! ^ before[n]!);
    before.set(values.subarray(0, count));
  };
  const unitStep = settleTogether(gateTape, values, count);
  return {
    settle(given) {
      for (const [name, words] of Object.entries(given)) {
        const nets = inputs.get(name);
        if (nets === undefined)
          throw new NetlistError(`${netlist.name} has no input ${name}; inputs are ${[...inputs.keys()].join(", ")}`);
        if (words.length !== nets.length)
          throw new NetlistError(`${name} has ${nets.length} bits; words for ${words.length} were given`);
        for (const [i, n] of nets.entries()) values[n] = words[i]!;
      }
      if (delays === "zero" || settled === 0) {
        runTape(gateTape, values);
        countTurns();
      } else {
        countTurns();
        // A gate follows its inputs one step later, and no path has more gates than there are.
        for (let step = 0; unitStep(); step++) {
          if (step > netlist.gates.length) throw new NetlistError(`${netlist.name}: gates do not settle`);
          countTurns();
        }
      }
      settled++;
    },
    read(port) {
      const nets = outputs.get(port);
      if (nets === undefined)
        throw new NetlistError(`${netlist.name} has no port ${port}; ports are ${[...outputs.keys()].join(", ")}`);
      return Int32Array.from(nets, (n) => values[n]!);
    },
    tick() {
      runTape(nextTape, values);
      runTape(stateTape, values);
    },
    turns,
    get cycles() {
      return Math.max(0, settled - 1);
    },
  };
}

function runTape(tape: Int32Array, values: Int32Array): void {
  for (let i = 0; i < tape.length; i += 4) {
    const a = values[tape[i + 1]!]!;
    const b = values[tape[i + 2]!]!;
    const op = tape[i]!;
    values[tape[i + 3]!] = op === 2 ? a & b : op === 4 ? a ^ b : op === 3 ? a | b : op === 1 ? ~a : a;
  }
}

/** One step of unit delay: every gate from the values before; whether any net changed. */
function settleTogether(tape: Int32Array, values: Int32Array, nets: number): () => boolean {
  const next = new Int32Array(nets);
  return () => {
    next.set(values.subarray(0, nets));
    for (let i = 0; i < tape.length; i += 4) {
      const a = values[tape[i + 1]!]!;
      const b = values[tape[i + 2]!]!;
      const op = tape[i]!;
      const result = op === 2 ? a & b : op === 4 ? a ^ b : op === 3 ? a | b : op === 1 ? ~a : a;
      const to = tape[i + 3]!;
      if (to < nets) next[to] = result;
      else values[to] = result; // inside one gate
    }
    let changed = false;
    for (let n = 0; n < nets; n++)
      if (next[n] !== values[n]) {
        changed = true;
        values[n] = next[n]!;
      }
    return changed;
  };
}

function ones(word: number): number {
  let x = word;
  x -= (x >>> 1) & 0x55555555;
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Words of a port of `width` bits from its value on each stream; missing streams are 0, negative values two's complement. */
export function pack(values: readonly bigint[], width: number): Int32Array {
  const words = new Int32Array(width);
  for (const [stream, value] of values.entries()) {
    const bits = BigInt.asUintN(width, value);
    for (let i = 0; i < width; i++) if ((bits >> BigInt(i)) & 1n) words[i]! |= 1 << stream;
  }
  return words;
}

/** Value on each stream of a port's words, without sign. */
export function unpack(words: Words): readonly bigint[] {
  return Array.from({ length: STREAMS }, (_, stream) => {
    let value = 0n;
    for (let i = words.length - 1; i >= 0; i--) value = (value << 1n) | BigInt((words[i]! >>> stream) & 1);
    return value;
  });
}
