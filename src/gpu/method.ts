// How products can be computed on a GPU, and who chooses: types alone, without those of WebGPU, since programs that use Lutra
// as a library see them. Not here: what each is (codegen.ts), which is fastest (tuner.ts).

import type { Type } from "../ladder/type.ts";

/** How products are computed: codes times activations of eight bits, decoded values times f32, or sums from tables. */
export type Method = "dot" | "decode" | "lookup";

/** Which method does products with one row of activations and which those with more. */
export interface Methods {
  readonly one: Method;
  readonly more: Method;
}

/** The methods for an (n, k) matrix of a type, where somebody knows better than the rule; else null. */
export type ChooseMethods = (type: Type, n: number, k: number) => Methods | null;
