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

/** A number as written: an integer, a decimal such as 7.5, or either in hexadecimal, such as 0x1.8p-3. */
export interface NumberLiteral {
  readonly kind: "number";
  readonly text: string;
  readonly span: Span;
}

/** `nan` or `inf` where a literal is meant. */
export interface Word {
  readonly kind: "word";
  readonly text: string;
  readonly span: Span;
}

/** A field, a code, a parameter or an index variable; `indices` is empty where no brackets follow. */
export interface Reference {
  readonly kind: "reference";
  readonly name: Name;
  readonly indices: readonly Expr[];
  readonly span: Span;
}

/** `of.bits(low +: width)`: `width` bits of a field's element, from bit `low` up. */
export interface Slice {
  readonly kind: "slice";
  readonly of: Reference;
  readonly low: Expr;
  readonly width: Expr;
  readonly span: Span;
}

/** `Name(a, b)`: an element applied to bits (and a lane), or `round(Element, number)`. */
export interface Call {
  readonly kind: "call";
  readonly name: Name;
  readonly arguments: readonly Expr[];
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

/** `left operator right`. */
export interface Compare {
  readonly operator: Comparison;
  readonly left: Expr;
  readonly right: Expr;
}

/** `if condition then yes else no`. */
export interface Choose {
  readonly kind: "choose";
  readonly condition: Compare;
  readonly yes: Expr;
  readonly no: Expr;
  readonly span: Span;
}

/** `join j < count : bits`: the bits for j = 0 lowest, then those for j = 1, and so on. */
export interface Join {
  readonly kind: "join";
  readonly variable: Name;
  readonly count: Expr;
  readonly bits: Expr;
  readonly span: Span;
}

export type Expr = NumberLiteral | Reference | Slice | Call | Binary | Negate | Choose | Join;

/** A name where an element, block or tensor is meant, with what its parameters stand for: `Group<UInt<4>, 32>`. */
export interface Use {
  readonly kind: "use";
  readonly name: Name;
  readonly arguments: readonly (NumberLiteral | Use)[];
  readonly span: Span;
}

/** `E : element` or `b : number` in angle brackets. */
export interface Parameter {
  readonly name: Name;
  readonly kind: Name;
}

/** `name: value` in round brackets; what a name stands for, an element, a number or one of a few words, shows later. */
export interface Argument {
  readonly name: Name;
  readonly value: NumberLiteral | Use;
}

/** `@world(id)`. */
export interface Annotation {
  readonly name: Name;
  readonly value: NumberLiteral;
}

/** A number or nan, inf, after a minus or not. */
export interface Literal {
  readonly negative: boolean;
  readonly value: NumberLiteral | Word;
  readonly span: Span;
}

/** `code: literal` after `override`. */
export interface Override {
  readonly code: NumberLiteral;
  readonly literal: Literal;
}

/** `element F16 = float(exponent: 5, ...)`, with the literals, digit strings and overrides that may follow. */
export interface ElementDeclaration {
  readonly kind: "element";
  readonly annotations: readonly Annotation[];
  readonly name: Name;
  readonly parameters: readonly Parameter[];
  readonly family: Name;
  readonly arguments: readonly Argument[];
  /** In square brackets; null where there are none. */
  readonly literals: readonly Literal[] | null;
  /** Texts in quotes, without the quotes. */
  readonly digits: readonly Name[];
  readonly overrides: readonly Override[];
}

/** `qs : U8[16]`; `counts` is empty for a single element. `beside`: in a buffer of its own. */
export interface FieldDeclaration {
  readonly kind: "field";
  readonly name: Name;
  readonly element: Use;
  readonly counts: readonly Expr[];
  readonly beside: boolean;
}

/** `code q[i < 32] = bits` in a block, `code q = bits` in a tensor. */
export interface CodeDeclaration {
  readonly kind: "code";
  readonly name: Name;
  readonly range: { readonly variable: Name; readonly count: Expr } | null;
  readonly bits: Expr;
}

/** `let f = index`. */
export interface LetDeclaration {
  readonly kind: "let";
  readonly name: Name;
  readonly index: Expr;
}

/** `value[i] = number` or `reference[i] = number` in a block; without brackets in a tensor. */
export interface ValueDeclaration {
  readonly kind: "value" | "reference";
  readonly variable: Name | null;
  readonly number: Expr;
  readonly span: Span;
}

/** `storage name requires K mod 128 == 0 { ... }` in a tensor. */
export interface StorageDeclaration {
  readonly kind: "storage";
  readonly name: Name;
  readonly requires: readonly Compare[];
  readonly items: readonly Item[];
}

export type Item = FieldDeclaration | CodeDeclaration | LetDeclaration | ValueDeclaration | StorageDeclaration;

/** `block Q4_0[32] { ... }`; items in the order of the text. */
export interface BlockDeclaration {
  readonly kind: "block";
  readonly annotations: readonly Annotation[];
  readonly name: Name;
  readonly parameters: readonly Parameter[];
  readonly size: Expr;
  readonly items: readonly Item[];
}

/** `tensor I2_S[n < N, k < K] { ... }`; the four names are those of rows and columns, and of how many there are. */
export interface TensorDeclaration {
  readonly kind: "tensor";
  readonly annotations: readonly Annotation[];
  readonly name: Name;
  readonly parameters: readonly Parameter[];
  readonly row: Name;
  readonly rows: Name;
  readonly column: Name;
  readonly columns: Name;
  readonly requires: readonly Compare[];
  readonly items: readonly Item[];
}

/** `type Int4 = Int<4>`: a block, tensor or element by its parameters. */
export interface TypeDeclaration {
  readonly kind: "type";
  readonly annotations: readonly Annotation[];
  readonly name: Name;
  readonly of: Use;
}

/** `field in low .. high`, or `field finite`; the field is `code` where the source is a single element. */
export interface RestrictionClause {
  readonly field: Name;
  readonly range: { readonly low: NumberLiteral; readonly high: NumberLiteral } | null;
}

/** A type, or one storage of a tensor: `I2_S.arm_64`. */
export interface EndpointUse {
  readonly use: Use;
  readonly storage: Name | null;
}

/** `convert A -> B : value when s in 3 .. 246 by x -> 2 * x`. */
export interface ConvertDeclaration {
  readonly kind: "convert";
  /** The word itself, which is no name of anything. */
  readonly name: Name;
  readonly from: EndpointUse;
  readonly to: EndpointUse;
  readonly guarantee: Name;
  readonly domain: readonly RestrictionClause[];
  readonly by: { readonly variable: Name; readonly code: Expr } | null;
  readonly span: Span;
}

/** `memory shared(capacity: 49152, ...)`, `multiply (...)` and so on: a word, a name where there is one, arguments. */
export interface DeviceItem {
  readonly kind: Name;
  readonly name: Name | null;
  readonly arguments: readonly Argument[];
}

export interface DeviceDeclaration {
  readonly kind: "device";
  readonly name: Name;
  readonly items: readonly DeviceItem[];
}

/** `gemm W4A16(activations: F16, weights: Q4_0, accumulate: F32, out: F16)`. */
export interface GemmDeclaration {
  readonly kind: "gemm";
  readonly name: Name;
  readonly arguments: readonly Argument[];
}

export type Declaration =
  | ElementDeclaration
  | BlockDeclaration
  | TensorDeclaration
  | TypeDeclaration
  | ConvertDeclaration
  | DeviceDeclaration
  | GemmDeclaration;

export interface FileAst {
  readonly file: string;
  /** File names, without the quotes. */
  readonly imports: readonly Name[];
  readonly declarations: readonly Declaration[];
}
