// What Yosys is told: the script from Verilog to cells of a library, and the one that proves a mapped netlist equal to
// its Verilog. Text only; nothing runs here (yosys.ts), and no design is known.
// The flow is explicit adders first: instances of lutra_fa and lutra_ha, and the ripple chains that + becomes, are mapped
// to the library's full and half adders before ABC, which maps no cell of two outputs (YosysHQ/yosys#3631); then ABC by
// area. An adder with a constant input is left to ABC, for fewer gates are enough there.

import { type Expression, truthTable } from "./expression.ts";
import type { Cell, Library } from "./library.ts";

/** Verilog with the name of its outermost module. */
export interface Source {
  readonly top: string;
  readonly verilog: string;
}

/** Choices of the flow. */
export interface Flow {
  /** Which modules stay apart until they are mapped: none gives the least area, all a breakdown by module. */
  readonly keep: "none" | "all" | readonly string[];
  /** What adders become: the library's full and half adders, or whatever gates ABC finds, which are larger and faster. */
  readonly adders: "cells" | "gates";
}

/** The least area. */
export const FLAT: Flow = { keep: "none", adders: "cells" };

/** Files that the scripts read and write, in Yosys's own file system. */
export const FILES = {
  design: "design.v",
  library: "cells.lib",
  adders: "adders.v",
  behaviour: "behaviour.v",
  arithmetic: "arithmetic.v",
  netlist: "netlist.json",
  mapped: "mapped.v",
} as const;

/** Maps `+` and carry-save adders, as Yosys's own cells $alu and $fa, to chains of lutra_fa. */
const ARITHMETIC = `(* techmap_celltype = "$alu" *)
module lutra_alu (A, B, CI, BI, X, Y, CO);
  parameter A_SIGNED = 0; parameter B_SIGNED = 0;
  parameter A_WIDTH = 1; parameter B_WIDTH = 1; parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A; input [B_WIDTH-1:0] B; input CI, BI;
  output [Y_WIDTH-1:0] X, Y, CO;
  wire [Y_WIDTH-1:0] a, b;
  \\$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) widen_a (.A(A), .Y(a));
  \\$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) widen_b (.A(B), .Y(b));
  wire [Y_WIDTH-1:0] turned = BI ? ~b : b;
  wire [Y_WIDTH:0] carry;
  assign carry[0] = CI;
  genvar i;
  generate for (i = 0; i < Y_WIDTH; i = i + 1) begin: bits
    lutra_fa fa (.a(a[i]), .b(turned[i]), .c(carry[i]), .s(Y[i]), .co(carry[i + 1]));
  end endgenerate
  assign CO = carry[Y_WIDTH:1];
  assign X = a ^ turned;
endmodule
(* techmap_celltype = "$fa" *)
module lutra_carry_save (A, B, C, X, Y);
  parameter WIDTH = 1;
  input [WIDTH-1:0] A, B, C;
  output [WIDTH-1:0] X, Y;
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin: bits
    lutra_fa fa (.a(A[i]), .b(B[i]), .c(C[i]), .s(Y[i]), .co(X[i]));
  end endgenerate
endmodule
`;

/** Behaviour of the adders for what no library cell takes; modules of these names in a design are replaced by it. */
const BEHAVIOUR = `module lutra_fa (input a, b, c, output s, co);
  assign s = a ^ b ^ c;
  assign co = (a & b) | (c & (a | b));
endmodule
module lutra_ha (input a, b, output s, co);
  assign s = a ^ b;
  assign co = a & b;
endmodule
`;

interface Adder {
  readonly cell: Cell;
  /** The cell's input pins in the order a, b, c; any order computes the same. */
  readonly inputs: readonly string[];
  readonly sum: { readonly pin: string; readonly inverted: boolean };
  readonly carry: { readonly pin: string; readonly inverted: boolean };
}

/** The smallest cell of the library that adds `count` bits, with true or inverted outputs; null where there is none. */
function adderOf({ cells }: Library, count: 2 | 3): Adder | null {
  const ones = (setting: number): number => [0, 1, 2].filter((bit) => (setting >> bit) & 1).length;
  const wanted = Array.from({ length: 2 ** count }, (_, setting) => ones(setting));
  const sum = wanted.map((n) => n & 1).join("");
  const carry = wanted.map((n) => n >> 1).join("");
  const turned = (text: string): string => text.replaceAll(/./g, (bit) => (bit === "1" ? "0" : "1"));
  let best: Adder | null = null;
  for (const cell of cells) {
    if (cell.flipFlop !== null || cell.inputs.length !== count || cell.outputs.length !== 2) continue;
    const inputs = cell.inputs.map(({ name }) => name);
    const find = (table: string): Adder["sum"] | null => {
      const tableOf = (f: Expression): string => truthTable(f, inputs).join("");
      const output = cell.outputs.find((o) => [table, turned(table)].includes(tableOf(o.function)));
      return output === undefined ? null : { pin: output.name, inverted: tableOf(output.function) !== table };
    };
    const [s, c] = [find(sum), find(carry)];
    if (s === null || c === null || s.pin === c.pin) continue;
    if (best === null || cell.areaUm2 < best.cell.areaUm2) best = { cell, inputs, sum: s, carry: c };
  }
  return best;
}

/** Techmap of lutra_fa and lutra_ha to the library's adders. */
function adderMap(library: Library): string {
  const names = ["a", "b", "c"];
  return ([3, 2] as const)
    .map((count) => {
      const adder = adderOf(library, count);
      if (adder === null) return "";
      const inputs = names.slice(0, count);
      const constants = inputs.map((n) => `  parameter _TECHMAP_CONSTMSK_${n}_ = 1'b0;\n`).join("");
      const given = inputs.map((n) => `_TECHMAP_CONSTMSK_${n}_`).join(" || ");
      const pins = inputs.map((n, i) => `.${adder.inputs[i]}(${n})`).join(", ");
      return `module lutra_${count === 3 ? "fa" : "ha"} (input ${inputs.join(", ")}, output s, co);
${constants}  wire _TECHMAP_FAIL_ = ${given};
  wire sum, carry;
  ${adder.cell.name} _TECHMAP_REPLACE_ (${pins}, .${adder.sum.pin}(sum), .${adder.carry.pin}(carry));
  assign s = ${adder.sum.inverted ? "~" : ""}sum;
  assign co = ${adder.carry.inverted ? "~" : ""}carry;
endmodule
`;
    })
    .join("");
}

/** The files that synthesis needs beside the design and the library. */
export function mapFiles(library: Library): Readonly<Record<string, string>> {
  return { [FILES.arithmetic]: ARITHMETIC, [FILES.adders]: adderMap(library), [FILES.behaviour]: BEHAVIOUR };
}

/**
 * From Verilog to a flat netlist of library cells, as JSON and as Verilog. Modules that are kept are mapped apart, then
 * flattened, so that each cell's name begins with the path of its module.
 */
export function synthesisScript({ top }: Source, { keep, adders }: Flow): string {
  const kept = keep === "none" ? [] : keep === "all" ? ["*"] : keep;
  return lines([
    `read_verilog ${FILES.design}`,
    `hierarchy -check -top ${top}`,
    "proc",
    ...kept.map((module) => `setattr -mod -set keep_hierarchy 1 ${module}`),
    "setattr -mod -set keep_hierarchy 1 lutra_fa lutra_ha",
    "flatten",
    "opt",
    "wreduce",
    "peepopt",
    "alumacc",
    "share",
    "opt",
    "maccmap",
    `techmap -map ${FILES.arithmetic}`,
    "opt",
    ...(adders === "cells" ? [`techmap -map ${FILES.adders}`] : []),
    `techmap -map ${FILES.behaviour}`,
    `hierarchy -top ${top}`,
    "opt",
    "techmap",
    "opt",
    "dfflegalize -cell $_DFF_P_ x",
    "opt",
    `dfflibmap -liberty ${FILES.library}`,
    `abc -liberty ${FILES.library}`,
    "opt_clean -purge",
    "setattr -mod -unset keep_hierarchy *",
    "flatten",
    "opt_clean -purge",
    `write_json ${FILES.netlist}`,
    `write_verilog -noattr ${FILES.mapped}`,
  ]);
}

/** From Verilog to a flat netlist of Yosys's own gates, as JSON: the design before it is mapped. */
export function gatesScript({ top }: Source): string {
  return lines([
    `read_verilog ${FILES.design}`,
    `hierarchy -check -top ${top}`,
    "proc",
    "flatten",
    "techmap",
    "dfflegalize -cell $_DFF_P_ x",
    "clean -purge",
    `write_json ${FILES.netlist}`,
  ]);
}

/** Proves that the mapped netlist does what the Verilog says; the cells mean what their liberty functions say. */
export function proofScript({ top }: Source): string {
  return lines([
    `read_verilog ${FILES.design}`,
    `hierarchy -check -top ${top}`,
    "proc",
    "flatten",
    "opt_clean",
    `rename ${top} gold`,
    "design -stash gold",
    `read_liberty ${FILES.library}`,
    `read_verilog ${FILES.mapped}`,
    `hierarchy -check -top ${top}`,
    "flatten",
    "opt_clean",
    `rename ${top} gate`,
    "design -stash gate",
    "design -copy-from gold -as gold gold",
    "design -copy-from gate -as gate gate",
    "equiv_make gold gate equiv",
    "hierarchy -top equiv",
    "equiv_simple",
    "equiv_induct",
    "equiv_status",
  ]);
}

function lines(commands: readonly string[]): string {
  return `${commands.join("\n")}\n`;
}
