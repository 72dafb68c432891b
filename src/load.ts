// A model by its path: model/model.ts on the file system, with the number formats that come with the package.
// Not here: what opening means (model/model.ts), how a page does it (app/page).

import { openFile } from "./files.ts";
import { standardProgram } from "./library.ts";
import { type LoadOptions, type Model, openModel } from "./model/model.ts";

export { DEFAULT_CONTEXT, type LoadOptions, type Model } from "./model/model.ts";

/**
 * Opens a model file and checks all of it but the weights' values.
 * @param path of a GGUF file, or of the first file of a split one
 * @throws FileError where it cannot be read, ModelError where it is no model that Lutra can run, RangeError for an
 *   option that is no whole number of at least 1
 */
export function load(path: string, options: LoadOptions = {}): Model {
  return openModel(path, openFile, standardProgram, options);
}
