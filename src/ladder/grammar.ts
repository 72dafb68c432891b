// The syntax of .ladder files: text to FileAst, with recovery, so that one run reports the errors of every line.
// Not here: the words (token.ts), expressions (expression.ts), what names mean and whether sizes fit (resolve.ts).
// The parser generator is Chevrotain (LL(1) here; rules as class fields, the AST built in the rules).

import type * as Ast from "./ast.ts";
import type { Diagnostic } from "./diagnostic.ts";
import { ExpressionParser, MAX_ERRORS, TooLarge } from "./expression.ts";
import { chevrotain, type IToken, OPENERS, T, TOKENS } from "./token.ts";

const { Lexer } = chevrotain;

/** Characters of one file: far above any real declaration, and small enough that every pass is quick. */
const MAX_TEXT = 256 * 1024;

class LadderParser extends ExpressionParser {
  constructor(skipValidations: boolean) {
    super(skipValidations);
    this.performSelfAnalysis();
  }

  file = this.RULE("file", (): Ast.FileAst => {
    const imports: Ast.Name[] = [];
    const declarations: Ast.Declaration[] = [];
    this.MANY(() => {
      this.ACTION(() => {
        this.startOver();
        this.begin();
      });
      this.OR([
        { ALT: () => imports.push(this.SUBRULE(this.import)) },
        { ALT: () => declarations.push(this.SUBRULE(this.declaration)) },
      ]);
    });
    return { file: this.fileName, imports, declarations };
  });

  private import = this.RULE("import", (): Ast.Name => {
    this.CONSUME(T.Import);
    return this.text(this.CONSUME(T.Text));
  });

  private declaration = this.RULE("declaration", (): Ast.Declaration => {
    const annotations: Ast.Annotation[] = [];
    this.MANY(() => {
      annotations.push(this.SUBRULE(this.annotation));
    });
    return this.OR<Ast.Declaration>([
      { ALT: () => ({ ...this.SUBRULE(this.element), annotations }) },
      { ALT: () => ({ ...this.SUBRULE(this.block), annotations }) },
      { ALT: () => ({ ...this.SUBRULE(this.tensor), annotations }) },
      { ALT: () => ({ ...this.SUBRULE(this.type), annotations }) },
      { ALT: () => this.SUBRULE(this.convert) },
      { ALT: () => this.SUBRULE(this.device) },
      { ALT: () => this.SUBRULE(this.gemm) },
    ]);
  });

  private annotation = this.RULE("annotation", (): Ast.Annotation => {
    this.CONSUME(T.At);
    const name = this.name(this.CONSUME(T.Identifier));
    this.CONSUME(T.OpenRound);
    const value = this.number(this.CONSUME(T.NumberToken));
    this.CONSUME(T.CloseRound);
    return { name, value };
  });

  private element = this.RULE("element", (): Ast.ElementDeclaration => {
    this.CONSUME(T.Element);
    const name = this.name(this.CONSUME1(T.Identifier));
    const parameters = this.SUBRULE(this.parameters);
    this.CONSUME(T.Equals);
    const family = this.name(this.CONSUME2(T.Identifier));
    const list = this.SUBRULE(this.arguments);
    let literals: Ast.Literal[] | null = null;
    this.OPTION1(() => {
      const all: Ast.Literal[] = [];
      this.CONSUME1(T.OpenSquare);
      this.MANY_SEP1({ SEP: T.Comma, DEF: () => all.push(this.SUBRULE1(this.literal)) });
      this.CONSUME1(T.CloseSquare);
      literals = all;
    });
    const digits: Ast.Name[] = [];
    this.MANY(() => {
      digits.push(this.text(this.CONSUME(T.Text)));
    });
    const overrides: Ast.Override[] = [];
    this.OPTION2(() => {
      this.CONSUME(T.Override);
      this.CONSUME2(T.OpenSquare);
      this.MANY_SEP2({
        SEP: T.Comma,
        DEF: () => {
          const code = this.number(this.CONSUME(T.NumberToken));
          this.CONSUME(T.Colon);
          overrides.push({ code, literal: this.SUBRULE2(this.literal) });
        },
      });
      this.CONSUME2(T.CloseSquare);
    });
    return { kind: "element", annotations: [], name, parameters, family, arguments: list, literals, digits, overrides };
  });

  private literal = this.RULE("literal", (): Ast.Literal => {
    const start = this.LA(1);
    let negative = false;
    this.OPTION(() => {
      this.CONSUME(T.Minus);
      negative = true;
    });
    const value = this.OR<Ast.Literal["value"]>([
      { ALT: () => this.number(this.CONSUME(T.NumberToken)) },
      { ALT: () => ({ kind: "word", ...this.name(this.CONSUME(T.Identifier)) }) },
    ]);
    return { negative, value, span: this.span(start) };
  });

  private parameters = this.RULE("parameters", (): readonly Ast.Parameter[] => {
    const parameters: Ast.Parameter[] = [];
    this.OPTION(() => {
      this.CONSUME(T.Below);
      this.MANY_SEP({ SEP: T.Comma, DEF: () => parameters.push(this.SUBRULE(this.parameter)) });
      this.CONSUME(T.Above);
    });
    return parameters;
  });

  private parameter = this.RULE("parameter", (): Ast.Parameter => {
    const name = this.name(this.CONSUME1(T.Identifier));
    this.CONSUME(T.Colon);
    // "element" is a word of the language, "number" is none.
    const kind = this.OR([
      { ALT: () => this.name(this.CONSUME(T.Element)) },
      { ALT: () => this.name(this.CONSUME2(T.Identifier)) },
    ]);
    return { name, kind };
  });

  private use = this.RULE("use", (): Ast.Use => {
    const start = this.CONSUME(T.Identifier);
    const list: (Ast.NumberLiteral | Ast.Use)[] = [];
    this.ACTION(() => this.nest("a type"));
    this.OPTION(() => {
      this.CONSUME(T.Below);
      this.MANY_SEP({
        SEP: T.Comma,
        DEF: () =>
          this.OR([
            { ALT: () => list.push(this.number(this.CONSUME(T.NumberToken))) },
            { ALT: () => list.push(this.SUBRULE(this.use)) },
          ]),
      });
      this.CONSUME(T.Above);
    });
    this.ACTION(() => this.unnest());
    return { kind: "use", name: this.name(start), arguments: list, span: this.span(start) };
  });

  private arguments = this.RULE("arguments", (): readonly Ast.Argument[] => {
    const list: Ast.Argument[] = [];
    this.CONSUME(T.OpenRound);
    this.MANY_SEP({ SEP: T.Comma, DEF: () => list.push(this.SUBRULE(this.argument)) });
    this.CONSUME(T.CloseRound);
    return list;
  });

  private argument = this.RULE("argument", (): Ast.Argument => {
    const name = this.name(this.CONSUME(T.Identifier));
    this.CONSUME(T.Colon);
    const value = this.OR<Ast.Argument["value"]>([
      { ALT: () => this.number(this.CONSUME(T.NumberToken)) },
      { ALT: () => this.SUBRULE(this.use) },
    ]);
    return { name, value };
  });

  private block = this.RULE("block", (): Ast.BlockDeclaration => {
    // The loop over items stands in each rule with braces: recovery inside it looks for what follows it in the rule.
    this.CONSUME(T.Block);
    const name = this.name(this.CONSUME(T.Identifier));
    const parameters = this.SUBRULE(this.parameters);
    this.CONSUME(T.OpenSquare);
    const size = this.SUBRULE(this.expression);
    this.CONSUME(T.CloseSquare);
    this.CONSUME(T.OpenCurly);
    const items: Ast.Item[] = [];
    this.MANY(() => {
      this.ACTION(() => this.begin());
      items.push(this.SUBRULE(this.item));
    });
    this.CONSUME(T.CloseCurly);
    return { kind: "block", annotations: [], name, parameters, size, items };
  });

  private tensor = this.RULE("tensor", (): Ast.TensorDeclaration => {
    this.CONSUME(T.Tensor);
    const name = this.name(this.CONSUME1(T.Identifier));
    const parameters = this.SUBRULE(this.parameters);
    this.CONSUME(T.OpenSquare);
    const row = this.name(this.CONSUME2(T.Identifier));
    this.CONSUME1(T.Below);
    const rows = this.name(this.CONSUME3(T.Identifier));
    this.CONSUME(T.Comma);
    const column = this.name(this.CONSUME4(T.Identifier));
    this.CONSUME2(T.Below);
    const columns = this.name(this.CONSUME5(T.Identifier));
    this.CONSUME(T.CloseSquare);
    const requires = this.SUBRULE(this.requirements);
    this.CONSUME(T.OpenCurly);
    const items: Ast.Item[] = [];
    this.MANY(() => {
      this.ACTION(() => this.begin());
      items.push(this.SUBRULE(this.item));
    });
    this.CONSUME(T.CloseCurly);
    return { kind: "tensor", annotations: [], name, parameters, row, rows, column, columns, requires, items };
  });

  private requirements = this.RULE("requirements", (): readonly Ast.Compare[] => {
    const all: Ast.Compare[] = [];
    this.OPTION(() => {
      this.CONSUME(T.Requires);
      all.push(this.SUBRULE1(this.compare));
      this.MANY(() => {
        this.CONSUME(T.And);
        all.push(this.SUBRULE2(this.compare));
      });
    });
    return all;
  });

  private item = this.RULE("item", (): Ast.Item =>
    this.OR<Ast.Item>([
      { ALT: () => this.SUBRULE(this.field) },
      { ALT: () => this.SUBRULE(this.code) },
      { ALT: () => this.SUBRULE(this.let) },
      { ALT: () => this.SUBRULE(this.value) },
      { ALT: () => this.SUBRULE(this.storage) },
    ]),
  );

  private field = this.RULE("field", (): Ast.FieldDeclaration => {
    let beside = false;
    this.OPTION1(() => {
      this.CONSUME(T.Beside);
      beside = true;
    });
    const name = this.name(this.CONSUME(T.Identifier));
    this.CONSUME(T.Colon);
    const element = this.SUBRULE(this.use);
    const counts: Ast.Expr[] = [];
    this.OPTION2(() => {
      this.CONSUME(T.OpenSquare);
      counts.push(this.SUBRULE1(this.expression));
      this.MANY(() => {
        this.CONSUME(T.Comma);
        counts.push(this.SUBRULE2(this.expression));
      });
      this.CONSUME(T.CloseSquare);
    });
    return { kind: "field", name, element, counts, beside };
  });

  private code = this.RULE("code", (): Ast.CodeDeclaration => {
    this.CONSUME(T.Code);
    const name = this.name(this.CONSUME1(T.Identifier));
    let range: Ast.CodeDeclaration["range"] = null;
    this.OPTION(() => {
      this.CONSUME(T.OpenSquare);
      const variable = this.name(this.CONSUME2(T.Identifier));
      this.CONSUME(T.Below);
      range = { variable, count: this.SUBRULE1(this.expression) };
      this.CONSUME(T.CloseSquare);
    });
    this.CONSUME(T.Equals);
    return { kind: "code", name, range, bits: this.SUBRULE2(this.expression) };
  });

  private let = this.RULE("let", (): Ast.LetDeclaration => {
    this.CONSUME(T.Let);
    const name = this.name(this.CONSUME(T.Identifier));
    this.CONSUME(T.Equals);
    return { kind: "let", name, index: this.SUBRULE(this.expression) };
  });

  private value = this.RULE("value", (): Ast.ValueDeclaration => {
    const start = this.LA(1);
    const kind = this.OR<Ast.ValueDeclaration["kind"]>([
      { ALT: () => (this.CONSUME(T.Value), "value") },
      { ALT: () => (this.CONSUME(T.Reference), "reference") },
    ]);
    let variable: Ast.Name | null = null;
    this.OPTION(() => {
      this.CONSUME(T.OpenSquare);
      variable = this.name(this.CONSUME(T.Identifier));
      this.CONSUME(T.CloseSquare);
    });
    const span = this.span(start);
    this.CONSUME(T.Equals);
    return { kind, variable, number: this.SUBRULE(this.expression), span };
  });

  private storage = this.RULE("storage", (): Ast.StorageDeclaration => {
    this.CONSUME(T.Storage);
    const name = this.name(this.CONSUME(T.Identifier));
    const requires = this.SUBRULE(this.requirements);
    this.ACTION(() => this.nest("a storage"));
    this.CONSUME(T.OpenCurly);
    const items: Ast.Item[] = [];
    this.MANY(() => {
      this.ACTION(() => this.begin());
      items.push(this.SUBRULE(this.item));
    });
    this.CONSUME(T.CloseCurly);
    this.ACTION(() => this.unnest());
    return { kind: "storage", name, requires, items };
  });

  private type = this.RULE("type", (): Ast.TypeDeclaration => {
    this.CONSUME(T.Type);
    const name = this.name(this.CONSUME(T.Identifier));
    this.CONSUME(T.Equals);
    return { kind: "type", annotations: [], name, of: this.SUBRULE(this.use) };
  });

  private endpoint = this.RULE("endpoint", (): Ast.EndpointUse => {
    const use = this.SUBRULE(this.use);
    let storage: Ast.Name | null = null;
    this.OPTION(() => {
      this.CONSUME(T.Dot);
      storage = this.name(this.CONSUME(T.Identifier));
    });
    return { use, storage };
  });

  private convert = this.RULE("convert", (): Ast.ConvertDeclaration => {
    const start = this.CONSUME(T.Convert);
    const from = this.SUBRULE1(this.endpoint);
    this.CONSUME1(T.Arrow);
    const to = this.SUBRULE2(this.endpoint);
    this.CONSUME(T.Colon);
    // "value" is a word of the language, the others are none.
    const guarantee = this.OR([
      { ALT: () => this.name(this.CONSUME(T.Value)) },
      { ALT: () => this.name(this.CONSUME1(T.Identifier)) },
    ]);
    const domain: Ast.RestrictionClause[] = [];
    this.OPTION1(() => {
      this.CONSUME(T.When);
      domain.push(this.SUBRULE1(this.restriction));
      this.MANY(() => {
        this.CONSUME(T.And);
        domain.push(this.SUBRULE2(this.restriction));
      });
    });
    let by: Ast.ConvertDeclaration["by"] = null;
    this.OPTION2(() => {
      this.CONSUME(T.By);
      const variable = this.name(this.CONSUME2(T.Identifier));
      this.CONSUME2(T.Arrow);
      by = { variable, code: this.SUBRULE(this.expression) };
    });
    return { kind: "convert", name: this.name(start), from, to, guarantee, domain, by, span: this.span(start) };
  });

  private restriction = this.RULE("restriction", (): Ast.RestrictionClause => {
    const field = this.OR1([
      { ALT: () => this.name(this.CONSUME(T.Code)) },
      { ALT: () => this.name(this.CONSUME(T.Identifier)) },
    ]);
    const range = this.OR2<Ast.RestrictionClause["range"]>([
      { ALT: () => (this.CONSUME(T.Finite), null) },
      {
        ALT: () => {
          this.CONSUME(T.In);
          const low = this.number(this.CONSUME1(T.NumberToken));
          this.CONSUME(T.Span);
          return { low, high: this.number(this.CONSUME2(T.NumberToken)) };
        },
      },
    ]);
    return { field, range };
  });

  private device = this.RULE("device", (): Ast.DeviceDeclaration => {
    this.CONSUME(T.Device);
    const name = this.name(this.CONSUME(T.Identifier));
    const items: Ast.DeviceItem[] = [];
    this.CONSUME(T.OpenCurly);
    this.MANY(() => {
      this.ACTION(() => this.begin());
      items.push(this.SUBRULE(this.deviceItem));
    });
    this.CONSUME(T.CloseCurly);
    return { kind: "device", name, items };
  });

  private deviceItem = this.RULE("deviceItem", (): Ast.DeviceItem => {
    const kind = this.name(this.CONSUME1(T.Identifier));
    let name: Ast.Name | null = null;
    this.OPTION(() => {
      name = this.name(this.CONSUME2(T.Identifier));
    });
    return { kind, name, arguments: this.SUBRULE(this.arguments) };
  });

  private gemm = this.RULE("gemm", (): Ast.GemmDeclaration => {
    this.CONSUME(T.Gemm);
    const name = this.name(this.CONSUME(T.Identifier));
    return { kind: "gemm", name, arguments: this.SUBRULE(this.arguments) };
  });
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
