// Factors between nodes: the examples of the source, what follows from them, and what has no factor.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { Field } from "../../../sim/synth/field.ts";
import {
  areaFactor,
  energyAt,
  energyFactor,
  nodeFromTable,
  readNode,
  readScaling,
} from "../../../sim/synth/scaling.ts";

const json = JSON.parse(readFileSync(new URL("../../../sim/data/scaling.json", import.meta.url), "utf8")) as unknown;
const scaling = readScaling(new Field(json, "scaling.json", ""));

test("the corrigendum's examples of the energy law come out to its four digits", () => {
  const after = energyAt([0.8367, -0.4341, 0.1701], 0.9);
  const before = energyAt([3.755, -4.398, 1.975], 1.3);
  expect(after).toBeCloseTo(0.4571, 3);
  expect(before).toBeCloseTo(2.604, 3);
  expect(Number(after.toFixed(4)) / Number(before.toFixed(3))).toBeCloseTo(0.1755, 4); // as printed there, of rounded terms
});

test("areas and energies from 45 nm are those that others compute from the same source", () => {
  expect(areaFactor(scaling, 45, 28)).toBeCloseTo(0.377, 3);
  expect(areaFactor(scaling, 45, 7)).toBe(0.059);
  expect(energyFactor(scaling, 45, 1.1, 28, 0.9)).toBeCloseTo(0.353, 3);
  expect(energyFactor(scaling, 45, 1.1, 7, 0.7)).toBeCloseTo(0.039, 3);
  expect(scaling.uncertaintyPercent).toBe(33);
});

test("factors are 1 in place, turn around, and fall from node to node", () => {
  for (let nm = 8; nm <= 45; nm++) {
    expect(areaFactor(scaling, nm, nm)).toBe(1);
    expect(areaFactor(scaling, nm, nm - 1)).toBeLessThan(1);
    expect(areaFactor(scaling, 45, nm) * areaFactor(scaling, nm, 45)).toBeCloseTo(1, 12);
    expect(energyFactor(scaling, 45, 1.1, nm - 1, 0.9)).toBeLessThan(energyFactor(scaling, 45, 1.1, nm, 1.1));
  }
});

describe("what has no factor", () => {
  test.each([5, 65])("is refused: %d nm", (nm) => {
    expect(() => areaFactor(scaling, 45, nm)).toThrow(`${nm} nm; the table of factors goes from 45 to 7 nm`);
  });

  test("is null, where the table says nothing: delay and leakage", () => {
    const node = nodeFromTable(scaling, { name: "45nm", nodeNm: 45, voltageV: 1.1 }, 28, 0.9);
    expect(node).toMatchObject({ name: "28nm", from: "45nm", delayFactor: null, leakageFactor: null });
  });
});

describe("a node of one's own", () => {
  const own = {
    name: "ours 22",
    from: "45nm",
    voltageV: 0.8,
    areaFactor: 0.25,
    energyFactor: 0.2,
    delayFactor: 0.5,
    leakageFactor: null,
    uncertaintyPercent: 10,
    source: "our own measurements",
  };
  test("is read as it stands", () => {
    expect(readNode(new Field(own, "own.json", ""))).toEqual(own);
  });
  test.each([
    ["areaFactor", 0, "own.json: areaFactor is 0; it should be a number of at least 1e-9"],
    ["delayFactor", "fast", 'own.json: delayFactor is "fast"; it should be a number of at least 1e-9'],
    ["source", "", 'own.json: source is ""; it should be a text'],
    ["uncertaintyPercent", undefined, "own.json: uncertaintyPercent is nothing; it should be a number of at least 0"],
  ])("with %s %j is refused", (key, value, reason) => {
    expect(() => readNode(new Field({ ...own, [key]: value }, "own.json", ""))).toThrow(reason);
  });
});
