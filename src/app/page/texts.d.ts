// Texts that the build puts into the worker (build.mjs): the files of dsl/ and of shaders/.

declare module "lutra:texts" {
  /** Every .ladder file that comes with Lutra, by its name: "float.ladder". */
  export const ladder: ReadonlyMap<string, string>;
  /** Every .wgsl file, by its name without the ending: "gemv". */
  export const shaders: ReadonlyMap<string, string>;
}
