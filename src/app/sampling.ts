// How tokens are chosen, as options of commands and as what holds where nobody says anything, for all that generate text.
// Not here: the choosing (model/sampler.ts), fields of requests (serve-request.ts).

import type { Sampling } from "../model/sampler.ts";
import type { Values } from "./command.ts";

interface Numbers<Kind extends "number" | "integer"> {
  readonly kind: Kind;
  readonly about: string;
  readonly min: number;
  readonly max: number;
  readonly fallback: number;
}

/** Options of the commands that draw tokens, but for the seed. */
export const SAMPLING_OPTIONS: {
  readonly temperature: Numbers<"number">;
  readonly "top-k": Numbers<"integer">;
  readonly "top-p": Numbers<"number">;
  readonly "min-p": Numbers<"number">;
  readonly "repeat-penalty": Numbers<"number">;
} = {
  temperature: { kind: "number", about: "0 takes the likeliest token each time", min: 0, max: 100, fallback: 0.8 },
  "top-k": { kind: "integer", about: "keep the k likeliest tokens; 0: all", min: 0, max: 2 ** 31 - 1, fallback: 40 },
  "top-p": { kind: "number", about: "keep the likeliest up to this sum; 1: all", min: 0, max: 1, fallback: 0.95 },
  "min-p": { kind: "number", about: "keep those of this share of the likeliest", min: 0, max: 1, fallback: 0.05 },
  "repeat-penalty": { kind: "number", about: "against the last 64 tokens; 1: none", min: 0.1, max: 10, fallback: 1 },
};

/** What the options of a command line ask for. */
export function samplingOf(
  values: Pick<Values<typeof SAMPLING_OPTIONS>, keyof typeof SAMPLING_OPTIONS>,
  seed: bigint,
): Sampling {
  return {
    temperature: values.temperature,
    topK: values["top-k"],
    topP: values["top-p"],
    minP: values["min-p"],
    repeatPenalty: values["repeat-penalty"],
    seed,
  };
}
