// Cell facts: functions, liberty text both ways, JSON; what is refused, with its words.

import fc from "fast-check";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import {
  type Expression,
  evaluate,
  parseExpression,
  pinsOf,
  printExpression,
  senseOf,
  truthTable,
} from "../../../sim/synth/expression.ts";
import { readLiberty, writeLiberty } from "../../../sim/synth/liberty.ts";
import { type Cell, gateAreaUm2, type Library, readLibrary } from "../../../sim/synth/library.ts";
import { shipped } from "./designs.ts";

const anyExpression: fc.Arbitrary<Expression> = fc.letrec<{ e: Expression }>((tie) => ({
  e: fc.oneof(
    { maxDepth: 6 },
    fc.constantFrom<Expression>({ op: "const", value: 0 }, { op: "const", value: 1 }),
    fc.constantFrom("A", "B", "C1", "D_2").map((name): Expression => ({ op: "pin", name })),
    fc.record({ op: fc.constant("not" as const), a: tie("e") }),
    fc.record({ op: fc.constantFrom("and" as const, "or" as const, "xor" as const), a: tie("e"), b: tie("e") }),
  ),
})).e;

describe("functions", () => {
  test("read back what was printed", () => {
    fc.assert(
      fc.property(anyExpression, (e) => {
        expect(parseExpression(printExpression(e))).toEqual(e);
      }),
    );
  });

  test("have a sense that says how the output turns with each input", () => {
    fc.assert(
      fc.property(anyExpression, (e) => {
        const pins = pinsOf(e);
        for (const pin of pins) {
          const turns = truthTable(e, pins).map((_, setting) => {
            const value = (raised: number): number =>
              evaluate(e, (name) => (name === pin ? raised : (setting >> pins.indexOf(name)) & 1 ? -1 : 0));
            return value(0) - value(-1); // -1 is true
          });
          const [up, down] = [turns.some((t) => t > 0), turns.some((t) => t < 0)];
          expect(senseOf(e, pin)).toBe(up ? (down ? "both" : "positive") : down ? "negative" : "none");
        }
      }),
    );
  });

  test.each([
    ["A B + C'", "((A & B) | !C)"],
    ["!A*B^C", "(!A & (B ^ C))"],
    ["(A&B)'", "!(A & B)"],
    ["1", "1"],
  ])("%s is %s", (text, printed) => {
    expect(printExpression(parseExpression(text))).toBe(printed);
  });

  test.each([
    ["", 'the function "" cannot be read at its end; as in "!(A & B) | C"'],
    ["A &", 'the function "A &" cannot be read at its end; as in "!(A & B) | C"'],
    ["A # B", 'the function "A # B" cannot be read at "#" at character 3; as in "!(A & B) | C"'],
    ["(A", 'the function "(A" cannot be read at its end; as in "!(A & B) | C"'],
    ["!".repeat(100) + "A", `a function nested more than 64 deep: ${"!".repeat(40)}...`],
    ["(".repeat(5000), "a function of 5000 characters; at most 4096 are read"],
  ])("%j is refused", (text, reason) => {
    expect(() => parseExpression(text)).toThrow(reason);
  });
});

/** Facts as liberty text can hold them: numbers to nine digits, and nothing of where they come from. */
function bare({ cells, nodeNm, voltageV, temperatureC, inputTransitionPs }: Library): unknown {
  const round = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value, (_, v: unknown) => (typeof v === "number" ? Number(v.toFixed(6)) : v)));
  return round({
    nodeNm,
    voltageV,
    temperatureC,
    inputTransitionPs,
    cells: cells.map((cell: Cell) => ({ ...cell, basis: "" })),
  });
}

describe.each(["45nm", "7nm"] as const)("the library of %s", (node) => {
  const library = shipped(node);

  test("is read back from the liberty text that is written from it", () => {
    const { library: again, skipped } = readLiberty(writeLiberty(library), "cells.lib");
    expect(skipped).toEqual([]);
    expect(bare(again)).toEqual(bare(library));
  });

  test("has the cells that synthesis needs", () => {
    expect(gateAreaUm2(library)).toBe(node === "45nm" ? 0.798 : 0.0583);
    expect(library.cells.filter(({ flipFlop }) => flipFlop !== null)).toHaveLength(1);
    for (const { name, outputs, inputs } of library.cells)
      for (const output of outputs)
        for (const { risePs, fallPs } of output.arcs)
          for (const { intrinsic, perFf } of [risePs, fallPs]) {
            expect(intrinsic, name).toBeGreaterThan(0);
            expect(perFf, name).toBeGreaterThan(0);
            expect(inputs.length).toBeGreaterThan(0);
          }
  });
});

/** As files in the wild: other units, comments, no semicolons, continued lines, tables with their indices in a template. */
const WILD = `/* a library
   of one's own */
library (wild) {
  time_unit : "1ns"
  capacitive_load_unit (1, pf);
  voltage_unit : 1V;
  leakage_power_unit : "1uW";
  nom_voltage : 0.8
  nom_temperature : 85.0;  // hot
  lu_table_template (t) {
    variable_1 : total_output_net_capacitance;
    variable_2 : input_net_transition;
    index_1 ("0.001, 0.005");
    index_2 ("0.0, 0.1");
  }
  cell (ND2) {
    area : 2.0;
    leakage_power () { value : 0.1; when : "A" } leakage_power () { value : 0.3; when : "!A"; }
    pin (A, B) { direction : input; rise_capacitance : 0.001; fall_capacitance : 0.003; }
    pin (Y) { direction : output; function : "(A B)'";
      timing () { related_pin : "A B";
        cell_rise (t) { values ("0.010, 0.030", \\
                                "0.050, 0.070"); }
        cell_fall (t) { values ("0.010, 0.030", "0.050, 0.070"); }
        rise_transition (t) { values ("0.02, 0.02", "0.04, 0.04"); }
        fall_transition (t) { values ("0.02, 0.02", "0.04, 0.04"); }
      }
      internal_power () { related_pin : "A";
        rise_power (scalar) { values ("0.004"); }
        fall_power (scalar) { values ("0.002"); } }
    }
  }
  cell (TIE) { area : 1; pin (Y) { direction : output; function : "1"; } }
  cell (LAT) { area : 5; latch (IQ, IQN) { enable : "G"; data_in : "D" } }
  cell (DFFR) { area : 9; ff (IQ, IQN) { next_state : "D"; clocked_on : "CK"; clear : "!R"; }
    pin (D, CK, R) { direction : input; capacitance : 0.001; } pin (Q) { direction : output; function : "IQ"; } }
  cell (BARE) { area : 1; pin (A) { direction : input; capacitance : 0.001; } pin (Y) { direction : output; function : "A"; } }
}
`;

describe("liberty text", () => {
  test("in other units and manners gives the same facts, by hand", () => {
    const { library, skipped } = readLiberty(WILD, "wild.lib");
    expect(library).toMatchObject({ name: "wild", voltageV: 0.8, temperatureC: 85, nodeNm: null, source: "wild.lib" });
    const [cell] = library.cells;
    expect(library.cells).toHaveLength(1);
    // Loads of one and four inputs of 2 fF: the transition at 8 fF is 55 ps, over (0.001, 0.02) and (0.005, 0.04).
    expect(library.inputTransitionPs).toBeCloseTo(55, 6);
    // At 55 ps: 10 + 0.2 * 55 = 21 ps at 1 fF and 61 ps at 5 fF.
    expect(cell?.outputs[0]?.arcs.map(({ from }) => from)).toEqual(["A", "B"]);
    expect(cell?.outputs[0]?.arcs[1]?.risePs.intrinsic).toBeCloseTo(11, 6);
    expect(cell?.outputs[0]?.arcs[1]?.risePs.perFf).toBeCloseTo(10, 6);
    expect(cell?.outputs[0]?.internalFj).toBeCloseTo(3, 6); // pF times V^2 is pJ
    expect(cell?.inputs).toEqual([
      { name: "A", capFf: 2 },
      { name: "B", capFf: 2 },
    ]);
    expect(cell?.leakageNw).toBeCloseTo(200, 6);
    expect(skipped).toEqual([
      { cell: "TIE", line: 33, reason: "no input" },
      { cell: "LAT", line: 34, reason: "a latch; only flip-flops hold state here" },
      { cell: "DFFR", line: 35, reason: "a flip-flop with clear; plain ones are used here" },
      { cell: "BARE", line: 37, reason: "no delay from A to Y" },
    ]);
  });

  test.each([
    ["", "f.lib:1: nothing but spaces and comments; library (name) { is needed"],
    ["module top; endmodule", "f.lib:1: module: neither : nor ( behind it"],
    ["cell (A) { }", "f.lib:1: cell (...) where library (name) { is needed"],
    ["library (x) {\n cell (A) {\n", "f.lib:2: cell (A) { is not closed by }"],
    ['library (x) {\n a : "b;\n}', 'f.lib:2: a text that begins with " and does not end'],
    ["library (x) {\n /* never", "f.lib:2: a comment /* that does not end"],
    ["library (x) { a (1, 2", "f.lib:1: ( without )"],
    ["library (x) {\n time_unit : ; }", 'f.lib:1: time_unit is ""; as in 1ns'],
    ["library (x) { capacitive_load_unit (1, mm); }", 'f.lib:1: capacitive_load_unit is "1mm"; as in 1nf'],
    ["a (){".repeat(100), "f.lib:1: groups nested more than 32 deep"],
    [
      "library (x) { nom_voltage : 1; nom_temperature : 25; }",
      "f.lib: no two-input NAND with capacitances and tables of transitions, by which delays and areas are measured; one is needed",
    ],
    [WILD.replace("nom_voltage : 0.8", ""), "f.lib:3: nom_voltage is missing; a number is needed"],
    [
      WILD.replace('"A"; } pin', '"A"; } pin').replace('function : "A";', 'function : "A +";'),
      'f.lib:37: BARE.Y: the function "A +" cannot be read at its end; as in "!(A & B) | C"',
    ],
  ])("that is none is refused: case %#", (text, reason) => {
    expect(() => readLiberty(text, "f.lib")).toThrow(reason);
  });

  test("of any kind is read or refused, and never hangs or crashes", () => {
    const pieces = [
      "library",
      "cell",
      "pin",
      "(",
      ")",
      "{",
      "}",
      ":",
      ";",
      '"',
      "\\",
      "\n",
      "/*",
      "*/",
      "//",
      ",",
      "A",
      "0.1",
      " ",
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 60 }), (parts) => {
        try {
          readLiberty(parts.join(""), "f.lib");
        } catch (error) {
          expect((error as Error).name).toBe("LibertyError");
        }
      }),
      { numRuns: 2000 },
    );
    for (let at = 0; at < WILD.length; at += 7) {
      try {
        readLiberty(WILD.slice(0, at), "f.lib");
      } catch (error) {
        expect((error as Error).name).toBe("LibertyError");
      }
    }
  });
});

describe("a library in JSON is refused", () => {
  const text = readFileSync(new URL("../../../sim/data/cells/45nm.json", import.meta.url), "utf8");
  type Json = Record<string, unknown> & { cells: Record<string, unknown>[] };
  const changed = (change: (json: Json) => void): unknown => {
    const json = JSON.parse(text) as Json;
    change(json);
    return json;
  };
  test.each<[string, (json: Json) => void, string]>([
    ["without cells", (j) => (j.cells = []), "f.json: cells is []; it should be a list of 1 to 5000"],
    [
      "with a voltage of 0",
      (j) => (j["voltageV"] = 0),
      "f.json: voltageV is 0; it should be a number of at least 0.01",
    ],
    [
      "with an area that is text",
      (j) => (j.cells[2]!["areaUm2"] = "1"),
      'f.json: cells[2].areaUm2 is "1"; it should be a number of at least 0',
    ],
    [
      "with two cells of one name",
      (j) => (j.cells[1]!["name"] = "INV_X1"),
      "f.json: two cells are named INV_X1; leave one of them out",
    ],
    [
      "with a name that is none",
      (j) => (j.cells[0]!["name"] = "A B"),
      'f.json: cells[0].name is "A B"; it should be a name of letters, digits and _',
    ],
    [
      "with a function of other pins",
      (j) => ((j.cells[0]!["outputs"] as Record<string, unknown>[])[0]!["function"] = "!Z"),
      'f.json: cells[0].outputs[0].function is "!Z"; it should be a function of A',
    ],
    [
      "with a function that is none",
      (j) => ((j.cells[0]!["outputs"] as Record<string, unknown>[])[0]!["function"] = "!"),
      'f.json: cells[0].outputs[0].function: the function "!" cannot be read at its end; as in "!(A & B) | C"',
    ],
    ["without uncertainties", (j) => delete j["uncertainty"], "f.json: uncertainty is nothing; it should be an object"],
  ])("%s", (_, change, reason) => {
    expect(() => readLibrary(changed(change), "f.json")).toThrow(reason);
  });

  test("that is no object", () => {
    expect(() => readLibrary(7, "f.json")).toThrow("f.json: the whole is 7; it should be an object");
  });
});
