// The one layout of .ladder texts: an item a line, indentation 2, names and signs of neighbouring items below each other,
// at most one empty line in a row; what is too wide for a line, or was broken by its author, ends at operators.
// It works on the words of a text and not on its AST, so that brackets and comments stay what they are: comments keep
// their places behind items, before them and where a line may end inside one; others move to before the item.
// Not here: how a line is broken (page.ts), what the words mean (grammar.ts, whose order the methods follow).
// The manner is that of gofmt: no options.

import type { Diagnostic } from "./diagnostic.ts";
import { parse } from "./grammar.ts";
import { type Comment, flatOf, type Joint, list, type Node, Page, row, series } from "./page.ts";
import { chevrotain, type IToken, T, type TokenType, TOKENS } from "./token.ts";

/** The text in its layout, or why it has none. */
export type Formatted =
  | { readonly kind: "formatted"; readonly text: string }
  | { readonly kind: "rejected"; readonly diagnostics: readonly Diagnostic[] };

/**
 * Lays the text of one `.ladder` file out. Its AST stays what it is, and formatting the result again changes nothing.
 * @param file its name, for diagnostics; a text with errors of syntax is rejected
 */
export function formatLadder(file: string, text: string): Formatted {
  const result = parse(file, text);
  if (result.kind === "rejected") return result;
  const page = new Page();
  writeItems(new Reader(text).file(), page);
  return { kind: "formatted", text: page.text() };
}

// --- items ----------------------------------------------------------------------------------------------------------

/** A declaration, an item in braces, or an annotation: what begins a line of its own. */
interface Item {
  /** Comments on lines before it. */
  readonly lead: readonly Comment[];
  /** An empty line stands before it, behind its comments. */
  readonly blank: boolean;
  /** Neighbours of one kind are aligned; null for what is aligned with nothing. */
  readonly kind: string | null;
  /** The beginning, in columns that are aligned. */
  readonly cells: readonly string[];
  readonly rest: Node;
  /** What stands in braces behind it. */
  readonly inside: Inside | null;
  /** A comment behind it. */
  readonly trail: Comment | null;
}

/** An item without what stands around it; what stands in its braces is read behind it. */
type Content = Pick<Item, "kind" | "cells" | "rest"> & { readonly inside?: () => Inside };

interface Inside {
  /** Behind the opening brace. */
  readonly trail: Comment | null;
  readonly items: readonly Item[];
  /** Before the closing brace. */
  readonly last: readonly Comment[];
}

interface File {
  readonly items: readonly Item[];
  readonly last: readonly Comment[];
}

function writeItems({ items, last }: File, page: Page): void {
  for (let at = 0; at < items.length;) {
    let end = at + 1;
    while (end < items.length && continues(items[end - 1]!, items[end]!)) end++;
    const run = items.slice(at, end);
    const widths = run[0]!.cells.map((_, c) => Math.max(...run.map(({ cells }) => cells[c]!.length)));
    for (const item of run) writeItem(item, widths, page, items[at - 1]?.kind === "annotation");
    at = end;
  }
  for (const comment of last) writeComment(comment, page);
}

/** Whether two neighbours are aligned. */
function continues(before: Item, item: Item): boolean {
  return (
    item.kind !== null &&
    item.kind !== "annotation" &&
    item.kind === before.kind &&
    !item.blank &&
    item.lead.length === 0
  );
}

function writeComment({ text, blank }: Comment, page: Page): void {
  if (blank) page.blank();
  page.remark(text, page.indent);
}

function writeItem(
  { lead, blank, cells, rest, inside, trail }: Item,
  widths: readonly number[],
  page: Page,
  isAnnotated: boolean,
): void {
  for (const comment of lead) writeComment(isAnnotated ? { ...comment, blank: false } : comment, page);
  if (blank && !isAnnotated) page.blank();
  for (const [c, cell] of cells.entries()) page.put(`${cell.padEnd(widths[c]!)} `);
  page.write(rest, inside === null ? 0 : " {".length);
  if (inside !== null) {
    page.open(" {");
    if (inside.trail === null) page.end();
    else page.trail(inside.trail.text);
    writeItems(inside, page);
    page.close("}");
  }
  if (trail === null) page.end();
  else page.trail(trail.text);
}

// --- words ----------------------------------------------------------------------------------------------------------

/** A word with what stands before it. */
interface Word {
  readonly token: IToken | null;
  readonly comments: readonly Comment[];
  /** A line ends between the word before and this one. */
  readonly newline: boolean;
  /** An empty line stands right before it. */
  readonly blank: boolean;
}

const lexer = new chevrotain.Lexer(TOKENS, { positionTracking: "onlyOffset", skipValidations: true });

/** The words of a text without errors; the last has no token, and what stands before the end. */
function wordsOf(text: string): readonly Word[] {
  const { tokens } = lexer.tokenize(text);
  let end = 0;
  return [...tokens, null].map((token) => {
    const isFirst = end === 0;
    const gap = text.slice(end, token?.startOffset ?? text.length);
    end = token === null ? text.length : token.startOffset + token.image.length;
    return { token, ...gapOf(gap, isFirst) };
  });
}

/** Blanks and comments. */
function gapOf(gap: string, isFirst: boolean): Omit<Word, "token"> {
  const comments: Comment[] = [];
  const lines = gap.split("\n");
  let empty = 0;
  for (const [l, line] of lines.entries()) {
    const text = line.trim();
    // The first line is the rest of the line before, and the last is the beginning of this one.
    if (text !== "") comments.push({ text, alone: isFirst || l > 0, blank: empty > 0 });
    empty = text === "" && l > 0 ? empty + 1 : 0;
  }
  return { comments, newline: lines.length > 1, blank: empty > 1 };
}

/** Reads words into items and nodes. The text is known to be right, so that each method takes what must come. */
class Reader {
  private readonly words: readonly Word[];
  private at = 0;
  /** Comments before words that were taken where no line can end: they go before the item. */
  private stray: Comment[] = [];
  /** The comments before the next word have been put somewhere. */
  private placed = false;

  constructor(text: string) {
    this.words = wordsOf(text);
  }

  file(): File {
    const items: Item[] = [];
    while (this.word.token !== null) {
      while (this.is(T.At)) items.push(this.item(() => this.annotation()));
      items.push(this.item(() => this.declaration()));
    }
    return { items, last: this.lead() };
  }

  // --- the cursor ---

  private get word(): Word {
    return this.words[this.at]!;
  }

  private is(type: TokenType, ahead = 0): boolean {
    return this.words[this.at + ahead]?.token?.tokenType === type;
  }

  /** The next word as it is written. */
  private take(): string {
    this.stray.push(...this.commentsHere());
    this.placed = false;
    return this.words[this.at++]!.token!.image;
  }

  /** The comments before the next word, once. */
  private commentsHere(): readonly Comment[] {
    const comments = this.placed ? [] : this.word.comments;
    this.placed = true;
    return comments;
  }

  /** A place before the next word where a line may end. */
  private joint(): Joint {
    return { comments: this.commentsHere(), wanted: this.word.newline };
  }

  /** A place where a line may end before the next word, which is taken, and equally behind it. */
  private jointWord(): { readonly joint: Joint; readonly word: string } {
    const before = this.joint();
    const word = this.take();
    return { word, joint: joined(before, this.joint()) };
  }

  /** The comments before the next word but for `trail`, which belongs to what is before. */
  private lead(): readonly Comment[] {
    return this.commentsHere().filter(({ alone }, c) => alone || c > 0);
  }

  /** A comment on the line of the word before. */
  private trail(): Comment | null {
    const [first] = this.word.comments;
    return this.placed || first === undefined || first.alone ? null : first;
  }

  private item(read: () => Content): Item {
    const lead = this.lead();
    const { blank } = this.word;
    this.stray = [];
    const { inside = null, ...own } = read();
    if (inside !== null) this.take();
    const strays = this.stray.map((comment) => ({ ...comment, blank: false }));
    // An empty line before the item stays before comments that come out of it.
    const [first, ...others] = strays;
    const moved = first === undefined ? [] : [{ ...first, blank }, ...others];
    const braces = inside === null ? null : inside();
    return {
      ...own,
      lead: [...lead, ...moved],
      blank: blank && first === undefined,
      inside: braces,
      trail: this.trail(),
    };
  }

  /** Behind the opening brace up to behind the closing one. */
  private braces(read: () => Content): Inside {
    const trail = this.trail();
    const items: Item[] = [];
    while (!this.is(T.CloseCurly)) items.push(this.item(read));
    const last = this.lead();
    this.take();
    return { trail, items, last };
  }

  // --- declarations ---

  private annotation(): Content {
    const text = Array.from({ length: 5 }, () => this.take()).join("");
    return { kind: "annotation", cells: [], rest: text };
  }

  private declaration(): Content {
    const kind = this.take();
    switch (kind) {
      case "import":
        return { kind: null, cells: [], rest: `import ${this.take()}` };
      case "element": {
        const name = `element ${this.take()}${this.parameters()}`;
        return { kind, cells: [name], rest: this.elementValue() };
      }
      case "type": {
        const name = `type ${this.take()}`;
        return { kind, cells: [name], rest: `${this.take()} ${this.use()}` };
      }
      case "convert":
        return this.convert();
      case "gemm":
        return { kind: null, cells: [], rest: row("gemm ", this.take(), this.callArguments()) };
      case "device":
        return {
          kind: null,
          cells: [],
          rest: `device ${this.take()}`,
          inside: () => this.braces(() => this.deviceItem()),
        };
      case "block": {
        const head = `block ${this.take()}${this.parameters()}${this.take()}`;
        const rest = row(head, this.expression(), this.take());
        return { kind: null, cells: [], rest, inside: () => this.braces(() => this.inner()) };
      }
      default: {
        const name = `tensor ${this.take()}${this.parameters()}`;
        const [open, row_, below, rows, comma, column, , columns, close] = Array.from({ length: 9 }, () => this.take());
        const head = `${name}${open}${row_} ${below} ${rows}${comma} ${column} ${below} ${columns}${close}`;
        return { kind: null, cells: [], rest: this.requirements(head), inside: () => this.braces(() => this.inner()) };
      }
    }
  }

  private deviceItem(): Content {
    const kind = `${this.take()} `;
    const name = this.is(T.OpenRound) ? "" : this.take();
    return { kind: null, cells: [], rest: row(kind, name, this.callArguments()) };
  }

  /** What stands in the braces of a block, a tensor or a storage. */
  private inner(): Content {
    const isBeside = this.is(T.Beside);
    if (isBeside || this.is(T.Colon, 1)) {
      const name = isBeside ? `${this.take()} ${this.take()}` : this.take();
      const colon = `${this.take()} `;
      const use = this.use();
      const counts = this.is(T.OpenSquare) ? this.indices() : "";
      return { kind: isBeside ? "beside" : "field", cells: [name], rest: row(colon, use, counts) };
    }
    const kind = this.take();
    switch (kind) {
      case "code": {
        const name = `code ${this.take()}`;
        if (!this.is(T.OpenSquare)) return { kind, cells: [name], rest: row(`${this.take()} `, this.expression()) };
        const range = flatOf(row(this.take(), this.take(), ` ${this.take()} `, this.expression(), this.take()));
        return { kind, cells: [`${name}${range}`], rest: row(`${this.take()} `, this.expression()) };
      }
      case "let": {
        const name = `let ${this.take()}`;
        return { kind, cells: [name], rest: row(`${this.take()} `, this.expression()) };
      }
      case "storage": {
        const head = `storage ${this.take()}`;
        return { kind: null, cells: [], rest: this.requirements(head), inside: () => this.braces(() => this.inner()) };
      }
      default: {
        const variable = this.is(T.OpenSquare) ? `${this.take()}${this.take()}${this.take()}` : "";
        return { kind: null, cells: [], rest: row(`${kind}${variable} ${this.take()} `, this.expression()) };
      }
    }
  }

  private elementValue(): Node {
    const parts: Node[] = [`${this.take()} ${this.take()}`, this.callArguments()];
    if (this.is(T.OpenSquare))
      parts.push(
        " ",
        this.literals(() => this.literal()),
      );
    const rest: { readonly joint: Joint; readonly node: Node }[] = [];
    while (this.is(T.Text)) {
      const joint = this.joint();
      // Several digit strings stand below each other.
      const several = rest.length > 0 || this.is(T.Text, 1);
      rest.push({ joint: { ...joint, wanted: joint.wanted || several }, node: this.take() });
    }
    if (this.is(T.Override)) {
      const joint = this.joint();
      const node = row(
        `${this.take()} `,
        this.literals(() => `${this.take()}${this.take()} ${this.literal()}`),
      );
      rest.push({ joint, node });
    }
    const pieces = rest.map(({ joint, node }) => ({ joint, offset: 2, gap: " ", node }) as const);
    return series(row(...parts), pieces, { base: "indent" });
  }

  private literals(read: () => string): Node {
    this.take();
    const entries: { readonly joint: Joint; readonly text: string }[] = [];
    let joint = this.joint();
    while (!this.is(T.CloseSquare)) {
      const text = read();
      entries.push({ joint, text });
      if (this.is(T.Comma)) joint = this.jointWord().joint;
    }
    this.take();
    return list(entries);
  }

  private literal(): string {
    return this.is(T.Minus) ? `${this.take()}${this.take()}` : this.take();
  }

  private convert(): Content {
    const from = `convert ${this.endpoint()}`;
    const to = `${this.take()} ${this.endpoint()}`;
    const first = `${this.take()} ${this.take()}`;
    const rest: { readonly joint: Joint; readonly node: Node }[] = [];
    while (this.is(T.When) || this.is(T.And)) {
      const joint = this.joint();
      const field = `${this.take()} ${this.take()}`;
      const range = this.is(T.In) ? Array.from({ length: 4 }, () => this.take()).join(" ") : this.take();
      rest.push({ joint, node: `${field} ${range}` });
    }
    if (this.is(T.By)) {
      const joint = this.joint();
      const by = `${this.take()} ${this.take()} ${this.take()} `;
      rest.push({ joint, node: row(by, this.expression()) });
    }
    const pieces = rest.map(({ joint, node }) => ({ joint, offset: 2, gap: " ", node }) as const);
    return { kind: "convert", cells: [from, to], rest: series(first, pieces, { base: "indent" }) };
  }

  private endpoint(): string {
    const use = this.use();
    return this.is(T.Dot) ? `${use}${this.take()}${this.take()}` : use;
  }

  /** `head requires a == b and c < d`. */
  private requirements(head: string): Node {
    const pieces: { joint: Joint; offset: number; gap: " "; node: Node }[] = [];
    while (this.is(T.Requires) || this.is(T.And)) {
      const joint = this.joint();
      pieces.push({ joint, offset: 4, gap: " ", node: row(`${this.take()} `, this.compare()) });
    }
    return series(head, pieces, { base: "indent" });
  }

  private parameters(): string {
    if (!this.is(T.Below)) return "";
    let text = this.take();
    while (!this.is(T.Above)) {
      text += `${this.take()} ${this.take()} ${this.take()}`;
      if (this.is(T.Comma)) text += `${this.take()} `;
    }
    return text + this.take();
  }

  private use(): string {
    let text = this.take();
    if (!this.is(T.Below)) return text;
    text += this.take();
    while (!this.is(T.Above)) {
      text += this.use();
      if (this.is(T.Comma)) text += `${this.take()} `;
    }
    return text + this.take();
  }

  /** `(name: value, name: value)`. */
  private callArguments(): Node {
    return this.bracketed(() => `${this.take()}${this.take()} ${this.use()}`);
  }

  // --- expressions ---

  private expression(): Node {
    if (this.is(T.If)) return this.choose();
    if (!this.is(T.Join)) return this.concat();
    const head = `${this.take()} ${this.take()} ${this.take()} `;
    return row(head, this.sum(), ` ${this.take()} `, this.expression());
  }

  /** `if a then x else if b then y else z`, its arms below each other. */
  private choose(): Node {
    const first = this.arm("");
    const rest: { joint: Joint; offset: number; gap: " "; node: Node }[] = [];
    while (this.is(T.Else)) {
      const { joint, word } = this.jointWord();
      const isLast = !this.is(T.If);
      rest.push({
        joint,
        offset: 0,
        gap: " ",
        node: isLast ? row(`${word} `, this.expression()) : this.arm(`${word} `),
      });
      if (isLast) break;
    }
    return series(first, rest);
  }

  private arm(before: string): Node {
    const condition = row(`${before}${this.take()} `, this.compare());
    const { joint, word } = this.jointWord();
    const node = row(`${word} `, this.expression());
    return series(condition, [{ joint, offset: before.length, gap: " ", node }]);
  }

  private compare(): Node {
    return row(this.sum(), ` ${this.take()} `, this.sum());
  }

  private concat(): Node {
    return this.chain([T.Concat], () => this.sum());
  }

  private sum(): Node {
    return this.chain([T.Plus, T.Minus], () => this.product());
  }

  private product(): Node {
    return this.chain([T.Star, T.Div, T.Mod], () => this.unary());
  }

  /** Operands below each other, with the operators before them. */
  private chain(operators: readonly TokenType[], operand: () => Node): Node {
    const first = operand();
    const rest: { joint: Joint; offset: number; gap: " "; node: Node }[] = [];
    while (operators.some((type) => this.is(type))) {
      const { joint, word } = this.jointWord();
      rest.push({ joint, offset: -word.length - 1, gap: " ", node: row(`${word} `, operand()) });
    }
    return series(first, rest);
  }

  private unary(): Node {
    let minuses = "";
    while (this.is(T.Minus)) minuses += this.take();
    return minuses === "" ? this.atom() : row(minuses, this.atom());
  }

  private atom(): Node {
    if (this.is(T.OpenRound)) return row(this.take(), this.expression(), this.take());
    if (this.is(T.NumberToken)) return this.take();
    let of: Node = this.take();
    if (this.is(T.OpenSquare) || this.is(T.OpenRound)) of = row(of, this.indices());
    if (!this.is(T.Dot)) return of;
    const { joint, word } = this.jointWord();
    const low = row(`${word}${this.take()}${this.take()}`, this.expression());
    const width = row(` ${this.take()} `, this.expression(), this.take());
    return series(of, [{ joint, offset: 2, gap: "", node: row(low, width) }]);
  }

  /** Expressions in brackets of either kind. */
  private indices(): Node {
    return this.bracketed(() => this.expression());
  }

  /** Entries in brackets, filled in below each other where they are too wide. */
  private bracketed(entry: () => Node): Node {
    const open = this.take();
    if (this.is(T.CloseRound) || this.is(T.CloseSquare)) return `${open}${this.take()}`;
    const nodes: Node[] = [];
    const joints: Joint[] = [];
    for (;;) {
      const node = entry();
      if (!this.is(T.Comma)) {
        nodes.push(node);
        break;
      }
      const { joint, word } = this.jointWord();
      nodes.push(row(node, word));
      joints.push(joint);
    }
    const rest = nodes.slice(1).map((node, n) => ({ joint: joints[n]!, offset: 0, gap: " ", node }) as const);
    return row(open, series(nodes[0]!, rest, { ends: "needed" }), this.take());
  }
}

/** Two joints with one word between them. */
function joined(a: Joint, b: Joint): Joint {
  if (!b.wanted && b.comments.length === 0 && a.comments.length === 0) return a;
  return { wanted: a.wanted || b.wanted, comments: [...a.comments, ...b.comments] };
}
