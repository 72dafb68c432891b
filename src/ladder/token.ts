// The words and symbols of the language, and Chevrotain, which reads them.
// Not here: in which order they may stand (grammar.ts).

import type * as Chevrotain from "chevrotain";

// The package's entry loads some 500 modules (0.3 s); its own one-file bundle beside it loads in 13 ms.
const bundle = new URL("../chevrotain.min.mjs", import.meta.resolve("chevrotain")).href;
/** The parser generator. */
export const chevrotain: typeof Chevrotain = await import(/* @vite-ignore */ bundle);
const { createToken, Lexer } = chevrotain;

export type IToken = Chevrotain.IToken;
export type TokenType = Chevrotain.TokenType;

const Identifier = createToken({ name: "Identifier", pattern: /[A-Za-z_][A-Za-z0-9_]*/, label: "a name" });
const keyword = (text: string): TokenType =>
  createToken({ name: `Word_${text}`, pattern: text, longer_alt: Identifier, label: `"${text}"` });
/** A word only where the grammar asks for it; elsewhere a name like any other. */
const soft = (text: string): TokenType =>
  createToken({
    name: `Word_${text}`,
    pattern: text,
    longer_alt: Identifier,
    categories: Identifier,
    label: `"${text}"`,
  });
const symbol = (name: string, pattern: string): TokenType => createToken({ name, pattern, label: `"${pattern}"` });

const Blank = createToken({ name: "Blank", pattern: /[ \t\r\n]+/, group: Lexer.SKIPPED, line_breaks: true });
const Comment = createToken({ name: "Comment", pattern: /\/\/[^\n]*/, group: Lexer.SKIPPED });
const NumberToken = createToken({
  name: "Number",
  pattern: /0x[0-9a-fA-F]+(?:\.[0-9a-fA-F]+)?(?:p[+-]?[0-9]+)?|[0-9]+(?:\.[0-9]+)?/,
  label: "a number",
});
const Text = createToken({ name: "Text", pattern: /"[^"\n]*"/, label: "a text in quotes" });

// Words that begin a declaration or an item, where recovery may go on.
const openers = {
  Import: keyword("import"),
  Element: keyword("element"),
  Block: keyword("block"),
  Tensor: keyword("tensor"),
  Type: keyword("type"),
  Convert: keyword("convert"),
  Device: keyword("device"),
  Gemm: keyword("gemm"),
  Code: keyword("code"),
  Value: keyword("value"),
  Reference: keyword("reference"),
  Let: keyword("let"),
  Storage: keyword("storage"),
  Beside: keyword("beside"),
} as const;

const words = {
  If: keyword("if"),
  Then: keyword("then"),
  Else: keyword("else"),
  Div: keyword("div"),
  Mod: keyword("mod"),
  Join: keyword("join"),
} as const;

const softWords = {
  Bits: soft("bits"),
  Override: soft("override"),
  Requires: soft("requires"),
  When: soft("when"),
  And: soft("and"),
  In: soft("in"),
  Finite: soft("finite"),
  By: soft("by"),
} as const;

// Order matters where one symbol begins another: the longer comes first.
const symbols = {
  Concat: symbol("Concat", "++"),
  UpFrom: symbol("UpFrom", "+:"),
  Plus: symbol("Plus", "+"),
  Arrow: symbol("Arrow", "->"),
  Minus: symbol("Minus", "-"),
  Star: symbol("Star", "*"),
  AtMost: symbol("AtMost", "<="),
  AtLeast: symbol("AtLeast", ">="),
  Same: symbol("Same", "=="),
  Differs: symbol("Differs", "!="),
  Below: symbol("Below", "<"),
  Above: symbol("Above", ">"),
  Equals: symbol("Equals", "="),
  Colon: symbol("Colon", ":"),
  Comma: symbol("Comma", ","),
  Span: symbol("Span", ".."),
  Dot: symbol("Dot", "."),
  At: symbol("At", "@"),
  OpenRound: symbol("OpenRound", "("),
  CloseRound: symbol("CloseRound", ")"),
  OpenSquare: symbol("OpenSquare", "["),
  CloseSquare: symbol("CloseSquare", "]"),
  OpenCurly: symbol("OpenCurly", "{"),
  CloseCurly: symbol("CloseCurly", "}"),
} as const;

type TokenName =
  | "Identifier"
  | "NumberToken"
  | "Text"
  | "Import"
  | "Element"
  | "Block"
  | "Tensor"
  | "Type"
  | "Convert"
  | "Device"
  | "Gemm"
  | "Code"
  | "Value"
  | "Reference"
  | "Let"
  | "Storage"
  | "Beside"
  | "If"
  | "Then"
  | "Else"
  | "Div"
  | "Mod"
  | "Join"
  | "Bits"
  | "Override"
  | "Requires"
  | "When"
  | "And"
  | "In"
  | "Finite"
  | "By"
  | "Concat"
  | "UpFrom"
  | "Plus"
  | "Arrow"
  | "Minus"
  | "Star"
  | "AtMost"
  | "AtLeast"
  | "Same"
  | "Differs"
  | "Below"
  | "Above"
  | "Equals"
  | "Colon"
  | "Comma"
  | "Span"
  | "Dot"
  | "At"
  | "OpenRound"
  | "CloseRound"
  | "OpenSquare"
  | "CloseSquare"
  | "OpenCurly"
  | "CloseCurly";

/** Tokens by name. */
export const T: Readonly<Record<TokenName, TokenType>> = {
  Identifier,
  NumberToken,
  Text,
  ...openers,
  ...words,
  ...softWords,
  ...symbols,
};

/** Words behind which a text surely goes on with something new. */
export const OPENERS: readonly TokenType[] = Object.values(openers);

/** Words that can be no names. */
export const KEYWORDS: readonly TokenType[] = [...OPENERS, ...Object.values(words)];

/** All tokens in the order in which they are tried. */
// prettier-ignore
export const TOKENS: TokenType[] = [
  Blank, Comment, ...KEYWORDS, ...Object.values(softWords), Identifier, NumberToken, Text, ...Object.values(symbols),
];
