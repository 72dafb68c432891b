// How each byte-level BPE vocabulary cuts text into words before it merges: one row for each `tokenizer.ggml.pre`.
// A row is a list of regular expressions in the dialect of tokenizer.json; each one cuts the pieces that the one before
// it left, matches and the text between them alike. The expressions are those of the models' own tokenizer.json files
// in the form in which llama.cpp runs them, because it names the rows; a test compares every row with llama.cpp.
// Not here: merging (tokenizer.ts), SPM vocabularies (they cut nothing).

/** What a `tokenizer.ggml.pre` stands for. */
export interface PreTokenizer {
  readonly cuts: readonly string[];
  /** A word that is a token as a whole is not built by merges. */
  readonly wholeWords: boolean;
  /** Begin with the BOS token where the file does not say. */
  readonly addBos: boolean;
}

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`;
const CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const SPACES = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;
const SYMBOLS = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*`;

/** cl100k's manner: contractions, a letter run with one sign before it, up to `digits` digits, signs, white space. */
function cl100k(digits: string): string {
  return String.raw`${CONTRACTION}|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}|${SYMBOLS}|${SPACES}`;
}

/** o200k's manner: words also end where a capital follows; `suffix` is an optional contraction, `digits` as above. */
function o200k(suffix: string, digits: string): string {
  const upper = String.raw`(?:(?![a-z])\p{L})`;
  const lower = String.raw`(?:(?![A-Z])\p{L})`;
  const start = String.raw`[^\r\n\p{L}\p{N}]?`;
  const signs = String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*`;
  return `${start}${upper}*${lower}+${suffix}|${start}${upper}+${lower}*${suffix}|${digits}|${signs}|${SPACES}`;
}

const ONE_DIGIT = String.raw`\p{N}`;
const THREE_DIGITS = String.raw`\p{N}{1,3}`;

interface Row {
  readonly names: readonly string[];
  readonly cuts: readonly string[];
  readonly wholeWords?: true;
  readonly addBos?: true;
}

const ROWS: readonly Row[] = [
  {
    names: ["default"],
    cuts: [String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, String.raw`\p{N}+`, "[0-9][0-9][0-9]"],
  },
  {
    names: ["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"],
    cuts: [GPT2],
  },
  {
    names: ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
    cuts: [ONE_DIGIT, GPT2],
  },
  {
    names: ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    cuts: [cl100k(THREE_DIGITS)],
    wholeWords: true,
    addBos: true,
  },
  { names: ["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], cuts: [cl100k(THREE_DIGITS)] },
  {
    names: ["qwen2", "deepseek-r1-qwen", "megrez", "hunyuan", "stablelm2"],
    cuts: [cl100k(ONE_DIGIT)],
  },
  { names: ["gpt-4o", "llama4"], cuts: [o200k(`${CONTRACTION}?`, THREE_DIGITS)] },
  { names: ["tekken"], cuts: [o200k("", ONE_DIGIT)], wholeWords: true, addBos: true },
  {
    names: ["falcon"],
    cuts: ["[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"],
  },
  {
    names: ["deepseek-v3", "hunyuan-dense"],
    cuts: [
      THREE_DIGITS,
      "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
      String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_\x60{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+` +
        String.raw`| ?[\p{P}\p{S}]+[\r\n]*|${SPACES}`,
    ],
  },
];

/** By the name that stands in `tokenizer.ggml.pre`. */
export const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map(
  ROWS.flatMap(({ names, cuts, wholeWords = false, addBos = false }) =>
    names.map((name) => [name, { cuts, wholeWords, addBos }] as const),
  ),
);
