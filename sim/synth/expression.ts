// Boolean functions of cells as liberty writes them: "!(A1 & A2)", "A^B", "A B + C'" and so on; a small parser and what
// follows from a function: its pins, its value on 32 streams at once, and how its output turns with each input.
// Not here: which cells there are (library.ts), how netlists are simulated (simulate.ts).
// The grammar is the Liberty User Guide's for the attribute "function": ' behind or ! before an operand is NOT, & or *
// or a space is AND, | or + is OR, ^ is XOR, 0 and 1 are constants; NOT binds first, then XOR, then AND, then OR.

/** A function; `op` is the discriminant. */
export type Expression =
  | { readonly op: "const"; readonly value: 0 | 1 }
  | { readonly op: "pin"; readonly name: string }
  | { readonly op: "not"; readonly a: Expression }
  | { readonly op: "and" | "or" | "xor"; readonly a: Expression; readonly b: Expression };

/** How an output moves when an input rises: with it, against it, either, or not at all. */
export type Sense = "positive" | "negative" | "both" | "none";

/** Deeper nesting than any cell has; deeper text is refused before it can exhaust the stack. */
const MAX_DEPTH = 64;
const MAX_CHARS = 4096;
/** The most inputs whose 2^n rows are looked at. */
const MAX_PINS = 12;

/**
 * Parses a function.
 * @throws Error that says where the text stops being one
 */
export function parseExpression(text: string): Expression {
  if (text.length > MAX_CHARS)
    throw new Error(`a function of ${text.length} characters; at most ${MAX_CHARS} are read`);
  const tokens = [...text.matchAll(/\s+|[A-Za-z_][\w[\].$]*|[01]|[!'&*|+^()]|./g)].filter(([t]) => t.trim() !== "");
  let at = 0;
  const peek = (): string | undefined => tokens[at]?.[0];
  const fail = (): never => {
    const token = tokens[at];
    const where = token === undefined ? "its end" : `${JSON.stringify(token[0])} at character ${token.index + 1}`;
    throw new Error(`the function ${JSON.stringify(text)} cannot be read at ${where}; as in "!(A & B) | C"`);
  };
  const operand = (depth: number): Expression => {
    if (depth > MAX_DEPTH) throw new Error(`a function nested more than ${MAX_DEPTH} deep: ${text.slice(0, 40)}...`);
    const token = peek();
    if (token === undefined) return fail();
    at++;
    let value: Expression;
    if (token === "!") value = { op: "not", a: operand(depth + 1) };
    else if (token === "(") {
      value = or(depth + 1);
      if (peek() !== ")") return fail();
      at++;
    } else if (token === "0" || token === "1") value = { op: "const", value: token === "1" ? 1 : 0 };
    else if (/^[A-Za-z_]/.test(token)) value = { op: "pin", name: token };
    else {
      at--;
      return fail();
    }
    while (peek() === "'") {
      at++;
      value = { op: "not", a: value };
    }
    return value;
  };
  const xor = (depth: number): Expression => {
    let value = operand(depth);
    while (peek() === "^") {
      at++;
      value = { op: "xor", a: value, b: operand(depth) };
    }
    return value;
  };
  const beginsOperand = (token: string | undefined): boolean => token !== undefined && /^[A-Za-z_01!(]/.test(token);
  const and = (depth: number): Expression => {
    let value = xor(depth);
    for (let token = peek(); token === "&" || token === "*" || beginsOperand(token); token = peek()) {
      if (!beginsOperand(token)) at++;
      value = { op: "and", a: value, b: xor(depth) };
    }
    return value;
  };
  const or = (depth: number): Expression => {
    let value = and(depth);
    while (peek() === "|" || peek() === "+") {
      at++;
      value = { op: "or", a: value, b: and(depth) };
    }
    return value;
  };
  const value = or(0);
  return at === tokens.length ? value : fail();
}

/** Names of the pins that a function reads, each once, in order of appearance. */
export function pinsOf(expression: Expression): readonly string[] {
  const found = new Set<string>();
  const visit = (e: Expression): void => {
    if (e.op === "pin") found.add(e.name);
    else if (e.op !== "const") {
      visit(e.a);
      if (e.op !== "not") visit(e.b);
    }
  };
  visit(expression);
  return [...found];
}

/** Value on 32 independent streams, one a bit. */
export function evaluate(expression: Expression, pin: (name: string) => number): number {
  switch (expression.op) {
    case "const":
      return expression.value === 1 ? -1 : 0;
    case "pin":
      return pin(expression.name);
    case "not":
      return ~evaluate(expression.a, pin);
    default: {
      const a = evaluate(expression.a, pin);
      const b = evaluate(expression.b, pin);
      return expression.op === "and" ? a & b : expression.op === "or" ? a | b : a ^ b;
    }
  }
}

/** The output for every setting of `pins`: bit i of setting s is the value of pins[i]. At most 12 pins. */
export function truthTable(expression: Expression, pins: readonly string[]): readonly (0 | 1)[] {
  if (pins.length > MAX_PINS)
    throw new Error(`a function of ${pins.length} inputs; at most ${MAX_PINS} are understood`);
  return Array.from({ length: 2 ** pins.length }, (_, setting) => {
    const value = evaluate(expression, (name) => ((setting >> pins.indexOf(name)) & 1 ? -1 : 0));
    return value === 0 ? 0 : 1;
  });
}

/** How the function's value turns with `pin`, over all settings of the other pins. */
export function senseOf(expression: Expression, pin: string): Sense {
  const pins = pinsOf(expression);
  const bit = pins.indexOf(pin);
  if (bit < 0) return "none";
  const table = truthTable(expression, pins);
  const turns = new Set<number>();
  for (let setting = 0; setting < table.length; setting++)
    if (((setting >> bit) & 1) === 0) turns.add(table[setting | (1 << bit)]! - table[setting]!);
  const [up, down] = [turns.has(1), turns.has(-1)];
  return up ? (down ? "both" : "positive") : down ? "negative" : "none";
}

/** The function as text that `parseExpression` reads back; every operation in brackets. */
export function printExpression(expression: Expression): string {
  switch (expression.op) {
    case "const":
      return String(expression.value);
    case "pin":
      return expression.name;
    case "not":
      return `!${printExpression(expression.a)}`;
    default: {
      const sign = expression.op === "and" ? "&" : expression.op === "or" ? "|" : "^";
      return `(${printExpression(expression.a)} ${sign} ${printExpression(expression.b)})`;
    }
  }
}
