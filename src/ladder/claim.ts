// Declarations about formats and machines: what a conversion keeps, what a device can do, what a product takes.
// They become checked data here; whether a claim holds is for the prover. Not here: formats themselves (resolve.ts).

import type * as Ast from "./ast.ts";
import { didYouMean } from "./diagnostic.ts";
import { type ArgumentReader, argumentReader } from "./element.ts";
import { indexAt } from "./expr.ts";
import { readInteger, type Report, shortName } from "./number.ts";
import { useText } from "./tensor.ts";
import { resolveIndex, type Scope } from "./term.ts";
import type {
  Caveat,
  Claim,
  Cores,
  DeviceModel,
  Element,
  Endpoint,
  GemmSignature,
  Lookup,
  Memory,
  Multiply,
  Operate,
  Restriction,
} from "./type.ts";

/** What claims may ask: elements as ever, and types and tensors by name. */
export interface ClaimScope extends Scope {
  /** What a use names; null after a report. A tensor stands for its first storage. */
  readonly endpoint: (use: Ast.Use) => Endpoint | null;
}

const GUARANTEES: readonly Claim["guarantee"][] = ["repack", "value", "structure", "rounded"];

/** The claim of a `convert`, or null after a report. */
export function resolveConvert(declaration: Ast.ConvertDeclaration, scope: ClaimScope): Claim | null {
  const { report } = scope;
  const { guarantee: word, by, span } = declaration;
  const guarantee = GUARANTEES.find((one) => one === word.text);
  if (guarantee === undefined) {
    const message = `a conversion keeps one of ${GUARANTEES.join(", ")}, not ${shortName(word.text)}`;
    report("unknown-name", word.span, message, { suggestion: didYouMean(word.text, GUARANTEES) });
  }
  const from = resolveEndpoint(declaration.from, scope);
  const to = resolveEndpoint(declaration.to, scope);
  if (guarantee === undefined || from === null || to === null) return null;
  if (guarantee === "structure" && !(to.kind === "element" && to.element.kind === "int")) {
    const message = "structure means integer codes, so its target is an integer element, such as I8";
    report("wrong-kind", declaration.to.use.span, message);
    return null;
  }
  const domain: Restriction[] = [];
  for (const clause of declaration.domain) {
    const restriction = resolveRestriction(clause, from, report);
    if (restriction === null) return null;
    domain.push(restriction);
  }
  if (by === null) return { from, to, guarantee, domain, by: null, span };
  if (from.kind !== "element" || to.kind !== "element" || from.element.bits > 16) {
    report(
      "wrong-kind",
      by.variable.span,
      "by gives a code for each code, so both sides are elements, the first of at most 16 bits",
    );
    return null;
  }
  const name = by.variable.text;
  const index = resolveIndex(by.code, {
    ...scope,
    body: "block",
    names: new Map([[name, { kind: "index", index: { kind: "variable" } }]]),
    variables: [name],
    domain: Array.from({ length: 2 ** from.element.bits }, (_, code) => code),
    where: (code) => `${name} = ${code}`,
    rounds: false,
  });
  if (index === null) return null;
  const codes = 2 ** to.element.bits;
  for (let code = 0; code < 2 ** from.element.bits; code++) {
    const given = indexAt(index, code);
    if (given >= 0 && given < codes) continue;
    const what = Number.isNaN(given) ? "divides by zero or leaves +-2^31" : `gives code ${given}`;
    const notes = [`${to.element.name} has codes 0 to ${codes - 1}`];
    report("index-range", by.code.span, `${scope.source(by.code.span)} ${what} at ${name} = ${code}`, { notes });
    return null;
  }
  return { from, to, guarantee, domain, by: index, span };
}

function resolveEndpoint({ use, storage }: Ast.EndpointUse, scope: ClaimScope): Endpoint | null {
  const endpoint = scope.endpoint(use);
  if (endpoint === null || storage === null) return endpoint;
  if (endpoint.kind === "tensor" && endpoint.tensor.storages.includes(storage.text))
    return { ...endpoint, storage: storage.text };
  const known = endpoint.kind === "tensor" ? endpoint.tensor.storages.filter((name) => name !== "") : [];
  const has = known.length === 0 ? "it has one without a name" : `it has ${known.join(", ")}`;
  scope.report("unknown-name", storage.span, `${use.name.text} has no storage ${shortName(storage.text)}`, {
    notes: [has],
    suggestion: didYouMean(storage.text, known),
  });
  return null;
}

function resolveRestriction(
  { field, range }: Ast.RestrictionClause,
  from: Endpoint,
  report: Report,
): Restriction | null {
  const name = field.text;
  let element: Element | undefined;
  if (from.kind === "element") element = name === "code" ? from.element : undefined;
  else if (from.kind === "type") element = from.type.fields.find((one) => one.name === name)?.element;
  else {
    const items = from.tensor.declaration.items.flatMap((item) =>
      item.kind === "storage" && item.name.text === from.storage ? item.items : [item],
    );
    const found = items.find((item) => item.kind === "field" && item.name.text === name);
    const known = found?.kind === "field" ? from.tensor.names.get(useText(found.element)) : undefined;
    element = typeof known === "number" ? undefined : known;
  }
  if (element === undefined) {
    const what = from.kind === "element" ? 'a single element is spoken of as "code"' : "a condition speaks of a field";
    report("unknown-name", field.span, `there is no field ${shortName(name)} in what is converted; ${what}`);
    return null;
  }
  const which = from.kind === "element" ? null : name;
  if (range === null) return { kind: "finite", field: which };
  const most = Math.min(2 ** element.bits - 1, Number.MAX_SAFE_INTEGER);
  const low = readInteger(range.low, 0, most, `the first code of ${name}`, report);
  const high = readInteger(range.high, 0, most, `the last code of ${name}`, report);
  if (low === null || high === null) return null;
  if (low <= high) return { kind: "codes", field: which, low, high };
  report("number", range.low.span, `no code lies in ${low} .. ${high}`);
  return null;
}

type DeviceParts = {
  readonly memories: Memory[];
  readonly natives: Element[];
  readonly multiplies: Multiply[];
  readonly lookups: Lookup[];
  readonly operates: Operate[];
  readonly cores: Cores[];
  readonly caveats: Caveat[];
};

type ReadItem = (
  item: Ast.DeviceItem,
  read: ArgumentReader,
  element: (argument: string) => Element | null,
  parts: DeviceParts,
) => void;

/** Bytes of one memory: an exbibyte is endless. */
const MAX_BYTES = 2 ** 50;
/** Millions a second: a thousand times what the largest accelerators do. */
const MAX_RATE = 2 ** 50;
const MAX_CORES = 2 ** 20;
/** Nanoseconds until a core is at work: a second. */
const MAX_START = 1_000_000_000;

function optional(read: ArgumentReader, name: string, most: number): number | null {
  return read.has(name) ? read.integer(name, 1, most) : null;
}

const DEVICE_ITEMS: ReadonlyMap<string, ReadItem> = new Map<string, ReadItem>([
  [
    "memory",
    ({ name }, read, _, { memories }) => {
      const granularity = read.integer("granularity", 1, 65536);
      const width = read.has("width") ? read.integer("width", 1, 65536) : 1;
      const capacity = optional(read, "capacity", MAX_BYTES);
      const bandwidth = optional(read, "bandwidth", MAX_RATE);
      if (name === null) read.reject("a memory has a name, such as memory shared(...)");
      else if (memories.some((other) => other.name === name.text)) read.reject(`memory ${name.text} is given twice`);
      else if (granularity !== null && width !== null)
        memories.push({ name: name.text, granularity, width, capacity, bandwidth });
    },
  ],
  [
    "native",
    (_item, _read, element, { natives }) => {
      const found = element("of");
      if (found !== null) natives.push(found);
    },
  ],
  [
    "multiply",
    (_item, read, element, { multiplies }) => {
      const [activation, weight, accumulate] = [element("activation"), element("weight"), element("accumulate")];
      const size = (argument: string): number | null => (read.has(argument) ? read.integer(argument, 1, 65536) : 1);
      const [m, n, k] = [size("m"), size("n"), size("k")];
      const rate = optional(read, "rate", MAX_RATE);
      if (activation === null || weight === null || accumulate === null || m === null || n === null || k === null)
        return;
      multiplies.push({ activation, weight, accumulate, m, n, k, rate });
    },
  ],
  [
    "lookup",
    (_item, read, element, { lookups }) => {
      const [index, entry] = [element("index"), element("entry")];
      const lanes = read.integer("lanes", 1, 65536);
      const k = read.has("k") ? read.integer("k", 1, 16) : (index?.bits ?? null);
      const rate = optional(read, "rate", MAX_RATE);
      if (index === null || entry === null || lanes === null || k === null) return;
      if (k < index.bits || k > index.bits + 1) {
        const most = `${index.bits}, or ${index.bits + 1} where a table is symmetric`;
        read.reject(`an index of ${index.bits} bits stands for ${most}, activations, not ${k}`);
      } else lookups.push({ index, entry, lanes, k, rate });
    },
  ],
  [
    "operate",
    (_item, read, element, { operates }) => {
      const found = element("of");
      const rate = read.integer("rate", 1, MAX_RATE);
      if (found !== null && rate !== null) operates.push({ element: found, rate });
    },
  ],
  [
    "cores",
    (_item, read, _, { cores }) => {
      const count = read.integer("count", 1, MAX_CORES);
      const start = read.has("start") ? read.integer("start", 0, MAX_START) : 0;
      if (cores.length > 0) read.reject("cores are given twice");
      else if (count !== null && start !== null) cores.push({ count, start });
    },
  ],
  [
    "caveat",
    (_item, read, element, { caveats }) => {
      const kind = read.word("kind", ["flush_subnormals", "no_nan", "no_infinity", "fuse_multiply_add"]);
      const found = element("of");
      const certainty = read.word("certainty", ["always", "maybe"]);
      if (kind !== null && certainty !== null && found !== null) caveats.push({ kind, element: found, certainty });
    },
  ],
]);

/** The device of a declaration; what is wrong in it is reported and left out. */
export function resolveDevice({ name, items }: Ast.DeviceDeclaration, scope: ClaimScope): DeviceModel {
  const parts: DeviceParts = {
    memories: [],
    natives: [],
    multiplies: [],
    lookups: [],
    operates: [],
    cores: [],
    caveats: [],
  };
  for (const item of items) {
    const { kind } = item;
    const readItem = DEVICE_ITEMS.get(kind.text);
    if (readItem === undefined) {
      const known = [...DEVICE_ITEMS.keys()];
      const message = `a device says ${known.join(", ")}, not ${shortName(kind.text)}`;
      scope.report("unknown-name", kind.span, message, { suggestion: didYouMean(kind.text, known) });
      continue;
    }
    const read = argumentReader(item.name ?? kind, kind.text, item.arguments, new Map(), scope.report);
    readItem(item, read, elementReader(read, scope), parts);
    read.finish();
  }
  if (parts.memories.length === 0) {
    const suggestion = "add a line such as memory global(granularity: 4)";
    scope.report("missing-value", name.span, `device ${name.text} has no memory`, { suggestion });
  }
  return { name: name.text, ...parts, cores: parts.cores[0] ?? { count: 1, start: 0 } };
}

/** The signature of a `gemm`, or null after a report. */
export function resolveGemm(
  { name, arguments: list }: Ast.GemmDeclaration,
  devices: ReadonlyMap<string, DeviceModel>,
  scope: ClaimScope,
): GemmSignature | null {
  const read = argumentReader(name, "gemm", list, new Map(), scope.report);
  const endpoint = (argument: string): Endpoint | null => {
    const use = read.use(argument);
    return use === null ? null : scope.endpoint(use);
  };
  const element = elementReader(read, scope);
  const [activations, weights] = [endpoint("activations"), endpoint("weights")];
  const [accumulate, out] = [element("accumulate"), element("out")];
  const memories = [
    ...new Set([...devices.values()].flatMap((device) => device.memories.map((memory) => memory.name))),
  ];
  const place = read.has("place") ? read.word("place", memories) : null;
  read.finish();
  if (activations === null || weights === null || accumulate === null || out === null) return null;
  return { name: name.text, activations, weights, accumulate, out, place };
}

function elementReader(read: ArgumentReader, scope: ClaimScope): (argument: string) => Element | null {
  return (argument) => {
    const use = read.use(argument);
    return use === null ? null : scope.element(use);
  };
}
