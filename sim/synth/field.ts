// Values of a JSON file that a person may have written: each is checked where it is read, and an error names the file, the
// path of the field, what it is and what it should be. Not here: which fields there are (library.ts, scaling.ts).

import { type Expression, parseExpression, pinsOf } from "./expression.ts";

/** A fact that is not one, or one that is missing: where, what, and what would do. */
export class FactError extends Error {
  override readonly name = "FactError";
}

/** No fact is larger than this in its unit. */
const MAX_FACT = 1e9;

/** A value of the JSON with its path, so that each error can say where. */
export class Field {
  readonly #value: unknown;
  readonly #file: string;
  readonly #path: string;

  constructor(value: unknown, file: string, path: string) {
    this.#value = value;
    this.#file = file;
    this.#path = path;
  }

  fail(wanted: string): never {
    const text = JSON.stringify(this.#value) ?? "nothing";
    const shown = text.length > 60 ? `${text.slice(0, 57)}...` : text;
    throw new FactError(`${this.#file}: ${this.#path || "the whole"} is ${shown}; it should be ${wanted}`);
  }

  at(key: string): Field {
    if (typeof this.#value !== "object" || this.#value === null || Array.isArray(this.#value)) this.fail("an object");
    const value = Object.hasOwn(this.#value, key) ? (this.#value as Record<string, unknown>)[key] : undefined;
    return new Field(value, this.#file, this.#path === "" ? key : `${this.#path}.${key}`);
  }

  isNull(): boolean {
    return this.#value === null || this.#value === undefined;
  }

  list(most: number): readonly Field[] {
    if (!Array.isArray(this.#value) || this.#value.length === 0 || this.#value.length > most)
      this.fail(`a list of 1 to ${most}`);
    return (this.#value as readonly unknown[]).map((v, i) => new Field(v, this.#file, `${this.#path}[${i}]`));
  }

  text(): string {
    if (typeof this.#value !== "string" || this.#value === "") this.fail("a text");
    return this.#value;
  }

  pinName(): string {
    const text = this.text();
    if (!/^[A-Za-z_][A-Za-z0-9_]{0,63}$/.test(text)) this.fail("a name of letters, digits and _");
    return text;
  }

  /** At least `min`; without it any number. */
  number(min: number = -MAX_FACT): number {
    const value = this.#value;
    if (typeof value !== "number" || !(value >= min && value <= MAX_FACT))
      this.fail(min === -MAX_FACT ? "a number" : `a number of at least ${min}`);
    return value;
  }

  expression(pins: ReadonlySet<string>): Expression {
    const text = this.text();
    let parsed: Expression;
    try {
      parsed = parseExpression(text);
    } catch (error) {
      throw new FactError(`${this.#file}: ${this.#path}: ${(error as Error).message}`, { cause: error });
    }
    for (const pin of pinsOf(parsed)) if (!pins.has(pin)) this.fail(`a function of ${[...pins].join(", ")}`);
    return parsed;
  }
}
