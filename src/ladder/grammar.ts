// The syntax of .ladder files: text to FileAst, with recovery, so that one run reports the errors of every line.
// Not here: what names mean and whether sizes and indices fit (resolve.ts).
// The parser generator is Chevrotain (LL(1) here; rules as class fields, the AST built in the rules).

import type * as Chevrotain from "chevrotain";
import type * as Ast from "./ast.ts";
import type { Diagnostic } from "./diagnostic.ts";

// The package's entry loads some 500 modules (0.3 s); its own one-file bundle beside it loads in 13 ms.
const bundle = new URL("../chevrotain.min.mjs", import.meta.resolve("chevrotain")).href;
const chevrotain: typeof Chevrotain = await import(/* @vite-ignore */ bundle);
const { createToken, EmbeddedActionsParser, Lexer } = chevrotain;
type IToken = Chevrotain.IToken;
type TokenType = Chevrotain.TokenType;

/** Characters of one file: far above any real declaration, and small enough that every pass is quick. */
const MAX_TEXT = 256 * 1024;
/** Brackets and conditionals inside one another; keeps the recursive descent far from the end of the stack. */
const MAX_NESTING = 40;
/** Operators and operands of one expression; bounds the depth of its tree, which later passes recurse over. */
const MAX_TERMS = 500;
/** Strange characters that are reported, and syntax errors after which the rest of a file is not read. */
const MAX_ERRORS = 50;

const Identifier = createToken({ name: "Identifier", pattern: /[A-Za-z_][A-Za-z0-9_]*/, label: "a name" });
const keyword = (text: string): TokenType =>
  createToken({ name: `Word_${text}`, pattern: text, longer_alt: Identifier, label: `"${text}"` });
const symbol = (name: string, pattern: string): TokenType => createToken({ name, pattern, label: `"${pattern}"` });

const Blank = createToken({ name: "Blank", pattern: /[ \t\r\n]+/, group: Lexer.SKIPPED, line_breaks: true });
const Comment = createToken({ name: "Comment", pattern: /\/\/[^\n]*/, group: Lexer.SKIPPED });
const NumberToken = createToken({ name: "Number", pattern: /[0-9]+(?:\.[0-9]+)?/, label: "a number" });
const Text = createToken({ name: "Text", pattern: /"[^"\n]*"/, label: "a file name in quotes" });

const Import = keyword("import");
const Element = keyword("element");
const Block = keyword("block");
const Code = keyword("code");
const Value = keyword("value");
const If = keyword("if");
const Then = keyword("then");
const Else = keyword("else");
const Div = keyword("div");
const Mod = keyword("mod");
// A word only after a dot; elsewhere a name like any other.
const Bits = createToken({
  name: "Bits",
  pattern: "bits",
  longer_alt: Identifier,
  categories: Identifier,
  label: '"bits"',
});

const Concat = symbol("Concat", "++");
const UpFrom = symbol("UpFrom", "+:");
const Plus = symbol("Plus", "+");
const Minus = symbol("Minus", "-");
const Star = symbol("Star", "*");
const AtMost = symbol("AtMost", "<=");
const AtLeast = symbol("AtLeast", ">=");
const Below = symbol("Below", "<");
const Above = symbol("Above", ">");
const Same = symbol("Same", "==");
const Differs = symbol("Differs", "!=");
const Equals = symbol("Equals", "=");
const Colon = symbol("Colon", ":");
const Comma = symbol("Comma", ",");
const Dot = symbol("Dot", ".");
const At = symbol("At", "@");
const OpenRound = symbol("OpenRound", "(");
const CloseRound = symbol("CloseRound", ")");
const OpenSquare = symbol("OpenSquare", "[");
const CloseSquare = symbol("CloseSquare", "]");
const OpenCurly = symbol("OpenCurly", "{");
const CloseCurly = symbol("CloseCurly", "}");

const OPENERS: readonly TokenType[] = [Import, Element, Block, Code, Value];
const KEYWORDS: readonly TokenType[] = [...OPENERS, If, Then, Else, Div, Mod];
// Order matters where one symbol begins another: the longer comes first.
// prettier-ignore
const TOKENS: TokenType[] = [
  Blank, Comment, ...KEYWORDS, Bits, Identifier, NumberToken, Text,
  Concat, UpFrom, Plus, Minus, Star, AtMost, AtLeast, Same, Differs, Below, Above, Equals,
  Colon, Comma, Dot, At, OpenRound, CloseRound, OpenSquare, CloseSquare, OpenCurly, CloseCurly,
];

// Where an error is, by the rule that found it; the rules of expressions say nothing of use.
const PLACES: Readonly<Record<string, string>> = {
  import: " in this import",
  annotation: " in this annotation",
  element: " in this element",
  argument: " in this argument",
  block: " in this block",
  field: " in this field",
  code: " in this code",
  value: " in this value",
};
const found = (token: IToken): string =>
  token.tokenType === chevrotain.EOF
    ? "the end of the file"
    : `"${token.image.length <= 64 ? token.image : `${token.image.slice(0, 20)}...`}"`;

/** A limit was passed while parsing: the rest of the file is not read. */
class TooLarge extends Error {
  readonly token: IToken;
  constructor(message: string, token: IToken) {
    super(message);
    this.token = token;
  }
}

class LadderParser extends EmbeddedActionsParser {
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
          if (expected === chevrotain.EOF) wanted = '"import", "element", "block" or "@"';
          if (expected === CloseCurly) wanted = 'a field, "code", "value" or "}"';
          const reserved =
            expected === Identifier && KEYWORDS.includes(actual.tokenType) ? `, which is a word of the language` : "";
          return `expected ${wanted}${PLACES[ruleName] ?? ""}, found ${found(actual)}${reserved}`;
        },
        buildNotAllInputParsedMessage: ({ firstRedundant }) =>
          `expected "import", "element", "block" or "@", found ${found(firstRedundant)}`,
        buildNoViableAltMessage: ({ actual, customUserDescription, expectedPathsPerAlt }) => {
          const labels = expectedPathsPerAlt.flat().map((path) => path[0]?.LABEL ?? "");
          return `expected ${customUserDescription ?? [...new Set(labels)].join(" or ")}, found ${found(actual[0]!)}`;
        },
        // No rule demands one or more of anything.
        buildEarlyExitMessage: ({ actual }) => `unexpected ${found(actual[0]!)}`,
      },
    });
    this.performSelfAnalysis();
  }

  file = this.RULE("file", (): Ast.FileAst => {
    const imports: Ast.Name[] = [];
    const declarations: Ast.Declaration[] = [];
    this.MANY(() => {
      this.ACTION(() => this.stopAfterManyErrors());
      this.OR([
        { ALT: () => imports.push(this.SUBRULE(this.import)) },
        { ALT: () => declarations.push(this.SUBRULE(this.declaration)) },
      ]);
    });
    return { file: this.fileName, imports, declarations };
  });

  private import = this.RULE("import", (): Ast.Name => {
    this.CONSUME(Import);
    const token = this.CONSUME(Text);
    return { text: token.image.slice(1, -1), span: this.span(token) };
  });

  private declaration = this.RULE("declaration", (): Ast.Declaration => {
    const annotations: Ast.Annotation[] = [];
    this.MANY(() => {
      annotations.push(this.SUBRULE(this.annotation));
    });
    return this.OR<Ast.Declaration>([
      { ALT: () => ({ ...this.SUBRULE(this.element), annotations }) },
      { ALT: () => ({ ...this.SUBRULE(this.block), annotations }) },
    ]);
  });

  private annotation = this.RULE("annotation", (): Ast.Annotation => {
    this.CONSUME(At);
    const name = this.name(this.CONSUME(Identifier));
    this.CONSUME(OpenRound);
    const value = this.number(this.CONSUME(NumberToken));
    this.CONSUME(CloseRound);
    return { name, value };
  });

  private element = this.RULE("element", (): Ast.ElementDeclaration => {
    this.CONSUME(Element);
    const name = this.name(this.CONSUME1(Identifier));
    this.CONSUME(Equals);
    const family = this.name(this.CONSUME2(Identifier));
    const list: Ast.Argument[] = [];
    this.CONSUME(OpenRound);
    this.MANY_SEP({ SEP: Comma, DEF: () => list.push(this.SUBRULE(this.argument)) });
    this.CONSUME(CloseRound);
    return { kind: "element", annotations: [], name, family, arguments: list };
  });

  private argument = this.RULE("argument", (): Ast.Argument => {
    const name = this.name(this.CONSUME1(Identifier));
    this.CONSUME(Colon);
    const value = this.OR<Ast.Argument["value"]>([
      { ALT: () => this.number(this.CONSUME(NumberToken)) },
      { ALT: () => ({ kind: "word", ...this.name(this.CONSUME2(Identifier)) }) },
    ]);
    return { name, value };
  });

  private block = this.RULE("block", (): Ast.BlockDeclaration => {
    const items: Ast.BlockItem[] = [];
    this.CONSUME(Block);
    const name = this.name(this.CONSUME(Identifier));
    this.CONSUME(OpenSquare);
    const size = this.number(this.CONSUME(NumberToken));
    this.CONSUME(CloseSquare);
    this.CONSUME(OpenCurly);
    this.MANY(() => {
      this.ACTION(() => {
        this.stopAfterManyErrors();
        this.nesting = 0;
        this.terms = 0;
      });
      this.OR([
        { ALT: () => items.push(this.SUBRULE(this.field)) },
        { ALT: () => items.push(this.SUBRULE(this.code)) },
        { ALT: () => items.push(this.SUBRULE(this.value)) },
      ]);
    });
    this.CONSUME(CloseCurly);
    return { kind: "block", annotations: [], name, size, items };
  });

  private field = this.RULE("field", (): Ast.FieldDeclaration => {
    const name = this.name(this.CONSUME1(Identifier));
    this.CONSUME(Colon);
    const element = this.name(this.CONSUME2(Identifier));
    let count: Ast.NumberLiteral | null = null;
    this.OPTION(() => {
      this.CONSUME(OpenSquare);
      count = this.number(this.CONSUME(NumberToken));
      this.CONSUME(CloseSquare);
    });
    return { kind: "field", name, element, count };
  });

  private code = this.RULE("code", (): Ast.CodeDeclaration => {
    this.CONSUME(Code);
    const name = this.name(this.CONSUME1(Identifier));
    this.CONSUME(OpenSquare);
    const variable = this.name(this.CONSUME2(Identifier));
    this.CONSUME(Below);
    const count = this.number(this.CONSUME(NumberToken));
    this.CONSUME(CloseSquare);
    this.CONSUME(Equals);
    const bits = this.SUBRULE(this.expression);
    return { kind: "code", name, variable, count, bits };
  });

  private value = this.RULE("value", (): Ast.ValueDeclaration => {
    const start = this.CONSUME(Value);
    this.CONSUME(OpenSquare);
    const variable = this.name(this.CONSUME(Identifier));
    this.CONSUME(CloseSquare);
    const span = this.span(start);
    this.CONSUME(Equals);
    const number = this.SUBRULE(this.expression);
    return { kind: "value", variable, number, span };
  });

  // Loosest first: if-then-else, ++, then + and -, then * div mod, then unary minus.
  private expression = this.RULE("expression", (): Ast.Expr => {
    this.ACTION(() => {
      if (++this.nesting > MAX_NESTING)
        throw new TooLarge(`an expression may nest at most ${MAX_NESTING} deep`, this.LA(1));
    });
    const expression = this.OR<Ast.Expr>([
      { ALT: () => this.SUBRULE(this.choose) },
      { ALT: () => this.SUBRULE(this.concat) },
    ]);
    this.ACTION(() => this.nesting--);
    return expression;
  });

  private choose = this.RULE("choose", (): Ast.Choose => {
    const start = this.CONSUME(If);
    const left = this.SUBRULE1(this.sum);
    const operator = this.OR<Ast.Comparison>([
      { ALT: () => (this.CONSUME(Below), "<") },
      { ALT: () => (this.CONSUME(AtMost), "<=") },
      { ALT: () => (this.CONSUME(Above), ">") },
      { ALT: () => (this.CONSUME(AtLeast), ">=") },
      { ALT: () => (this.CONSUME(Same), "==") },
      { ALT: () => (this.CONSUME(Differs), "!=") },
    ]);
    const right = this.SUBRULE2(this.sum);
    this.CONSUME(Then);
    const yes = this.SUBRULE1(this.expression);
    this.CONSUME(Else);
    const no = this.SUBRULE2(this.expression);
    return { kind: "choose", operator, left, right, yes, no, span: this.span(start) };
  });

  private concat = this.RULE("concat", (): Ast.Expr => {
    const start = this.LA(1);
    let left = this.SUBRULE1(this.sum);
    this.MANY(() => {
      this.CONSUME(Concat);
      left = this.binary(start, "++", left, this.SUBRULE2(this.sum));
    });
    return left;
  });

  private sum = this.RULE("sum", (): Ast.Expr => {
    const start = this.LA(1);
    let left = this.SUBRULE1(this.product);
    this.MANY(() => {
      const operator = this.OR<Ast.BinaryOperator>([
        { ALT: () => (this.CONSUME(Plus), "+") },
        { ALT: () => (this.CONSUME(Minus), "-") },
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
        { ALT: () => (this.CONSUME(Star), "*") },
        { ALT: () => (this.CONSUME(Div), "div") },
        { ALT: () => (this.CONSUME(Mod), "mod") },
      ]);
      left = this.binary(start, operator, left, this.SUBRULE2(this.unary));
    });
    return left;
  });

  private unary = this.RULE("unary", (): Ast.Expr => {
    const minuses: IToken[] = [];
    this.MANY(() => {
      minuses.push(this.CONSUME(Minus));
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
        { ALT: () => this.number(this.CONSUME(NumberToken)) },
        { ALT: () => this.SUBRULE(this.reference) },
        {
          ALT: () => {
            this.CONSUME(OpenRound);
            const inner = this.SUBRULE(this.expression);
            this.CONSUME(CloseRound);
            return inner;
          },
        },
      ],
    });
  });

  private reference = this.RULE("reference", (): Ast.Reference | Ast.Slice => {
    const start = this.CONSUME(Identifier);
    const name = this.name(start);
    let index: Ast.Expr | null = null;
    this.OPTION1(() => {
      this.CONSUME(OpenSquare);
      index = this.SUBRULE1(this.expression);
      this.CONSUME(CloseSquare);
    });
    const of: Ast.Reference = { kind: "reference", name, index, span: this.span(start) };
    let slice: Ast.Slice | null = null;
    this.OPTION2(() => {
      this.CONSUME(Dot);
      this.CONSUME(Bits);
      this.CONSUME(OpenRound);
      const low = this.SUBRULE2(this.expression);
      this.CONSUME(UpFrom);
      const width = this.number(this.CONSUME(NumberToken));
      this.CONSUME(CloseRound);
      slice = { kind: "slice", of, low, width, span: this.span(start) };
    });
    return slice ?? of;
  });

  /** From `start` to the last token consumed. */
  private span(start: IToken): Ast.Span {
    const last = this.LA(0);
    return { file: this.fileName, start: start.startOffset, end: last.startOffset + last.image.length };
  }

  private name(token: IToken): Ast.Name {
    return { text: token.image, span: this.span(token) };
  }

  private number(token: IToken): Ast.NumberLiteral {
    return { kind: "number", text: token.image, span: this.span(token) };
  }

  private binary(start: IToken, operator: Ast.BinaryOperator, left: Ast.Expr, right: Ast.Expr): Ast.Binary {
    return { kind: "binary", operator, left, right, span: this.span(start) };
  }

  private stopAfterManyErrors(): void {
    if (this.errors.length < MAX_ERRORS) return;
    throw new TooLarge(`after ${MAX_ERRORS} errors the rest of the file is not read`, this.LA(1));
  }

  private count(): void {
    if (++this.terms > MAX_TERMS) throw new TooLarge(`an expression may have at most ${MAX_TERMS} terms`, this.LA(1));
  }
}

// Start-up counts, so validating the tokens and rules, which costs more than a parse, is left to grammarErrors.
const lexer = new Lexer(TOKENS, { positionTracking: "onlyOffset", skipValidations: true });
const buildParser = (skipValidations: boolean): LadderParser => new LadderParser(skipValidations);
const parser = buildParser(true);

/** The AST of one file, or its syntax errors in the order of the text, at most one a line. */
export type ParseResult =
  | { readonly kind: "parsed"; readonly ast: Ast.FileAst }
  | { readonly kind: "rejected"; readonly diagnostics: readonly Diagnostic[] };

/** Parses the text of one file; `file` is the name that spans carry. Never throws. */
export function parse(file: string, text: string): ParseResult {
  const report = (code: Diagnostic["code"], message: string, start: number, end: number): Diagnostic => ({
    code,
    message,
    span: { file, start, end },
    notes: [],
    suggestion: null,
  });
  if (text.length > MAX_TEXT) {
    const message = `the file has ${text.length} characters; at most ${MAX_TEXT} are read`;
    return { kind: "rejected", diagnostics: [report("limit", message, 0, 0)] };
  }

  const lexed = lexer.tokenize(text);
  const errors: Diagnostic[] = lexed.errors.slice(0, MAX_ERRORS).map(({ offset, length }) => {
    const what = length === 1 ? "character" : "characters";
    const shown = text.slice(offset, offset + Math.min(length, 20));
    return report("syntax", `unexpected ${what} ${JSON.stringify(shown)}`, offset, offset + length);
  });

  parser.fileName = file;
  parser.input = lexed.tokens;
  let ast: Ast.FileAst | null = null;
  const atToken = (code: Diagnostic["code"], message: string, token: IToken): Diagnostic => {
    // The end of the file has no position of its own.
    const start = Number.isNaN(token.startOffset) ? text.trimEnd().length : token.startOffset;
    return report(code, message, start, start + Math.max(1, token.image.length));
  };
  try {
    ast = parser.file();
  } catch (error) {
    if (!(error instanceof TooLarge)) throw error;
    errors.push(atToken("limit", error.message, error.token));
  }
  for (const error of parser.errors) errors.push(atToken("syntax", error.message, error.token));
  if (ast !== null && errors.length === 0) return { kind: "parsed", ast };

  // An error on the line of another, or right behind it with no word between that begins something new, is seldom
  // a second mistake: recovery may have gone on in the wrong place.
  errors.sort((a, b) => a.span.start - b.span.start);
  const apart = errors.filter((error, e) => {
    const before = errors[e - 1];
    if (before === undefined || error.code === "limit") return true;
    const [from, to] = [before.span.start, error.span.start];
    const between = lexed.tokens.filter(({ startOffset }) => startOffset >= from && startOffset < to);
    const restarts = between.length >= 4 || between.some(({ tokenType }) => OPENERS.includes(tokenType));
    return restarts && text.slice(from, to).includes("\n");
  });
  return { kind: "rejected", diagnostics: apart };
}

/**
 * The mistakes that Chevrotain's own validation finds in the tokens and rules above, such as two alternatives that
 * begin alike; none where the grammar is sound. For tests.
 */
export function grammarErrors(): readonly string[] {
  const { lexerDefinitionErrors } = new Lexer(TOKENS, {
    positionTracking: "onlyOffset",
    deferDefinitionErrorsHandling: true,
  });
  const errors = lexerDefinitionErrors.map(({ message }) => message);
  try {
    buildParser(false);
  } catch (error) {
    errors.push(String(error));
  }
  return errors;
}
