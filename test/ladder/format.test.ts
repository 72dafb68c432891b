// The formatter: what a text means and what its comments say stays, formatting twice is formatting once, lines are no
// wider than they must be, and the library is in the layout that the formatter gives.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { formatLadder } from "../../src/ladder/format.ts";
import { parse } from "../../src/ladder/grammar.ts";
import { chevrotain, TOKENS } from "../../src/ladder/token.ts";
import { builtinTexts, oddTypes } from "./program.ts";

const SEED = 20_261_123;

function formatted(text: string): string {
  const result = formatLadder("a.ladder", text);
  if (result.kind === "formatted") return result.text;
  throw new Error(`${result.diagnostics.map(({ message }) => message).join("\n")}\n${text}`);
}

/** What a text means: its AST without places. */
function meaning(text: string): unknown {
  const result = parse("a.ladder", text);
  if (result.kind === "rejected") throw new Error(`${result.diagnostics[0]?.message}\n${text}`);
  return JSON.parse(JSON.stringify(result.ast, (key, value: unknown) => (key === "span" ? undefined : value)));
}

const lexer = new chevrotain.Lexer(TOKENS, { positionTracking: "onlyOffset" });

function wordsOf(text: string): readonly string[] {
  return lexer.tokenize(text).tokens.map(({ image }) => image);
}

/** Comments in any order: those that stand where no line can end move. */
function commentsOf(text: string): readonly string[] {
  return [...text.matchAll(/"[^"\n]*"|\/\/[^\n]*/g)]
    .map(([found]) => found.trimEnd())
    .filter((found) => found.startsWith("//"))
    .toSorted();
}

function expectKept(text: string): string {
  const once = formatted(text);
  expect(meaning(once)).toEqual(meaning(text));
  // Not even a pair of brackets is added or lost.
  expect(wordsOf(once)).toEqual(wordsOf(text));
  expect(commentsOf(once)).toEqual(commentsOf(text));
  expect(formatted(once)).toBe(once);
  expect(once).not.toMatch(/[ \t]\n|\n\n\n|\t|^\n|\n\n$|\r/);
  return once;
}

const library = [...builtinTexts].filter(([name]) => name !== "grid.ladder");

test.each([...builtinTexts])("dsl/%s is formatted", (_name, text) => {
  expect(formatted(text)).toBe(text);
});

test("texts of the library with other blanks, lines and comments between their words mean what they meant", () => {
  const blank = fc.oneof(
    { weight: 6, arbitrary: fc.constant(" ") },
    { weight: 2, arbitrary: fc.constantFrom("\n", "\n\n\n", "\t", "   ", "\r\n") },
    { weight: 1, arbitrary: fc.constantFrom(" // one\n", "\n// two  \n", "\n\n//three\n\n", '// "four" {\n') },
  );
  const texts = [...library.map(([, text]) => text), oddTypes];
  fc.assert(
    fc.property(fc.constantFrom(...texts), fc.nat(), fc.infiniteStream(blank), (text, start, blanks) => {
      // Whole declarations from anywhere in the text: all of it takes long.
      const words = wordsOf(text);
      const opens = words.flatMap((word, w) => (/^(element|block|tensor|type|convert|device)$/.test(word) ? [w] : []));
      const first = start % opens.length;
      const isWhole = (w: number): boolean => words[w - 1] !== ":" || words[w + 1] === "=";
      const from = opens.slice(first).find(isWhole) ?? opens[0]!;
      const to = opens.filter((w) => w > from && isWhole(w) && words[w - 1] !== ")")[3] ?? words.length;
      const piece = words.slice(from, to);
      const lastAt = piece.lastIndexOf("@");
      const whole = lastAt !== -1 && lastAt >= piece.length - 5 ? piece.slice(0, lastAt) : piece;
      const source = [...blanks.take(1)][0]! + whole.map((word) => word + [...blanks.take(1)][0]!).join("");
      expectKept(source);
    }),
    { seed: SEED, numRuns: 400 },
  );
});

// Expressions of any size, with ends of lines and comments where an author may have put them.
const gap = fc.oneof(
  { weight: 30, arbitrary: fc.constant(" ") },
  { weight: 2, arbitrary: fc.constant("\n") },
  { weight: 1, arbitrary: fc.constantFrom(" // why\n", "\n// because\n") },
);
const spaced = (...parts: readonly (fc.Arbitrary<string> | string)[]): fc.Arbitrary<string> =>
  fc
    .tuple(...parts.flatMap((part) => [gap, typeof part === "string" ? fc.constant(part) : part]))
    .map((texts) => texts.join(""));
const leaf = fc.constantFrom("i", "12", "0x1.8p-3", "scale", "nested_quant_map", "bits", "d");
const { expression } = fc.letrec<{ expression: string; atom: string }>((tie) => ({
  atom: fc.oneof(
    { maxDepth: 5, withCrossShrink: true },
    leaf,
    leaf,
    spaced("(", tie("expression"), ")"),
    spaced("qs", "[", tie("expression"), "]"),
    spaced(
      "qs",
      "[",
      tie("expression"),
      ",",
      tie("expression"),
      "]",
      ".",
      "bits",
      "(",
      tie("atom"),
      "+:",
      tie("atom"),
      ")",
    ),
    spaced("round", "(", "F32", ",", tie("expression"), ",", tie("expression"), ")"),
    spaced("-", tie("atom")),
  ),
  expression: fc.oneof(
    { maxDepth: 6, withCrossShrink: true },
    tie("atom"),
    spaced(tie("atom"), fc.constantFrom("+", "-", "*", "div", "mod", "++"), tie("atom")),
    spaced(tie("atom"), "*", tie("atom"), fc.constantFrom("+", "-"), tie("atom"), "mod", tie("atom")),
    spaced(
      "if",
      tie("atom"),
      fc.constantFrom("<", ">=", "=="),
      tie("atom"),
      "then",
      tie("expression"),
      "else",
      tie("expression"),
    ),
    spaced("join", "j", "<", tie("atom"), ":", tie("expression")),
  ),
}));

test("expressions of any size keep their words, and formatting them again changes nothing", () => {
  let broken = 0;
  fc.assert(
    fc.property(expression, expression, (a, b) => {
      fc.pre(a.length + b.length < 1500); // an expression has at most 500 terms
      const once = expectKept(
        `block B[4] {\n  code q[i < 4] =${a}\n  code long[i < 4] = ${b}\n  value[i] = (${b}) + (${a})\n}\n`,
      );
      broken += Number(once.split("\n").length > 6);
    }),
    { seed: SEED, numRuns: 1500 },
  );
  // The generator is of use only where a good part of what it makes has to be broken.
  expect(broken).toBeGreaterThan(300);
});

test("a value of many short terms is within 120 columns, whatever its operators", () => {
  const term = fc.constantFrom(
    "d",
    "scales[i div 32]",
    "qs[i mod 16].bits(4 * (i div 16) +: 4)",
    "(q[i] - 8)",
    "F16(x[i], 2)",
  );
  const sum = fc.array(fc.tuple(fc.constantFrom(" + ", " * ", " ++ ", " mod "), term), { minLength: 1, maxLength: 30 });
  fc.assert(
    fc.property(sum, sum, (a, b) => {
      const text = (list: typeof a): string => `m${list.map((parts) => parts.join("")).join("")}`;
      const once = expectKept(`block B[4] {\n  value[i] = if i < 2 then ${text(a)} else (${text(b)})\n}\n`);
      for (const line of once.split("\n")) expect(line.length, line).toBeLessThanOrEqual(120);
    }),
    { seed: SEED, numRuns: 300 },
  );
});

describe("the layout", () => {
  test("of one of each thing is this", () => {
    const source = `// head
import "float.ladder"   // the floats
element  Five=table(bits:3,rest:nan)[-2,-1,0,1,2]override[0x7:0]
element NF = table ( bits : 4 , lanes:2 ) [ 1,nan ] "0101" "1010"


@gguf( 2 ) @mlx(7)
// inside
block   Mine<E:element,b:number>[2*b] { // a block
// first
d:F16// scale
long_name : Group<UInt<4>,32>[ 4,2 ] // codes

beside   s:F32
code q[i<32]=s[i].bits(4*(i div 16)+:4) code  longer[i<32]=if i<2 then 1
else 2
let f=-n*K
value[i]=( d )*(q[i]-8)
// last
}
tensor T[n<N,k<K]requires N mod 4==0 and K>=2{storage a{x:U8}storage b requires K mod 2!=0{x:U8}}
convert Mine->F32:value when s in 3..246 and code finite by x->2*x
convert I2_S.arm_64->F16 :rounded
device d{memory main(granularity:4)native(of:F32)}
gemm G(activations:F16,weights:Int<4>)
// end`;
    expect(expectKept(source)).toBe(`// head
import "float.ladder" // the floats
element Five = table(bits: 3, rest: nan) [-2, -1, 0, 1, 2] override [0x7: 0]
element NF   = table(bits: 4, lanes: 2) [1, nan]
  "0101"
  "1010"

@gguf(2)
@mlx(7)
// inside
block Mine<E : element, b : number>[2 * b] { // a block
  // first
  d         : F16                      // scale
  long_name : Group<UInt<4>, 32>[4, 2] // codes

  beside s : F32
  code q[i < 32]      = s[i].bits(4 * (i div 16) +: 4)
  code longer[i < 32] = if i < 2 then 1
                        else 2
  let f = -n * K
  value[i] = (d) * (q[i] - 8)
  // last
}
tensor T[n < N, k < K] requires N mod 4 == 0 and K >= 2 {
  storage a {
    x : U8
  }
  storage b requires K mod 2 != 0 {
    x : U8
  }
}
convert Mine        -> F32 : value when s in 3 .. 246 and code finite by x -> 2 * x
convert I2_S.arm_64 -> F16 : rounded
device d {
  memory main(granularity: 4)
  native (of: F32)
}
gemm G(activations: F16, weights: Int<4>)
// end
`);
  });

  test("breaks what is too wide at the outermost operators, and hangs the operators so that operands are aligned", () => {
    const wide = "qs[32 * (i div 128) + i mod 32].bits(2 * (i div 32 mod 4) +: 2)";
    expect(
      expectKept(
        `block B[4] { code q[i < 4] = ${wide} ++ ${wide} value[i] = scale * (if i < 2 then ${wide} else ${wide}) }`,
      ),
    ).toBe(`block B[4] {
  code q[i < 4] = qs[32 * (i div 128) + i mod 32].bits(2 * (i div 32 mod 4) +: 2)
               ++ qs[32 * (i div 128) + i mod 32].bits(2 * (i div 32 mod 4) +: 2)
  value[i] = scale
           * (if i < 2 then qs[32 * (i div 128) + i mod 32].bits(2 * (i div 32 mod 4) +: 2)
              else qs[32 * (i div 128) + i mod 32].bits(2 * (i div 32 mod 4) +: 2))
}
`);
  });

  test("keeps the ends of lines before operators, arms and entries of lists, and comments behind them", () => {
    const source = `element E = table(bits: 2) [
  -1.0, 0.0, // low
  1.0, 2.0
]
block B[4] {
  code q[i < 4] = if i < 2 then a[i] // the first half
                  // and the other
                  else b[i]
               ++ c[i]
  value[i] = d * q[i]
           + m
}
`;
    expect(expectKept(source)).toBe(
      source.replace("else b[i]\n               ++", "else b[i]\n                    ++"),
    );
  });

  test("moves a comment from where no line can end to before its item", () => {
    expect(expectKept("block B[4] {\n\n  d : /* */ F16\n}".replace("/* */", "// why\n"))).toBe(
      "block B[4] {\n  // why\n  d : F16\n}\n",
    );
  });

  test("of nothing is nothing, and of comments alone these", () => {
    expect(formatted("")).toBe("");
    expect(formatted(" \n\n")).toBe("");
    expect(expectKept("\n\n// one\r\n\n\n\n// two")).toBe("// one\n\n// two\n");
  });
});

test("a text with errors of syntax is rejected with all of them", () => {
  const result = formatLadder("a.ladder", "block A[2] { d F16 }\nelement = 3\n");
  expect(result.kind === "rejected" && result.diagnostics.map(({ message }) => message)).toEqual([
    'expected ":" in this field, found "F16"',
    'expected a name in this element, found "="',
  ]);
});

test("the largest text that is read is formatted in a moment", () => {
  const one = "block B[4] { d : F16 value[i] = " + "d * (".repeat(30) + "d" + ")".repeat(30) + " }\n";
  const text = one.repeat(Math.floor((256 * 1024) / one.length));
  const startMs = performance.now();
  expect(formatted(text).length).toBeGreaterThan(text.length);
  expect(performance.now() - startMs).toBeLessThan(10_000);
});
