// What the tests of the scheduler share: products by name, machines with a few words of their text changed, and a plan
// as lines that people read.

import { resolveProgram } from "../../src/ladder/resolve.ts";
import type { Gemm } from "../../src/ladder/schedule/route.ts";
import type { Schedule, Scheduled } from "../../src/ladder/schedule/schedule.ts";
import type { DeviceModel, Element, Endpoint, Program } from "../../src/ladder/type.ts";
import { builtinTexts, findings } from "./program.ts";

/** The built-in texts, with device.ladder as it is made by an edit. */
export function programWithDevices(edit: (text: string) => string): Program {
  const devices = edit(builtinTexts.get("device.ladder")!);
  const files = { ...Object.fromEntries(builtinTexts), "device.ladder": devices };
  const resolution = resolveProgram(new Map(Object.entries(files)));
  if (resolution.kind === "program") return resolution.program;
  throw new Error(findings(files));
}

export function endpoint(program: Program, name: string): Endpoint {
  const element = program.elements.get(name);
  if (element !== undefined) return { kind: "element", element };
  const type = program.types.get(name);
  if (type === undefined) throw new Error(`the program has no ${name}`);
  return { kind: "type", type };
}

export function elementNamed(program: Program, name: string): Element {
  const element = program.elements.get(name);
  if (element === undefined) throw new Error(`the program has no element ${name}`);
  return element;
}

export function deviceNamed(program: Program, name: string): DeviceModel {
  const device = program.devices.get(name);
  if (device === undefined) throw new Error(`the program has no device ${name}`);
  return device;
}

/** `F16 x Q4_0`, summed in F32 to F32, m 1 and n = k = 4096 if nothing else is said. */
export function gemmOf(
  program: Program,
  text: string,
  { m = 1, n = 4096, k = 4096, accept = "exact" }: Partial<Pick<Gemm, "m" | "n" | "k" | "accept">> = {},
): Gemm {
  const [activation = "", weight = ""] = text.split(" x ");
  const single = elementNamed(program, "F32");
  const ends = { activation: endpoint(program, activation), weight: endpoint(program, weight) };
  return { ...ends, accumulate: single, out: single, m, n, k, accept };
}

/** Every plan, the chosen one first. */
export function plansOf(scheduled: Scheduled): readonly Schedule[] {
  return scheduled.kind === "schedule" ? [scheduled.chosen, ...scheduled.others] : [];
}

/** The chosen plan as lines; times in microseconds with three digits. */
export function shown(scheduled: Scheduled): readonly string[] {
  if (scheduled.kind === "impossible") return ["no plan", ...scheduled.refused.map(({ reason }) => reason)];
  const plan = scheduled.chosen;
  const { gemm, cost, product, padded, lookup, guarantee, accumulation, weights } = plan;
  const us = (ns: number): string => String(Number((ns / 1000).toPrecision(3)));
  const { order, codes, planes, metadata, n, k } = weights.layout;
  return [
    `${gemm.activation} x ${gemm.weight} on ${plan.device}, m ${gemm.m}, n ${gemm.n}, k ${gemm.k}`,
    plan.name,
    `multiplies ${product.activation} x ${product.weight} into ${product.accumulate}, ${product.m} x ${product.n} x ${product.k}`,
    ...(lookup === null ? [] : [`tables: ${JSON.stringify(lookup)}`]),
    `keeps weights by ${guarantee.weights}, activations by ${guarantee.activations}; rounding: ${guarantee.rounding}`,
    `sums ${accumulation.segment} products in ${accumulation.element}, exact for ${accumulation.exact ?? "none"}`,
    `layout: ${order}, ${codes}${planes > 0 ? ` ${planes}` : ""}, metadata ${metadata}, tiles n ${n}, k ${k}`,
    ...plan.tiles.map((tile) => `tile in ${tile.memory}: m ${tile.m}, n ${tile.n}, k ${tile.k}`),
    `padded: m ${padded.m}, n ${padded.n}, k ${padded.k}`,
    ...plan.guards.map((guard) => `where ${JSON.stringify(guard)}, else ${plan.fallback}`),
    ...plan.steps.map(({ at, operand, kind, ...rest }) => {
      const proof = "proof" in rest ? plan.proofs.find(({ id }) => id === rest.proof) : undefined;
      return `${at}: ${kind} ${operand} ${proof === undefined ? JSON.stringify(rest) : proof.claim}`;
    }),
    ...cost.memories.map(({ memory, bytes, ns }) => `reads ${Math.round(bytes)} bytes of ${memory}: ${us(ns)} us`),
    `computes ${us(cost.compute.ns)} us: products ${us(cost.compute.products)}, conversions ${us(cost.compute.conversions)}, scales ${us(cost.compute.scales)}`,
    `takes ${us(cost.total)} us, waits for ${cost.bound}; of the cores ${Math.round(100 * cost.busy)} % are busy`,
  ];
}

/** Lines of which only one side has them, in their order: - before, + after. */
export function difference(before: readonly string[], after: readonly string[]): string {
  const lines: string[] = [];
  let b = 0;
  for (const line of before) {
    const at = after.indexOf(line, b);
    if (at === -1) {
      lines.push(`- ${line}`);
      continue;
    }
    lines.push(...after.slice(b, at).map((one) => `+ ${one}`), `  ${line}`);
    b = at + 1;
  }
  lines.push(...after.slice(b).map((one) => `+ ${one}`));
  return `${lines.join("\n")}\n`;
}
