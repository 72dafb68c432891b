// The syntax of expressions, and what all rules share: spans, names, limits and the wording of errors.
// Not here: declarations and files (grammar.ts, whose parser goes on from this one: Chevrotain wants its rules as fields
// of one object).

import type * as Chevrotain from "chevrotain";
import type * as Ast from "./ast.ts";
import { chevrotain, type IToken, KEYWORDS, T, TOKENS } from "./token.ts";

const EmbeddedActionsParser: typeof Chevrotain.EmbeddedActionsParser = chevrotain.EmbeddedActionsParser;
type Rule<R> = Chevrotain.ParserMethod<[], R>;

/** Brackets and conditionals inside one another; keeps the recursive descent far from the end of the stack. */
const MAX_NESTING = 40;
/** Operators and operands of one expression; bounds the depth of its tree, which later passes recurse over. */
const MAX_TERMS = 500;
/** Syntax errors after which the rest of a file is not read. */
export const MAX_ERRORS = 50;

const DECLARATION = 'a declaration such as "element" or "block"';

// Where an error is, by the rule that found it; the rules of expressions say nothing of use.
const PLACES: Readonly<Record<string, string>> = {
  import: " in this import",
  annotation: " in this annotation",
  element: " in this element",
  parameter: " in these parameters",
  use: " in this type",
  argument: " in this argument",
  block: " in this block",
  tensor: " in this tensor",
  type: " in this type",
  convert: " in this convert",
  restriction: " in this convert",
  device: " in this device",
  deviceItem: " in this device",
  gemm: " in this gemm",
  field: " in this field",
  code: " in this code",
  let: " in this let",
  value: " in this value",
  storage: " in this storage",
};
const found = (token: IToken): string =>
  token.tokenType === chevrotain.EOF
    ? "the end of the file"
    : `"${token.image.length <= 64 ? token.image : `${token.image.slice(0, 20)}...`}"`;

/** A limit was passed while parsing: the rest of the file is not read. */
export class TooLarge extends Error {
  readonly token: IToken;
  constructor(message: string, token: IToken) {
    super(message);
    this.token = token;
  }
}

/** The rules of expressions. The parser of files extends it and then analyses all rules at once. */
export class ExpressionParser extends EmbeddedActionsParser {
  fileName = "";
  private nesting = 0;
  private terms = 0;

  constructor(skipValidations: boolean) {
    super(TOKENS, {
      recoveryEnabled: true,
      maxLookahead: 1,
      skipValidations,
      errorMessageProvider: {
        buildMismatchTokenMessage({ expected, actual, ruleName }) {
          let wanted = expected.LABEL ?? expected.name;
          if (expected === chevrotain.EOF) wanted = DECLARATION;
          if (expected === T.CloseCurly && ruleName !== "device") wanted = 'a field, "code", "value" or "}"';
          const reserved =
            expected === T.Identifier && KEYWORDS.includes(actual.tokenType) ? `, which is a word of the language` : "";
          return `expected ${wanted}${PLACES[ruleName] ?? ""}, found ${found(actual)}${reserved}`;
        },
        buildNotAllInputParsedMessage: ({ firstRedundant }) =>
          `expected ${DECLARATION}, found ${found(firstRedundant)}`,
        buildNoViableAltMessage: ({ actual, customUserDescription, expectedPathsPerAlt, ruleName }) => {
          const labels = expectedPathsPerAlt.flat().map((path) => path[0]?.LABEL ?? "");
          const wanted =
            ruleName === "declaration" ? DECLARATION : (customUserDescription ?? [...new Set(labels)].join(" or "));
          return `expected ${wanted}, found ${found(actual[0]!)}`;
        },
        // No rule demands one or more of anything.
        buildEarlyExitMessage: ({ actual }) => `unexpected ${found(actual[0]!)}`,
      },
    });
  }

  // Loosest first: if-then-else and join, ++, then + and -, then * div mod, then unary minus.
  protected expression: Rule<Ast.Expr> = this.RULE("expression", (): Ast.Expr => {
    this.ACTION(() => this.nest("an expression"));
    const expression = this.OR<Ast.Expr>([
      { ALT: () => this.SUBRULE(this.choose) },
      { ALT: () => this.SUBRULE(this.join) },
      { ALT: () => this.SUBRULE(this.concat) },
    ]);
    this.ACTION(() => this.unnest());
    return expression;
  });

  protected compare: Rule<Ast.Compare> = this.RULE("compare", (): Ast.Compare => {
    const left = this.SUBRULE1(this.sum);
    const operator = this.OR<Ast.Comparison>([
      { ALT: () => (this.CONSUME(T.Below), "<") },
      { ALT: () => (this.CONSUME(T.AtMost), "<=") },
      { ALT: () => (this.CONSUME(T.Above), ">") },
      { ALT: () => (this.CONSUME(T.AtLeast), ">=") },
      { ALT: () => (this.CONSUME(T.Same), "==") },
      { ALT: () => (this.CONSUME(T.Differs), "!=") },
    ]);
    return { operator, left, right: this.SUBRULE2(this.sum) };
  });

  private choose = this.RULE("choose", (): Ast.Choose => {
    const start = this.CONSUME(T.If);
    const condition = this.SUBRULE(this.compare);
    this.CONSUME(T.Then);
    const yes = this.SUBRULE1(this.expression);
    this.CONSUME(T.Else);
    const no = this.SUBRULE2(this.expression);
    return { kind: "choose", condition, yes, no, span: this.span(start) };
  });

  private join = this.RULE("join", (): Ast.Join => {
    const start = this.CONSUME(T.Join);
    const variable = this.name(this.CONSUME(T.Identifier));
    this.CONSUME(T.Below);
    const count = this.SUBRULE(this.sum);
    this.CONSUME(T.Colon);
    const bits = this.SUBRULE(this.expression);
    return { kind: "join", variable, count, bits, span: this.span(start) };
  });

  private concat = this.RULE("concat", (): Ast.Expr => {
    const start = this.LA(1);
    let left = this.SUBRULE1(this.sum);
    this.MANY(() => {
      this.CONSUME(T.Concat);
      left = this.binary(start, "++", left, this.SUBRULE2(this.sum));
    });
    return left;
  });

  private sum = this.RULE("sum", (): Ast.Expr => {
    const start = this.LA(1);
    let left = this.SUBRULE1(this.product);
    this.MANY(() => {
      const operator = this.OR<Ast.BinaryOperator>([
        { ALT: () => (this.CONSUME(T.Plus), "+") },
        { ALT: () => (this.CONSUME(T.Minus), "-") },
      ]);
      left = this.binary(start, operator, left, this.SUBRULE2(this.product));
    });
    return left;
  });

  private product = this.RULE("product", (): Ast.Expr => {
    const start = this.LA(1);
    let left = this.SUBRULE1(this.unary);
    this.MANY(() => {
      const operator = this.OR<Ast.BinaryOperator>([
        { ALT: () => (this.CONSUME(T.Star), "*") },
        { ALT: () => (this.CONSUME(T.Div), "div") },
        { ALT: () => (this.CONSUME(T.Mod), "mod") },
      ]);
      left = this.binary(start, operator, left, this.SUBRULE2(this.unary));
    });
    return left;
  });

  private unary = this.RULE("unary", (): Ast.Expr => {
    const minuses: IToken[] = [];
    this.MANY(() => {
      minuses.push(this.CONSUME(T.Minus));
      this.ACTION(() => this.count());
    });
    let operand = this.SUBRULE(this.atom);
    this.ACTION(() => {
      for (const minus of minuses.toReversed()) operand = { kind: "negate", operand, span: this.span(minus) };
    });
    return operand;
  });

  private atom = this.RULE("atom", (): Ast.Expr => {
    this.ACTION(() => this.count());
    return this.OR<Ast.Expr>({
      ERR_MSG: 'a number, a name or "("',
      DEF: [
        { ALT: () => this.number(this.CONSUME(T.NumberToken)) },
        { ALT: () => this.SUBRULE(this.reference) },
        {
          ALT: () => {
            this.CONSUME(T.OpenRound);
            const inner = this.SUBRULE(this.expression);
            this.CONSUME(T.CloseRound);
            return inner;
          },
        },
      ],
    });
  });

  private reference = this.RULE("reference", (): Ast.Reference | Ast.Slice | Ast.Call => {
    const start = this.CONSUME(T.Identifier);
    const name = this.name(start);
    const indices: Ast.Expr[] = [];
    let call: Ast.Call | null = null;
    this.OPTION1(() => {
      this.OR([
        {
          ALT: () => {
            // Not a rule of its own: a missing bracket is put in only where something of the rule follows it.
            this.CONSUME(T.OpenSquare);
            indices.push(this.SUBRULE4(this.expression));
            this.MANY(() => {
              this.CONSUME(T.Comma);
              indices.push(this.SUBRULE5(this.expression));
            });
            this.CONSUME(T.CloseSquare);
          },
        },
        {
          ALT: () => {
            const list: Ast.Expr[] = [];
            this.CONSUME1(T.OpenRound);
            this.MANY_SEP({ SEP: T.Comma, DEF: () => list.push(this.SUBRULE1(this.expression)) });
            this.CONSUME1(T.CloseRound);
            call = { kind: "call", name, arguments: list, span: this.span(start) };
          },
        },
      ]);
    });
    const of: Ast.Reference = { kind: "reference", name, indices, span: this.span(start) };
    let slice: Ast.Slice | null = null;
    this.OPTION2(() => {
      this.CONSUME(T.Dot);
      this.CONSUME(T.Bits);
      this.CONSUME2(T.OpenRound);
      const low = this.SUBRULE2(this.expression);
      this.CONSUME(T.UpFrom);
      const width = this.SUBRULE3(this.expression);
      this.CONSUME2(T.CloseRound);
      slice = { kind: "slice", of, low, width, span: this.span(start) };
    });
    return slice ?? call ?? of;
  });

  /** From `start` to the last token consumed. */
  protected span(start: IToken): Ast.Span {
    const last = this.LA(0);
    return { file: this.fileName, start: start.startOffset, end: last.startOffset + last.image.length };
  }

  protected name(token: IToken): Ast.Name {
    return { text: token.image, span: this.span(token) };
  }

  /** A text in quotes, without them. */
  protected text(token: IToken): Ast.Name {
    return { text: token.image.slice(1, -1), span: this.span(token) };
  }

  protected number(token: IToken): Ast.NumberLiteral {
    return { kind: "number", text: token.image, span: this.span(token) };
  }

  private binary(start: IToken, operator: Ast.BinaryOperator, left: Ast.Expr, right: Ast.Expr): Ast.Binary {
    return { kind: "binary", operator, left, right, span: this.span(start) };
  }

  /** At the beginning of a declaration or item: counts its terms anew, and ends the file after many errors. */
  protected begin(): void {
    this.terms = 0;
    if (this.errors.length < MAX_ERRORS) return;
    throw new TooLarge(`after ${MAX_ERRORS} errors the rest of the file is not read`, this.LA(1));
  }

  protected nest(what: string): void {
    if (++this.nesting > MAX_NESTING) throw new TooLarge(`${what} may nest at most ${MAX_NESTING} deep`, this.LA(1));
  }

  protected unnest(): void {
    this.nesting--;
  }

  /** Before each declaration: recovery may have left brackets open. */
  protected startOver(): void {
    this.nesting = 0;
  }

  private count(): void {
    if (++this.terms > MAX_TERMS) throw new TooLarge(`an expression may have at most ${MAX_TERMS} terms`, this.LA(1));
  }
}
