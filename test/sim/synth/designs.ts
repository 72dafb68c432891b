// Small designs in Verilog with what they compute in JavaScript, and the libraries that come with Lutra.

import { readFileSync } from "node:fs";

import type { Cell, Library } from "../../../sim/synth/library.ts";
import { readLibrary } from "../../../sim/synth/library.ts";
import type { Source } from "../../../sim/synth/script.ts";
import { openYosys, type Yosys } from "../../../sim/synth/yosys.ts";

export function shipped(node: "45nm" | "7nm"): Library {
  const file = new URL(`../../../sim/data/cells/${node}.json`, import.meta.url);
  return readLibrary(JSON.parse(readFileSync(file, "utf8")), `${node}.json`);
}

export function modelsOf(library: Library): ReadonlyMap<string, Cell> {
  return new Map(library.cells.map((cell) => [cell.name, cell]));
}

/** The package is a dependency of development, so that tests always have it. */
export async function yosysOfTests(): Promise<Yosys> {
  const yosys = await openYosys(false);
  if ("unavailable" in yosys) throw new Error(yosys.unavailable);
  return yosys;
}

const ADDERS = `module lutra_fa(input a, input b, input c, output s, output co);
  assign s = a ^ b ^ c; assign co = (a & b) | (c & (a | b));
endmodule
module lutra_ha(input a, input b, output s, output co);
  assign s = a ^ b; assign co = a & b;
endmodule
`;

/** sum = x + y over five bits by explicit adders, the first a half adder. */
export const RIPPLE: Source = {
  top: "ripple",
  verilog: `${ADDERS}module ripple(input [3:0] x, input [3:0] y, output [4:0] sum);
  wire [2:0] k;
  lutra_ha h(.a(x[0]), .b(y[0]), .s(sum[0]), .co(k[0]));
  lutra_fa f1(.a(x[1]), .b(y[1]), .c(k[0]), .s(sum[1]), .co(k[1]));
  lutra_fa f2(.a(x[2]), .b(y[2]), .c(k[1]), .s(sum[2]), .co(k[2]));
  lutra_fa f3(.a(x[3]), .b(y[3]), .c(k[2]), .s(sum[3]), .co(sum[4]));
endmodule
`,
};

/** A multiplier and an accumulator of 16 bits that `clear` empties, in two modules; +, * and - as Yosys maps them. */
export const MULTIPLY_ADD: Source = {
  top: "mac",
  verilog: `module product(input signed [5:0] a, input signed [5:0] w, output signed [11:0] p);
  assign p = a * w;
endmodule
module mac(input clk, input clear, input minus, input signed [5:0] a, input signed [5:0] w, output reg signed [15:0] sum);
  wire signed [11:0] p;
  product u_product(.a(a), .w(w), .p(p));
  always @(posedge clk) if (clear) sum <= 0; else sum <= minus ? sum - p : sum + p;
endmodule
`,
};

/** What MULTIPLY_ADD's accumulator becomes. */
export function multiplyAdd(sum: bigint, clear: boolean, minus: boolean, a: bigint, w: bigint): bigint {
  const p = BigInt.asIntN(6, a) * BigInt.asIntN(6, w);
  return clear ? 0n : BigInt.asUintN(16, minus ? sum - p : sum + p);
}
