// Text that is broken into lines where it is too wide for one: what the formatter builds of a declaration, and how it is
// written. A node is written flat where it fits and nobody wanted it otherwise; else at its outermost joints first.
// Nothing is tried and taken back, so that writing takes as long as the text, and what has been written is written again
// in the same way. Not here: where joints are (format.ts). After the pretty printers of Oppen and Wadler, but simpler.

/** Columns of a line. */
const WIDTH = 120;

/** A place where a line may end. */
export interface Joint {
  /** The author ended a line here. */
  readonly wanted: boolean;
  /** Comments that stand here, each of which ends its line. */
  readonly comments: readonly Comment[];
}

export interface Comment {
  /** With its slashes. */
  readonly text: string;
  /** Nothing but blanks stands before it in its line. */
  readonly alone: boolean;
  /** An empty line stands before it. */
  readonly blank: boolean;
}

/** `flat`: the node in one line; `forced`: a line must end inside it. */
interface Sized {
  readonly flat: string;
  readonly forced: boolean;
}

/** Nodes one behind the other. */
interface Row extends Sized {
  readonly kind: "row";
  readonly parts: readonly Node[];
}

/** Pieces with joints between them. */
interface Series extends Sized {
  readonly kind: "series";
  readonly first: Node;
  readonly rest: readonly Piece[];
  /** What the offsets of new lines count from: where the series begins, or the indentation of the declaration. */
  readonly base: "column" | "indent";
  /** all: lines end at each joint or at none; needed: where the next piece would be too wide. */
  readonly ends: "all" | "needed";
}

interface Piece {
  readonly joint: Joint;
  /** Columns from the base to where the piece begins on a line of its own. */
  readonly offset: number;
  /** What stands before it where no line ends: a blank or nothing. */
  readonly gap: "" | " ";
  readonly node: Node;
}

/** Short entries in square brackets: filled lines, indented, where they are too many for one. */
interface List extends Sized {
  readonly kind: "list";
  readonly entries: readonly { readonly joint: Joint; readonly text: string }[];
}

export type Node = string | Row | Series | List;

const NO_JOINT: Joint = { wanted: false, comments: [] };

/** A node in one line. */
export function flatOf(node: Node): string {
  return typeof node === "string" ? node : node.flat;
}

function isForced(node: Node): boolean {
  return typeof node !== "string" && node.forced;
}

export function row(...parts: readonly Node[]): Node {
  return { kind: "row", parts, flat: parts.map(flatOf).join(""), forced: parts.some(isForced) };
}

/** Pieces with joints between them, or the first alone where there are no others. */
export function series(
  first: Node,
  rest: readonly Piece[],
  { base = "column", ends = "all" }: Partial<Pick<Series, "base" | "ends">> = {},
): Node {
  if (rest.length === 0) return first;
  const flat = flatOf(first) + rest.map(({ gap, node }) => gap + flatOf(node)).join("");
  const forced = isForced(first) || rest.some(({ joint, node }) => mustEnd(joint, ends) || isForced(node));
  return { kind: "series", first, rest, base, ends, flat, forced };
}

/** Whether a line must end at a joint: commas have no wishes, since arguments are filled in. */
function mustEnd({ wanted, comments }: Joint, ends: Series["ends"]): boolean {
  return comments.length > 0 || (wanted && ends === "all");
}

/** `[a, b]`; each joint is the one before its entry, and that of the first decides whether the list is one line. */
export function list(entries: List["entries"]): Node {
  const forced = entries.some(({ joint }, e) => joint.comments.length > 0 || (e === 0 && joint.wanted));
  return { kind: "list", entries, flat: `[${entries.map(({ text }) => text).join(", ")}]`, forced };
}

/** The lines of a text as they come about. */
export class Page {
  private readonly lines: { text: string; comment: string | null }[] = [];
  private line: { text: string; comment: string | null } = { text: "", comment: null };
  /** Nothing has been written since the beginning, an opening bracket or an empty line. */
  private fresh = true;
  /** Blanks before the declaration or item that is being written. */
  indent = 0;

  /** Ends the line, if anything is in it. */
  end(): void {
    if (this.line.text !== "" || this.line.comment !== null) this.lines.push(this.line);
    this.line = { text: "", comment: null };
  }

  /** An empty line, but not at the beginning, behind an opening bracket or twice. */
  blank(): void {
    this.end();
    if (!this.fresh) this.lines.push({ text: "", comment: null });
    this.fresh = true;
  }

  put(text: string): void {
    if (this.line.text === "") this.line.text = " ".repeat(this.indent);
    this.line.text += text;
    this.fresh = false;
  }

  /** What stands in brackets begins behind this. */
  open(text: string): void {
    this.put(text);
    this.fresh = true;
    this.indent += 2;
  }

  /** A bracket that closes what `open` began, on a line of its own. */
  close(text: string): void {
    this.end();
    this.indent -= 2;
    this.put(text);
  }

  /** A comment on a line of its own. */
  remark(text: string, column: number): void {
    this.end();
    this.lines.push({ text: `${" ".repeat(Math.max(0, column))}${text}`, comment: null });
    this.fresh = false;
  }

  /** A comment behind what is in the line, which it ends. */
  trail(text: string): void {
    this.line.comment = text;
    this.end();
  }

  /**
   * Writes a node from the current column on.
   * @param tail columns that must be left on its last line
   */
  write(node: Node, tail = 0): void {
    if (typeof node === "string") return this.put(node);
    if (this.line.text === "") this.line.text = " ".repeat(this.indent);
    if (!node.forced && this.column + node.flat.length + tail <= WIDTH) return this.put(node.flat);
    switch (node.kind) {
      case "row":
        for (const [p, part] of node.parts.entries()) this.write(part, tailOf(node.parts.slice(p + 1), tail));
        return;
      case "series":
        return node.ends === "all" ? this.writeAll(node, tail) : this.writeNeeded(node, tail);
      case "list":
        return this.writeList(node);
    }
  }

  private get column(): number {
    return this.line.text.length;
  }

  private breakLine({ comments }: Joint, column: number): void {
    for (const { text, alone } of comments) {
      if (alone || this.line.text === "") this.remark(text, column);
      else this.trail(text);
    }
    this.end();
    this.line.text = " ".repeat(Math.max(0, column));
  }

  private writeAll({ first, rest, base }: Series, tail: number): void {
    const from = base === "column" ? this.column : this.indent;
    const own = rest.some(({ joint }) => mustEnd(joint, "all"));
    const inner = isForced(first) || rest.some(({ node }) => isForced(node));
    // Where only something inside must be broken, what is around it stays together if it fits.
    const fixed = [first, ...rest.map(({ node }) => node)].filter((node) => !isForced(node));
    const gaps = rest.reduce((sum, { gap }) => sum + gap.length, 0);
    const width = fixed.reduce<number>((sum, node) => sum + flatOf(node).length, gaps);
    const together = inner && !own && this.column + width + tail <= WIDTH;
    this.write(first, 0);
    for (const [p, { joint, offset, gap, node }] of rest.entries()) {
      if (together) this.put(gap);
      else this.breakLine(joint, from + offset);
      this.write(node, p === rest.length - 1 ? tail : 0);
    }
  }

  private writeNeeded({ first, rest, base }: Series, tail: number): void {
    const from = base === "column" ? this.column : this.indent;
    const startLine = this.lines.length;
    const fits = (node: Node, column: number, left: number): boolean =>
      !isForced(node) && column + flatOf(node).length + left <= WIDTH;
    const leftFor = (p: number): number => (p === rest.length - 1 ? tail : 0);
    this.write(first, leftFor(-1));
    for (const [p, { joint, offset, gap, node }] of rest.entries()) {
      const isBroken = this.lines.length > startLine;
      const isBetter = !fits(node, this.column + gap.length, leftFor(p)) && fits(node, from + offset, leftFor(p));
      if (mustEnd(joint, "needed") || isBroken || isBetter) this.breakLine(joint, from + offset);
      else this.put(gap);
      this.write(node, leftFor(p));
    }
  }

  private writeList({ entries }: List): void {
    this.put("[");
    for (const [e, { joint, text }] of entries.entries()) {
      const comma = e === entries.length - 1 ? "" : ",";
      const full = this.column + 1 + text.length + comma.length > WIDTH;
      if (e === 0 || joint.wanted || joint.comments.length > 0 || full) this.breakLine(joint, this.indent + 2);
      else this.put(" ");
      this.put(text + comma);
    }
    this.breakLine(NO_JOINT, this.indent);
    this.put("]");
  }

  /** All lines, with a final newline; comments behind neighbouring lines stand below each other. */
  text(): string {
    this.end();
    while (this.lines.at(-1)?.text === "") this.lines.pop();
    const out: string[] = [];
    for (let at = 0; at < this.lines.length;) {
      let end = at;
      while (end < this.lines.length && this.lines[end]!.comment !== null) end++;
      const width = Math.max(...this.lines.slice(at, end).map(({ text }) => text.length));
      for (; at < end; at++) out.push(`${this.lines[at]!.text.padEnd(width)} ${this.lines[at]!.comment}`);
      if (at < this.lines.length) out.push(this.lines[at++]!.text.trimEnd());
    }
    return out.length === 0 ? "" : `${out.join("\n")}\n`;
  }
}

/** Columns of the texts that follow a part on its last line. */
function tailOf(following: readonly Node[], tail: number): number {
  let sum = 0;
  for (const part of following) {
    if (typeof part !== "string") return sum;
    sum += part.length;
  }
  return sum + tail;
}
