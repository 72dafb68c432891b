// Element declarations: the families, what their arguments mean, and that every one is a finite map of its codes.
// An element with overrides becomes the table of its values. Not here: what a code's value is (exact.ts).

import type * as Ast from "./ast.ts";
import { didYouMean } from "./diagnostic.ts";
import { elementValue, toNumber } from "./exact.ts";
import { readInteger, readLiteral, type Report, shortName } from "./number.ts";
import type { Element, TableElement } from "./type.ts";

/** Bits of an integer or float; more than a double or a 64-bit integer is in no format. */
const MAX_BITS = 64;
/** Bits of elements whose values are listed: 65,536 at most. */
const MAX_TABLE_BITS = 16;
/** Numbers of one table. */
const MAX_ENTRIES = 65_536;

/**
 * The element of a declaration, or null after a report of all that is wrong with it.
 * @param name of the element: the declared one, with its parameters where it has any
 * @param numbers what its parameters stand for
 */
export function resolveElement(
  declaration: Ast.ElementDeclaration,
  name: string,
  numbers: ReadonlyMap<string, number>,
  report: Report,
): Element | null {
  const { family, literals, digits, overrides } = declaration;
  const build = FAMILIES.get(family.text);
  if (build === undefined) {
    const known = [...FAMILIES.keys()];
    const message = `there is no kind of element "${shortName(family.text)}"; there are ${known.join(", ")}`;
    report("unknown-name", family.span, message, { suggestion: didYouMean(family.text, known) });
    return null;
  }
  const read = argumentReader(declaration.name, family.text, declaration.arguments, numbers, report);
  const element = build(name, read, declaration, report);
  read.finish();
  if (family.text !== "table" && (literals !== null || digits.length > 0)) {
    report("argument", declaration.name.span, `a list of values follows a table; this is a ${family.text}`);
    return null;
  }
  return element === null || overrides.length === 0 ? element : overridden(element, overrides, report);
}

/** The arguments in round brackets, read by name; each reader gives null after a report, or where none is given. */
export interface ArgumentReader {
  readonly integer: (name: string, least: number, most: number) => number | null;
  readonly word: <W extends string>(name: string, words: readonly W[]) => W | null;
  /** A name of the person's choosing. */
  readonly use: (name: string) => Ast.Use | null;
  /** Whether the argument is there; asking makes it one that may be. */
  readonly has: (name: string) => boolean;
  /** Reports what only the whole shows. */
  readonly reject: (message: string) => null;
  /** Reports arguments that nobody asked for, and those that were asked for and are not there. */
  readonly finish: () => void;
}

/** A reader over the arguments of `owner`, which is a `what`: "float", "memory". */
export function argumentReader(
  owner: Ast.Name,
  what: string,
  list: readonly Ast.Argument[],
  numbers: ReadonlyMap<string, number>,
  report: Report,
): ArgumentReader {
  const asked = new Set<string>();
  const missing: string[] = [];
  const given = (argument: string): Ast.Argument["value"] | null => {
    const [first, second] = list.filter((one) => one.name.text === argument);
    if (second !== undefined && !asked.has(argument))
      report("argument", second.name.span, `${argument} is given twice`);
    asked.add(argument);
    return first?.value ?? null;
  };
  const find = (argument: string): Ast.Argument["value"] | null => {
    const value = given(argument);
    if (value === null) missing.push(argument);
    return value;
  };
  return {
    integer(argument, least, most) {
      const value = find(argument);
      if (value === null) return null;
      if (value.kind === "number") return readInteger(value, least, most, argument, report);
      const number = numbers.get(value.name.text);
      if (number === undefined || value.arguments.length > 0) {
        report("argument", value.span, `${argument} is a number, not ${shortName(value.name.text)}`);
        return null;
      }
      if (number >= least && number <= most) return number;
      const message = `${argument} must be a whole number from ${least} to ${most}, not ${value.name.text} = ${number}`;
      report("number", value.span, message);
      return null;
    },
    word(argument, words) {
      const value = find(argument);
      if (value === null) return null;
      const text = value.kind === "number" ? value.text : value.name.text;
      const word = words.find((w) => w === text && value.kind === "use");
      if (word === undefined) {
        const message = `${argument} is one of ${words.join(", ")}, not ${shortName(text)}`;
        report("argument", value.span, message, { suggestion: didYouMean(text, words) });
      }
      return word ?? null;
    },
    use(argument) {
      const value = find(argument);
      if (value === null || value.kind === "use") return value;
      report("argument", value.span, `${argument} is a name, not ${shortName(value.text)}`);
      return null;
    },
    has: (argument) => given(argument) !== null,
    reject(message) {
      report("argument", owner.span, message);
      return null;
    },
    finish() {
      for (const { name: argument } of list) {
        if (asked.has(argument.text)) continue;
        const message = `this ${what} has no argument "${shortName(argument.text)}"; it has ${[...asked].join(", ")}`;
        report("argument", argument.span, message, { suggestion: didYouMean(argument.text, missing) });
      }
      if (missing.length > 0) report("argument", owner.span, `${what} needs ${missing.join(", ")} here`);
    },
  };
}

type Build = (
  name: string,
  read: ArgumentReader,
  declaration: Ast.ElementDeclaration,
  report: Report,
) => Element | null;

const BUILDERS: Readonly<Record<"float" | "int" | "exponent" | "posit" | "table" | "digits", Build>> = {
  // Exponents and mantissas go up to those of a double.
  float(name, read) {
    const exponent = read.integer("exponent", 1, 11);
    const mantissa = read.integer("mantissa", 0, 52);
    const bias = read.integer("bias", 0, 1023);
    const special = read.word("special", ["ieee", "fn", "fnuz", "none"]);
    const sign = read.has("sign") ? read.word("sign", ["yes", "no", "ignored"]) : "yes";
    const subnormals = read.has("subnormals") ? read.word("subnormals", ["yes", "zero", "normal"]) : "yes";
    const usual = special === "none" ? "saturate" : special === "ieee" ? "infinity" : "nan";
    const overflow = read.has("overflow") ? read.word("overflow", ["saturate", "infinity", "nan"]) : usual;
    if (exponent === null || mantissa === null || bias === null || special === null) return null;
    if (subnormals === null || overflow === null || sign === null) return null;
    const bits = (sign === "no" ? 0 : 1) + exponent + mantissa;
    if (special === "ieee" && mantissa === 0)
      return read.reject("special: ieee needs a mantissa bit to tell NaN from infinity");
    if (special === "fnuz" && sign !== "yes")
      return read.reject("special: fnuz needs a sign: its NaN is the code of -0");
    if (special === "none" && overflow === "nan") return read.reject("special: none has no NaN to overflow to");
    if (special !== "ieee" && overflow === "infinity") return read.reject("only special: ieee has an infinity");
    if ((subnormals !== "yes" || sign === "ignored") && bits > MAX_TABLE_BITS)
      return read.reject(
        `subnormals: ${subnormals}, sign: ${sign} go with at most ${MAX_TABLE_BITS} bits, not ${bits}`,
      );
    const top = 2 ** exponent - (special === "ieee" ? 2 : 1) - bias;
    if (top > 1023) return read.reject(`its largest numbers reach 2^${top}, and the largest double is below 2^1024`);
    return { kind: "float", name, bits, exponent, mantissa, bias, special, sign, subnormals, overflow };
  },

  int(name, read) {
    const bits = read.integer("bits", 1, MAX_BITS);
    const coding = read.word("coding", ["unsigned", "twos", "offset", "sign_magnitude", "plus_minus_one"]);
    const given = coding === "offset" && read.has("zero") ? read.integer("zero", 0, 2 ** 53) : null;
    if (bits === null || coding === null) return null;
    const middle = 2 ** (bits - 1);
    if (coding === "unsigned") return { kind: "int", name, bits, flip: 0, zero: 0 };
    if (coding === "twos") return { kind: "int", name, bits, flip: middle, zero: middle };
    if (coding === "offset") return { kind: "int", name, bits, flip: 0, zero: given ?? middle };
    if (bits > MAX_TABLE_BITS)
      return read.reject(`coding: ${coding} has at most ${MAX_TABLE_BITS} bits, and this has ${bits}`);
    return table(name, bits, (code) => {
      if (coding === "plus_minus_one") return 2 * code - (2 ** bits - 1);
      return code < middle ? code : -(code - middle);
    });
  },

  exponent(name, read) {
    const bits = read.integer("bits", 1, MAX_TABLE_BITS);
    const bias = read.integer("bias", 0, 1074);
    const nan = read.has("nan") ? read.integer("nan", 0, 2 ** MAX_TABLE_BITS - 1) : null;
    if (bits === null || bias === null) return null;
    const top = 2 ** bits - 1;
    if (nan !== null && nan > top) return read.reject(`nan: ${nan} is no code of ${bits} bits`);
    if (top - bias > 1023)
      return read.reject(`its largest number is 2^${top - bias}, and the largest double is below 2^1024`);
    return { kind: "exponent", name, bits, bias, nan };
  },

  posit(name, read) {
    const bits = read.integer("bits", 2, MAX_TABLE_BITS);
    const es = read.integer("es", 0, 5);
    return bits === null || es === null ? null : { kind: "posit", name, bits, es };
  },

  table(name, read, { literals, digits }, report) {
    const bits = read.integer("bits", 1, MAX_TABLE_BITS);
    const lanes = read.has("lanes") ? read.integer("lanes", 1, 64) : 1;
    const rounding = read.has("rounding") ? read.word("rounding", ["exact", "f32"]) : "exact";
    const rest = read.has("rest") ? read.word("rest", ["nan", "zero"]) : null;
    if (bits === null || lanes === null || rounding === null) return null;
    const entries = lanes * 2 ** bits;
    if (entries > MAX_ENTRIES)
      return read.reject(`2^${bits} codes of ${lanes} lanes are ${entries} values; at most ${MAX_ENTRIES} are allowed`);
    if (literals === null) return read.reject("a table lists its values in square brackets, such as [0, 0.5, 1, 1.5]");
    const listed: number[] = [];
    for (const literal of literals) {
      const value = readLiteral(literal, rounding, report);
      if (value === null) return null;
      listed.push(value);
    }
    const values = digits.length === 0 ? listed : pick(listed, digits, report);
    if (values === null) return null;
    if (values.length < entries && rest !== null) {
      while (values.length < entries) values.push(rest === "nan" ? Number.NaN : 0);
    }
    if (values.length === entries) return { kind: "table", name, bits, lanes, values };
    const shape = lanes === 1 ? `2^${bits} codes` : `2^${bits} codes of ${lanes} lanes`;
    return read.reject(`${shape} are ${entries} values, and ${values.length} are listed`);
  },

  // `count` digits below `base` in one code. first: digit 0 is the lowest. last: digit 0 is the highest. fraction:
  // digit 0 is the highest of the code taken as the fraction code / 2^bits, times base^count and cut (as TQ1_0 has it).
  digits(name, read) {
    const base = read.integer("base", 2, 256);
    const count = read.integer("count", 1, 16);
    const bits = read.integer("bits", 1, MAX_TABLE_BITS);
    const order = read.word("order", ["first", "last", "fraction"]);
    const zero = read.has("zero") ? read.integer("zero", 0, 255) : 0;
    if (base === null || count === null || bits === null || order === null || zero === null) return null;
    if (base ** count > 2 ** bits)
      return read.reject(
        `${count} digits below ${base} have ${base ** count} values, and ${bits} bits have ${2 ** bits}`,
      );
    if (count * 2 ** bits > MAX_ENTRIES)
      return read.reject(`${count} x 2^${bits} values are more than the ${MAX_ENTRIES} that are allowed`);
    const values: number[] = [];
    for (let code = 0; code < 2 ** bits; code++) {
      for (let digit = 0; digit < count; digit++) {
        const place = base ** (order === "last" ? count - 1 - digit : digit);
        const whole =
          order === "fraction" ? Math.floor(((code * place) % 2 ** bits) * base * 2 ** -bits) : code / place;
        values.push((Math.floor(whole) % base) - zero);
      }
    }
    return { kind: "table", name, bits, lanes: count, values };
  },
};
const FAMILIES: ReadonlyMap<string, Build> = new Map(Object.entries(BUILDERS));

function table(name: string, bits: number, value: (code: number) => number): TableElement {
  return { kind: "table", name, bits, lanes: 1, values: Array.from({ length: 2 ** bits }, (_, code) => value(code)) };
}

/** The listed values in the order of the digits: 0 to 9, then a to z, one for each value. */
function pick(listed: readonly number[], digits: readonly Ast.Name[], report: Report): number[] | null {
  const meant = new Map(listed.map((value, k) => [k.toString(36), value]));
  const values: number[] = [];
  for (const { text, span } of digits) {
    if (values.length + text.length > MAX_ENTRIES) {
      report("number", span, `a table has at most ${MAX_ENTRIES} values`);
      return null;
    }
    for (const digit of text) {
      const value = meant.get(digit);
      if (value === undefined) {
        report("number", span, `the digit ${digit} names none of the ${listed.length} values listed`);
        return null;
      }
      values.push(value);
    }
  }
  return values;
}

/** The element as a table in which some codes have other values. */
function overridden(element: Element, overrides: readonly Ast.Override[], report: Report): Element | null {
  const { name, bits } = element;
  if (bits > MAX_TABLE_BITS || (element.kind === "table" && element.lanes > 1)) {
    const message = `only single values of at most ${MAX_TABLE_BITS} bits can be overridden`;
    report("argument", overrides[0]!.code.span, message);
    return null;
  }
  const changed = new Map<number, number>();
  for (const { code, literal } of overrides) {
    const at = readInteger(code, 0, 2 ** bits - 1, "an overridden code", report);
    const value = readLiteral(literal, "exact", report);
    if (at === null || value === null) return null;
    if (changed.has(at)) {
      report("duplicate-name", code.span, `code ${at} is overridden twice`);
      return null;
    }
    changed.set(at, value);
  }
  return table(name, bits, (code) => changed.get(code) ?? toNumber(elementValue(element, BigInt(code), 0)));
}
