// What a .ladder file says, as written: names are still text and nothing is checked. Every node knows its span.
// Not here: the syntax (grammar.ts), what the names mean (resolve.ts, type.ts).

/** Characters [start, end) of one file. */
export interface Span {
  readonly file: string;
  readonly start: number;
  readonly end: number;
}

export interface Name {
  readonly text: string;
  readonly span: Span;
}

/** A number as written: an integer, or a decimal such as 7.5. */
export interface NumberLiteral {
  readonly kind: "number";
  readonly text: string;
  readonly span: Span;
}

/** A field, a code or the index variable; `index` is null where no brackets follow. */
export interface Reference {
  readonly kind: "reference";
  readonly name: Name;
  readonly index: Expr | null;
  readonly span: Span;
}

/** `of.bits(low +: width)`: `width` bits of a field's element, from bit `low` up. */
export interface Slice {
  readonly kind: "slice";
  readonly of: Reference;
  readonly low: Expr;
  readonly width: NumberLiteral;
  readonly span: Span;
}

export type BinaryOperator = "+" | "-" | "*" | "div" | "mod" | "++";

export interface Binary {
  readonly kind: "binary";
  readonly operator: BinaryOperator;
  readonly left: Expr;
  readonly right: Expr;
  readonly span: Span;
}

export interface Negate {
  readonly kind: "negate";
  readonly operand: Expr;
  readonly span: Span;
}

export type Comparison = "<" | "<=" | ">" | ">=" | "==" | "!=";

/** `if left operator right then yes else no`. */
export interface Choose {
  readonly kind: "choose";
  readonly operator: Comparison;
  readonly left: Expr;
  readonly right: Expr;
  readonly yes: Expr;
  readonly no: Expr;
  readonly span: Span;
}

export type Expr = NumberLiteral | Reference | Slice | Binary | Negate | Choose;

/** `name: 5` or `name: word` in an element's declaration. */
export interface Argument {
  readonly name: Name;
  readonly value: NumberLiteral | { readonly kind: "word"; readonly text: string; readonly span: Span };
}

/** `@world(id)`. */
export interface Annotation {
  readonly name: Name;
  readonly value: NumberLiteral;
}

/** `element F16 = float(exponent: 5, ...)`. */
export interface ElementDeclaration {
  readonly kind: "element";
  readonly annotations: readonly Annotation[];
  readonly name: Name;
  readonly family: Name;
  readonly arguments: readonly Argument[];
}

/** `qs : U8[16]`; `count` is null for a single element. */
export interface FieldDeclaration {
  readonly kind: "field";
  readonly name: Name;
  readonly element: Name;
  readonly count: NumberLiteral | null;
}

/** `code q[i < 32] = bits`. */
export interface CodeDeclaration {
  readonly kind: "code";
  readonly name: Name;
  readonly variable: Name;
  readonly count: NumberLiteral;
  readonly bits: Expr;
}

/** `value[i] = number`. */
export interface ValueDeclaration {
  readonly kind: "value";
  readonly variable: Name;
  readonly number: Expr;
  readonly span: Span;
}

export type BlockItem = FieldDeclaration | CodeDeclaration | ValueDeclaration;

/** `block Q4_0[32] { ... }`; items in the order of the text. */
export interface BlockDeclaration {
  readonly kind: "block";
  readonly annotations: readonly Annotation[];
  readonly name: Name;
  readonly size: NumberLiteral;
  readonly items: readonly BlockItem[];
}

export type Declaration = ElementDeclaration | BlockDeclaration;

export interface FileAst {
  readonly file: string;
  /** File names, without the quotes. */
  readonly imports: readonly Name[];
  readonly declarations: readonly Declaration[];
}
