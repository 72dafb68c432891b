// What the commands on hardware are asked in files: the configuration of a unit, a person's own or an example that comes
// with Lutra, and other texts and JSON.
// Not here: what a configuration may say (sim/rtl/config.ts).

import { statSync } from "node:fs";

import { ConfigError, readConfig, type RtlConfig } from "../../sim/rtl/config.ts";
import { FileError, openFile, packageFile } from "../files.ts";

/** Far more than any configuration or node file has. */
const MAX_JSON_BYTES = 2 ** 23;

/**
 * The configuration in a file of a person's own, or in one of the examples, which are named without a folder.
 * @throws FileError, and Error with the path and the field where it describes nothing that can be built
 */
export function configOf(path: string): RtlConfig {
  const isOwn = path.includes("/") || statSync(path, { throwIfNoEntry: false }) !== undefined;
  const example = packageFile(`sim/data/rtl/${path}`);
  const isExample = !isOwn && statSync(example, { throwIfNoEntry: false }) !== undefined;
  const json = jsonOf(isExample ? example : path);
  try {
    return readConfig(json);
  } catch (error) {
    throw error instanceof ConfigError ? new Error(`${path}: ${error.message}`, { cause: error }) : error;
  }
}

/** @throws FileError */
export function jsonOf(path: string): unknown {
  const text = textOf(path, MAX_JSON_BYTES);
  try {
    return JSON.parse(text);
  } catch (error) {
    // The engine's own words, of which some quote all of the text.
    const why = error instanceof Error ? error.message.slice(0, 120) : String(error);
    throw new FileError(`${path}: no JSON: ${why}`, { cause: error });
  }
}

/**
 * The text of a file of at most so many bytes.
 * @throws FileError
 */
export function textOf(path: string, most: number): string {
  const file = openFile(path);
  try {
    if (file.size > most) throw new FileError(`${file.name}: ${file.size} bytes; at most ${most} are read`);
    return new TextDecoder("utf-8", { fatal: true }).decode(file.read(0, file.size));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new FileError(`${file.name}: bytes that are no UTF-8; text is needed`, { cause: error });
  } finally {
    file.close();
  }
}
