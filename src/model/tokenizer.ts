// Text to token ids and back, from the vocabulary in a model file: byte-level BPE ("gpt2") and SPM ("llama").
// Cutting and look-up are @huggingface/tokenizers; here is what a GGUF file says in place of a tokenizer.json, what
// llama.cpp adds to it (which tokens are special, which end a generation), and the limits: text of any length and
// content takes time in proportion to it. Same ids as llama.cpp; the exceptions are named at `encode` below.
// Not here: chat templates (template.ts), how a BPE vocabulary cuts words (pretokenizer.ts).

import { mergePairs } from "./merge.ts";
import { ModelError, quoted } from "./metadata.ts";
import type { Metadata } from "./metadata.ts";
import { PRE_TOKENIZERS } from "./pretokenizer.ts";

/** Puts the text of tokens together as they come; a character is given out once all its bytes are there. */
export interface TokenStream {
  push(token: number): string;
  /** What is left: "\ufffd" for a character that was cut off, otherwise nothing. */
  end(): string;
}

export interface Tokenizer {
  /** Every token's text as the file has it, by id; its length is the size of the vocabulary. */
  readonly pieces: readonly string[];
  readonly bos: number | null;
  readonly eos: number | null;
  /** Whether a sequence begins with `bos`. */
  readonly addBos: boolean;
  /** Tokens that end a generation. */
  readonly ends: ReadonlySet<number>;
  /**
   * Token ids of `text`. Lone surrogates count as U+FFFD. Differs from llama.cpp in two ways, both harmless: a word of
   * more than 32,768 characters is merged in parts, and text never becomes a control token by merging.
   * @param options.special whether control tokens that stand in the text (`<|im_end|>`) are taken as such. Text that
   * a user wrote must be encoded without, or be shielded.
   * @param options.bos whether `bos` is put in front; as the file says where it is not given
   */
  encode(text: string, options: { readonly special: boolean; readonly bos?: boolean }): Int32Array;
  /**
   * A form of `text` in which no control token is recognised, wherever it is put into other text, by
   * `encode(..., { special: true })`, which takes the marks out again: for a user's text inside a template's.
   */
  shield(text: string): string;
  /** Text of a whole sequence, without its control tokens unless `special`. Throws RangeError for an id outside. */
  decode(tokens: ArrayLike<number>, options?: { readonly special: boolean }): string;
  /** Text of a sequence as it grows, after a prompt. */
  stream(options?: { readonly special: boolean }): TokenStream;
}

/** `tokenizer.ggml.token_type`, from the GGUF specification. */
const KIND = { normal: 1, unknown: 2, control: 3, user: 4, unused: 5, byte: 6 } as const;

/** What `shield` puts into control tokens: a noncharacter, which Unicode sets apart for use inside programs. */
const SHIELD = "\ufdd0";

/** Longest piece of text that is handed to the library at once, in UTF-16 units: bounds its memory. */
const SECTION = 32_768;

/** What llama.cpp takes for an end of generation by its text alone. */
const END_TEXTS = [
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|flush|>",
  "<|calls|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "</s>",
  "<|eom_id|>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "[EOS]",
  "<|end_of_text|>",
  "<end_of_utterance>",
  "<eos>",
  "<turn|>",
  "<|tool_response>",
  "<\uff5cend\u2581of\u2581sentence\uff5c>",
  // Fill-in-the-middle: padding, the next repository, the next file.
  "<|fim_pad|>",
  "<fim-pad>",
  "<fim_pad>",
  "<PAD>",
  "[PAD]",
  "<|fim_repo|>",
  "<|repo_name|>",
  "<fim-repo>",
  "<REPO>",
  "<reponame>",
  "<|file_sep|>",
];

/** Keys whose token ends a generation, whatever its text. */
const END_KEYS = ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"];

/** A vocabulary, checked. */
interface Vocabulary {
  readonly metadata: Metadata;
  readonly pieces: readonly string[];
  /** By token, one of KIND (0, undefined, is as good as normal). */
  readonly kinds: Uint8Array;
  /** Ids of the tokens that text can become by merging. */
  readonly ids: ReadonlyMap<string, number>;
  /** Ids of control, unknown and user-defined tokens, by their text: they are found whole in a text, or not at all. */
  readonly whole: ReadonlyMap<string, number>;
}

/** The little of @huggingface/tokenizers that is used here; its own declarations do not resolve under nodenext. */
interface Library {
  readonly Tokenizer: new (tokenizer: object, config: object) => LibraryTokenizer;
}
interface LibraryTokenizer {
  readonly model: LibraryModel;
  encode(text: string, options: { add_special_tokens: boolean }): { readonly ids: readonly number[] };
}
interface LibraryModel {
  tokens_to_ids: ReadonlyMap<string, number>;
  unk_token: string | undefined;
  unk_token_id: number | undefined;
  readonly cache: {
    get(word: string): readonly string[] | undefined;
    put(word: string, parts: readonly string[]): void;
  };
  bpe(word: string): readonly string[];
}

/**
 * Builds the tokenizer that a model file describes.
 * @throws ModelError where the vocabulary is damaged or of a kind that is not known
 */
export async function loadTokenizer(metadata: Metadata): Promise<Tokenizer> {
  const library: Library = await import("@huggingface/tokenizers");
  const vocabulary = readVocabulary(metadata);
  const model = metadata.string("tokenizer.ggml.model");
  switch (model) {
    case "gpt2":
      return makeTokenizer(vocabulary, byteLevel(vocabulary, library));
    case "llama":
      return makeTokenizer(vocabulary, spm(vocabulary, library));
    default:
      throw new ModelError(
        metadata.file,
        "tokenizer.ggml.model",
        quoted(model),
        '"gpt2" (byte-level BPE) and "llama" (SPM) can be read',
      );
  }
}

function readVocabulary(metadata: Metadata): Vocabulary {
  const { file } = metadata;
  const pieces = metadata.strings("tokenizer.ggml.tokens");
  if (pieces.length === 0) throw new ModelError(file, "tokenizer.ggml.tokens", "no tokens", "at least one is needed");
  const types = metadata.numbers("tokenizer.ggml.token_type", null);
  if (types !== null && types.length !== pieces.length) {
    throw new ModelError(
      file,
      "tokenizer.ggml.token_type",
      `${types.length} types`,
      `one for each of the ${pieces.length} tokens is needed`,
    );
  }
  const kinds = new Uint8Array(pieces.length).fill(KIND.normal);
  const ids = new Map<string, number>();
  const whole = new Map<string, number>();
  const ends = new Set(END_TEXTS);
  let distinct = 0;
  // The loops over a vocabulary count: they run before anything is compiled, and iterators would double their time.
  for (let id = 0; id < pieces.length; id++) {
    const piece = pieces[id] ?? "";
    let kind = types?.[id] ?? KIND.normal;
    if (!(Number.isInteger(kind) && kind >= 0 && kind <= KIND.byte)) {
      throw new ModelError(file, `tokenizer.ggml.token_type[${id}]`, kind, "types are 1 to 6, and 0 for undefined");
    }
    // Some files have their end tokens as plain text; to llama.cpp, and here, they are control tokens all the same.
    if (kind !== KIND.control && ends.has(piece)) kind = KIND.control;
    kinds[id] = kind;
    // An empty token can neither stand in a text nor be merged; files have several of them as place-holders.
    if (piece === "") continue;
    const isWhole = kind === KIND.control || kind === KIND.unknown || kind === KIND.user;
    (isWhole ? whole : ids).set(piece, id);
    distinct++;
    if (ids.size + whole.size < distinct || (whole.has(piece) && ids.has(piece))) {
      throw new ModelError(
        file,
        `tokenizer.ggml.tokens[${id}]`,
        quoted(piece),
        `each token is given once, and ${pieces.indexOf(piece)} is the same`,
      );
    }
  }
  return { metadata, pieces, kinds, ids, whole };
}

/** A token id under `key`, or null where the file has none. */
function tokenId({ metadata, pieces }: Vocabulary, key: string): number | null {
  const id = metadata.integer(key, null);
  // Writers mark "none" with -1, or with the same bits without the sign.
  if (id === null || id === -1 || id === 2 ** 32 - 1) return null;
  if (id < 0 || id >= pieces.length) {
    throw new ModelError(metadata.file, key, id, `ids are 0 to ${pieces.length - 1}`);
  }
  return id;
}

function findEnds(vocabulary: Vocabulary): ReadonlySet<number> {
  const { whole } = vocabulary;
  const ends = new Set<number>();
  for (const text of END_TEXTS) {
    const id = whole.get(text);
    if (id !== undefined) ends.add(id);
  }
  // In the harmony format <|end|> closes one message of several; in Gemma's, </s> is plain text.
  const has = (...texts: string[]): boolean => texts.every((text) => whole.has(text));
  if (has("<|return|>", "<|call|>") || has("<|calls|>", "<|flush|>")) ends.delete(whole.get("<|end|>") ?? -1);
  if (has("<|tool_response>")) ends.delete(whole.get("</s>") ?? -1);
  for (const key of END_KEYS) {
    const id = tokenId(vocabulary, `tokenizer.ggml.${key}_token_id`);
    if (id !== null) ends.add(id);
  }
  return ends;
}

/** What differs between the two kinds of vocabulary. */
interface Scheme {
  readonly addBos: boolean;
  /** Appends the ids of `text`, which has no special tokens. */
  encode(text: string, isAfterSpecial: boolean, out: number[]): void;
  /** Bytes of a token that is no control or user-defined token. */
  bytes(token: number): Uint8Array;
  /** Whether the text of a whole sequence begins with a space that was put there. */
  readonly addsSpace: boolean;
}

const UTF8 = new TextEncoder();

/**
 * A tokenizer of the library that cuts words and looks up ids, and leaves merging to mergePairs. From a whole
 * tokenizer.json it would copy the vocabulary three times and key each merge by a JSON text, which for 49,152 tokens
 * takes 0.1 s; its own merging makes an object for each character and a JSON text for each pair, 8 us a character.
 */
function libraryTokenizer(
  library: Library,
  parts: { readonly pre_tokenizer: object | null; readonly byte_fallback: boolean; readonly ignore_merges: boolean },
  ids: ReadonlyMap<string, number>,
  unknown: number | null,
  rank: (left: string, right: string) => number | undefined,
): LibraryTokenizer {
  const { pre_tokenizer, byte_fallback, ignore_merges } = parts;
  const tokenizer = new library.Tokenizer(
    {
      normalizer: null,
      pre_tokenizer,
      model: { type: "BPE", vocab: {}, merges: [], byte_fallback, ignore_merges },
      post_processor: null,
      decoder: null,
      added_tokens: [],
    },
    {},
  );
  const { model } = tokenizer;
  model.tokens_to_ids = ids;
  if (unknown !== null) {
    // A text that no token has, so that the library answers with the id.
    model.unk_token = "";
    model.unk_token_id = unknown;
  }
  model.bpe = (word): readonly string[] => {
    const known = model.cache.get(word);
    if (known !== undefined) return known;
    const merged = mergePairs(Array.from(word), rank);
    if (word.length < LONGEST_CACHED) model.cache.put(word, merged);
    return merged;
  };
  return tokenizer;
}

/** Words that are longer will hardly come again. */
const LONGEST_CACHED = 64;

/** GPT-2's alphabet: a printable character for each byte; index by byte. */
const BYTE_CHARACTERS: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();
const CHARACTER_BYTES: ReadonlyMap<string, number> = new Map(
  BYTE_CHARACTERS.map((character, byte) => [character, byte]),
);

function byteLevel(vocabulary: Vocabulary, library: Library): Scheme {
  const { metadata, pieces, ids } = vocabulary;
  const name = metadata.string("tokenizer.ggml.pre", "default");
  const pre = PRE_TOKENIZERS.get(name);
  if (pre === undefined) {
    const known = [...PRE_TOKENIZERS.keys()].join(", ");
    throw new ModelError(metadata.file, "tokenizer.ggml.pre", quoted(name), `known are ${known}`);
  }
  const merges = metadata.strings("tokenizer.ggml.merges");
  const ranks = new Map<string, number>();
  // From the last on, so that the first of equal merges counts.
  for (let rank = merges.length - 1; rank >= 0; rank--) {
    const merge = merges[rank] ?? "";
    // The first character may itself be a space.
    const space = merge.indexOf(" ", 1);
    if (space === -1 || space === merge.length - 1) {
      throw new ModelError(
        metadata.file,
        `tokenizer.ggml.merges[${rank}]`,
        quoted(merge),
        "a merge is two parts with a space between",
      );
    }
    ranks.set(merge, rank);
  }
  const cuts = pre.cuts.map((Regex) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false }));
  const tokenizer = libraryTokenizer(
    library,
    {
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [...cuts, { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }],
      },
      byte_fallback: false,
      ignore_merges: pre.wholeWords,
    },
    ids,
    tokenId(vocabulary, "tokenizer.ggml.unknown_token_id"),
    (left, right) => {
      const rank = ranks.get(`${left} ${right}`);
      // A merge whose result is no token would lose the text.
      return rank !== undefined && ids.has(left + right) ? rank : undefined;
    },
  );
  return {
    addBos: pre.addBos,
    addsSpace: false,
    encode(text, _isAfterSpecial, out) {
      for (const section of sections(text)) {
        for (const id of tokenizer.encode(section, { add_special_tokens: false }).ids) out.push(id);
      }
    },
    bytes(token) {
      const piece = pieces[token] ?? "";
      const bytes: number[] = [];
      for (const character of piece) {
        const byte = CHARACTER_BYTES.get(character);
        if (byte === undefined) bytes.push(...UTF8.encode(character));
        else bytes.push(byte);
      }
      return Uint8Array.from(bytes);
    },
  };
}

/** What SPM writes for a space. */
const SPACE = "\u2581";

function spm(vocabulary: Vocabulary, library: Library): Scheme {
  const { metadata, pieces, kinds, ids } = vocabulary;
  const scores = metadata.numbers("tokenizer.ggml.scores");
  if (scores.length !== pieces.length) {
    throw new ModelError(
      metadata.file,
      "tokenizer.ggml.scores",
      `${scores.length} scores`,
      `one for each of the ${pieces.length} tokens is needed`,
    );
  }
  // SPM merges the neighbours that make the token of the highest score, the first of equals first: the rank of a pair
  // depends on the token alone, and tokens of equal score share it.
  const descending = [...new Set(scores)].toSorted((a, b) => b - a);
  const rankOfScore = new Map(descending.map((score, rank) => [score, rank]));
  if (rankOfScore.has(Number.NaN)) {
    const id = scores.findIndex((score) => Number.isNaN(score));
    throw new ModelError(metadata.file, `tokenizer.ggml.scores[${id}]`, "NaN", "a score is a number");
  }
  const ranks = new Map<string, number>();
  for (const [piece, id] of ids) {
    const rank = kinds[id] === KIND.byte ? undefined : rankOfScore.get(scores[id] ?? 0);
    if (rank !== undefined) ranks.set(piece, rank);
  }
  // Where no token reaches over the beginning of a word, words can be merged one by one, and be remembered.
  const isCuttable = !pieces.some((piece) => /[^\u2581]\u2581/.test(piece));
  const cut = {
    type: "Split",
    pattern: { Regex: `${SPACE}+[^${SPACE}]*|[^${SPACE}]+` },
    behavior: "Isolated",
    invert: false,
  };
  const tokenizer = libraryTokenizer(
    library,
    { pre_tokenizer: isCuttable ? cut : null, byte_fallback: true, ignore_merges: false },
    ids,
    tokenId(vocabulary, "tokenizer.ggml.unknown_token_id"),
    (left, right) => ranks.get(left + right),
  );
  const addsSpace = metadata.boolean("tokenizer.ggml.add_space_prefix", true);
  return {
    addBos: true,
    addsSpace,
    encode(text, isAfterSpecial, out) {
      for (const section of sections(addsSpace && isAfterSpecial ? ` ${text}` : text)) {
        const escaped = section.replaceAll(" ", SPACE);
        for (const id of tokenizer.encode(escaped, { add_special_tokens: false }).ids) out.push(id);
      }
    },
    bytes(token) {
      const piece = pieces[token] ?? "";
      const byte = kinds[token] === KIND.byte ? /^<0x([0-9A-Fa-f]{2})>$/.exec(piece)?.[1] : undefined;
      return byte === undefined ? UTF8.encode(piece.replaceAll(SPACE, " ")) : Uint8Array.of(Number.parseInt(byte, 16));
    },
  };
}

/**
 * Cuts long text into parts of bounded length, between a letter and a space where it can: no vocabulary has a token
 * that reaches over such a place.
 */
function* sections(text: string): Generator<string> {
  let begin = 0;
  while (text.length - begin > SECTION) {
    let end = begin + SECTION;
    const lowest = begin + SECTION / 2;
    while (end > lowest && !(text[end] === " " && /[a-zA-Z]/.test(text[end - 1] ?? ""))) end--;
    if (end === lowest) {
      end = begin + SECTION;
      // Not between the two halves of a character.
      if ((text.codePointAt(end - 1) ?? 0) > 0xffff) end--;
    }
    yield text.slice(begin, end);
    begin = end;
  }
  if (begin < text.length) yield text.slice(begin);
}

/**
 * Breaks every control token in `text` (one of a single character is replaced), and a beginning of one at its end (also
 * where that end is trimmed), which the text that follows could complete.
 */
function shielded(text: string, find: RegExp | null, hidden: readonly string[]): string {
  const broken = (token: string): string => {
    const first = String.fromCodePoint(token.codePointAt(0) ?? 0);
    return token === first ? "\ufffd" : first + SHIELD + token.slice(first.length);
  };
  let result = text.replaceAll(SHIELD, "\ufffd");
  if (find === null) return result;
  // Again, for a token that held another one.
  while (result.search(find) !== -1) result = result.replaceAll(find, broken);
  // Names such as a role are compared by templates, and are whole.
  if (/^[\w-]*$/.test(result)) return result;
  const end = result.trimEnd().length;
  for (const token of hidden) {
    for (let length = Math.min(token.length - 1, end); length > 0; length--) {
      if (!result.startsWith(token.slice(0, length), end - length)) continue;
      const begin = String.fromCodePoint(result.codePointAt(end - length) ?? 0);
      const after = end - length + begin.length;
      return result.slice(0, after) + SHIELD + result.slice(after);
    }
  }
  return result;
}

/** An expression that finds the given tokens in a text, longer ones first; null for none. */
function finder(texts: readonly string[]): RegExp | null {
  if (texts.length === 0) return null;
  const alternatives = texts
    .toSorted((a, b) => b.length - a.length)
    .map((text) => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`));
  return new RegExp(alternatives.join("|"), "g");
}

function makeTokenizer(vocabulary: Vocabulary, scheme: Scheme): Tokenizer {
  const { metadata, pieces, kinds, whole } = vocabulary;
  const isHidden = (id: number): boolean => kinds[id] === KIND.control || kinds[id] === KIND.unknown;
  const findSpecial = finder([...whole.keys()]);
  const findUser = finder([...whole].filter(([, id]) => !isHidden(id)).map(([text]) => text));
  const hidden = [...whole].filter(([, id]) => isHidden(id)).map(([text]) => text);
  const findHidden = finder(hidden);
  const bos = tokenId(vocabulary, "tokenizer.ggml.bos_token_id");
  const addBos = metadata.boolean("tokenizer.ggml.add_bos_token", scheme.addBos) && bos !== null;

  function bytesOf(token: number, special: boolean): Uint8Array {
    const piece = pieces[token];
    if (piece === undefined) throw new RangeError(`token ${token}: the vocabulary has ids 0 to ${pieces.length - 1}`);
    if (isHidden(token) && !special) return new Uint8Array(0);
    return whole.has(piece) ? UTF8.encode(piece) : scheme.bytes(token);
  }

  function stream(options: { readonly special: boolean } = { special: false }): TokenStream {
    // The decoder keeps the bytes of an unfinished character until the rest comes.
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (token) => decoder.decode(bytesOf(token, options.special), { stream: true }),
      end: () => decoder.decode(),
    };
  }

  return {
    pieces,
    bos,
    eos: tokenId(vocabulary, "tokenizer.ggml.eos_token_id"),
    addBos,
    ends: findEnds(vocabulary),
    encode(text, options) {
      const out: number[] = [];
      if ((options.bos ?? addBos) && bos !== null) out.push(bos);
      const wellFormed = text.replaceAll(/[\ud800-\udfff]/gu, "\ufffd");
      let at = 0;
      let isAfterSpecial = true;
      const plain = (end: number): void => {
        if (end <= at) return;
        const part = wellFormed.slice(at, end);
        scheme.encode(options.special ? part.replaceAll(SHIELD, "") : part, isAfterSpecial, out);
        isAfterSpecial = false;
      };
      const find = options.special ? findSpecial : findUser;
      for (const match of find === null ? [] : wellFormed.matchAll(find)) {
        plain(match.index);
        out.push(whole.get(match[0]) ?? 0);
        isAfterSpecial = true;
        at = match.index + match[0].length;
      }
      plain(wellFormed.length);
      return Int32Array.from(out);
    },
    shield: (text) => shielded(text, findHidden, hidden),
    decode(tokens, options) {
      const parts = stream(options);
      let text = "";
      for (let i = 0; i < tokens.length; i++) text += parts.push(tokens[i] ?? 0);
      text += parts.end();
      return scheme.addsSpace && text.startsWith(" ") ? text.slice(1) : text;
    },
    stream,
  };
}
