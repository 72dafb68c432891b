// Which file a person means by a model: the one that comes with Lutra, a path, or a name in the folders of LUTRA_MODELS.

import { statSync } from "node:fs";
import { basename, delimiter, join } from "node:path";
import process from "node:process";
import { packageFile } from "../files.ts";

/** A small model, and a text for it to go on with. */
export const embedded: { readonly file: string; readonly prompt: string } = {
  file: packageFile("models/austen-5m-ternary.gguf"),
  prompt: "It is a truth universally acknowledged",
};

/** The folders that LUTRA_MODELS names, separated as in PATH. */
export function modelFolders(): readonly string[] {
  return (process.env["LUTRA_MODELS"] ?? "").split(delimiter).filter((folder) => folder !== "");
}

/** The path itself, or the file of that name in one of the folders where there is none at the path. */
export function findModel(path: string): string {
  if (isFile(path) || basename(path) !== path) return path;
  return (
    modelFolders()
      .map((folder) => join(folder, path))
      .find((candidate) => isFile(candidate)) ?? path
  );
}

/** Whether a lone argument names a model, and is no prompt; a word may well be the name of a folder. */
export function looksLikeModel(argument: string): boolean {
  return argument.endsWith(".gguf") || isFile(argument);
}

/** Whether there is a regular file; any text may be asked for, also one that cannot be a path. */
function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
