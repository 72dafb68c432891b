// Which JSON schemas are let in. The compiler of grammars ignores keywords that it does not know, which would let
// through what the schema forbids; here every keyword is known, or the schema is refused. And it bounds what a schema
// may cost. Not here: the grammar itself (serve-grammar-worker.ts).

/** Keywords that a grammar keeps to. `oneOf` is kept to as `anyOf`: the same wherever its schemas exclude each other. */
const KEPT: ReadonlySet<string> = new Set([
  ..."type enum const properties required additionalProperties items prefixItems minItems maxItems".split(" "),
  ..."minLength maxLength pattern minimum maximum exclusiveMinimum exclusiveMaximum anyOf oneOf".split(" "),
  ..."$ref $defs definitions format".split(" "),
]);
/** Keywords that forbid nothing. */
const ANNOTATIONS: ReadonlySet<string> = new Set(
  "$schema $id $comment title description default examples deprecated readOnly writeOnly".split(" "),
);
const TYPES: ReadonlySet<unknown> = new Set(["object", "array", "string", "number", "integer", "boolean", "null"]);
const FORMATS: ReadonlySet<unknown> = new Set([
  ..."date time date-time duration email hostname ipv4 ipv6 uri uri-reference uri-template uuid".split(" "),
  ..."json-pointer relative-json-pointer".split(" "),
]);

/** Keywords that say all there is to say. */
const ALONE: ReadonlySet<string> = new Set(["$ref", "const", "enum", "anyOf", "oneOf"]);
const TEXT_KEYWORDS: readonly (readonly string[])[] = [["format"], ["pattern"], ["minLength", "maxLength"]];

/** Schemas in use have depths up to ten, and some hundred schemas within. */
const MAX_DEPTH = 32;
const MAX_SCHEMAS = 1000;
const MAX_ENUM = 1000;
const MAX_PATTERN = 512;
/** Each is so many states of the grammar. */
const MAX_COUNT = 4096;

type Schema = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Why a value is no schema that can be kept to, with the place in it; null where it is one. */
export function refusalOf(root: unknown): string | null {
  let schemas = 0;

  function many(place: string, value: unknown, depth: number): string | null {
    if (!isObject(value)) return `${place}: it must be an object of schemas`;
    return first(
      Object.entries(value).map(
        ([name, part]) =>
          () =>
            check(`${place}/${name}`, part, depth),
      ),
    );
  }

  function list(place: string, value: unknown, depth: number): string | null {
    if (!Array.isArray(value) || value.length === 0) return `${place}: it must be a list of at least one schema`;
    return first(value.map((part: unknown, i) => () => check(`${place}/${i}`, part, depth)));
  }

  function check(place: string, schema: unknown, depth: number): string | null {
    if (schema === true) return null;
    if (!isObject(schema)) return `${place}: a schema is an object`;
    if (depth > MAX_DEPTH) return `${place}: more than ${MAX_DEPTH} schemas within each other`;
    if (++schemas > MAX_SCHEMAS) return `${place}: more than ${MAX_SCHEMAS} schemas`;
    return (
      first(
        Object.entries(schema).map(
          ([key, value]) =>
            () =>
              keyword(`${place}/${key}`, key, value, depth + 1),
        ),
      ) ?? combinationRefusal(place, schema)
    );
  }

  function keyword(place: string, key: string, value: unknown, depth: number): string | null {
    if (ANNOTATIONS.has(key)) return null;
    if (!KEPT.has(key)) return `${place}: this keyword is not supported; ${[...KEPT].join(", ")} are`;
    switch (key) {
      case "type":
        return (Array.isArray(value) ? value : [value]).every((type) => TYPES.has(type))
          ? null
          : `${place}: ${shown(value)}; types are ${[...TYPES].join(", ")}`;
      case "enum":
        return Array.isArray(value) && value.length > 0 && value.length <= MAX_ENUM
          ? null
          : `${place}: it must be a list of 1 to ${MAX_ENUM} values`;
      case "properties":
      case "$defs":
      case "definitions":
        return many(place, value, depth);
      case "items":
        return check(place, value, depth);
      case "additionalProperties":
        return value === false ? null : check(place, value, depth);
      case "anyOf":
      case "oneOf":
      case "prefixItems":
        return list(place, value, depth);
      case "required":
        return Array.isArray(value) && value.every((name) => typeof name === "string")
          ? null
          : `${place}: it must be a list of names`;
      case "minItems":
      case "maxItems":
      case "minLength":
      case "maxLength":
        return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_COUNT
          ? null
          : `${place}: ${shown(value)}; a whole number from 0 to ${MAX_COUNT} is needed`;
      case "minimum":
      case "maximum":
      case "exclusiveMinimum":
      case "exclusiveMaximum":
        return typeof value === "number" ? null : `${place}: ${shown(value)}; a number is needed`;
      case "pattern":
        return patternRefusal(place, value);
      case "format":
        return FORMATS.has(value) ? null : `${place}: ${shown(value)}; formats are ${[...FORMATS].join(", ")}`;
      case "$ref":
        return reference(place, value);
      default:
        return null;
    }
  }

  function reference(place: string, value: unknown): string | null {
    if (typeof value !== "string" || !/^#(\/|$)/.test(value))
      return `${place}: ${shown(value)}; references into the schema itself, as "#/$defs/name", are supported`;
    // A schema that is nothing but a reference may lead back to itself, and then has no end.
    const seen = new Set<string>();
    for (let at: unknown = value; typeof at === "string";) {
      if (seen.has(at)) return `${place}: ${shown(value)} leads back to itself`;
      seen.add(at);
      const target = resolve(root, at);
      if (!isObject(target) && target !== true) return `${place}: ${shown(value)}; there is no such schema`;
      at = isObject(target) ? target["$ref"] : null;
    }
    return null;
  }

  return check("#", root, 0);
}

/** Keywords of one schema of which the grammar would follow one, and pass over the others. */
function combinationRefusal(place: string, schema: Schema): string | null {
  const keys = Object.keys(schema).filter((key) => !ANNOTATIONS.has(key) && key !== "$defs" && key !== "definitions");
  const alone = keys.find((key) => ALONE.has(key));
  const other = keys.find((key) => key !== alone && !(key === "type" && (alone === "enum" || alone === "const")));
  if (alone !== undefined && other !== undefined)
    return `${place}: ${alone} beside ${other}; both in one schema are not supported`;
  const typed = keys.find((key) => key !== "type");
  if (alone === undefined && typed !== undefined && !keys.includes("type"))
    return `${place}: ${typed} without type; a schema names its type`;
  const ofText = TEXT_KEYWORDS.filter((any) => any.some((key) => keys.includes(key)));
  if (ofText.length > 1) return `${place}: ${ofText.map(([key]) => key).join(" beside ")}; one of them is possible`;
  const { required, properties = {} } = schema;
  const absent = Array.isArray(required)
    ? required.find((name) => !Object.hasOwn(properties as Schema, name))
    : undefined;
  return absent === undefined ? null : `${place}/required: ${shown(absent)} is not among the properties`;
}

function patternRefusal(place: string, value: unknown): string | null {
  if (typeof value !== "string" || value.length > MAX_PATTERN)
    return `${place}: it must be a regular expression of at most ${MAX_PATTERN} characters`;
  try {
    void new RegExp(value, "u");
  } catch (error) {
    return `${place}: ${(error as Error).message}`;
  }
  let product = 1;
  for (const [, low, high] of value.matchAll(/\{(\d+)(?:,(\d*))?\}/g))
    product *= Math.max(1, Number(low), Number(high));
  return product > MAX_COUNT ? `${place}: more than ${MAX_COUNT} repetitions` : null;
}

function resolve(root: unknown, pointer: string): unknown {
  let at: unknown = root;
  for (const part of pointer.split("/").slice(1)) {
    const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, name)) return undefined;
    at = (at as Schema)[name];
  }
  return at;
}

/** The first that is no null, and none after it is asked. */
function first(all: readonly (() => string | null)[]): string | null {
  for (const one of all) {
    const found = one();
    if (found !== null) return found;
  }
  return null;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
