// ChatML (OpenAI, 2023) for models whose file has no chat template, as llama-server has it for those.
// Not here: templates that files have (template.ts).

import type { ChatTemplate } from "./template.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Ends a turn; a model whose vocabulary has no such token must be stopped at its text. */
export const CHATML_STOPS: readonly string[] = ["<|im_end|>", "<|im_start|>"];

/** Marks that are no tokens of the vocabulary are plain text, which a message may hold as well. */
export function chatml(tokenizer: Pick<Tokenizer, "encode" | "shield">): ChatTemplate {
  return {
    prompt(messages) {
      const turns = messages.map(
        ({ role, content }) => `<|im_start|>${tokenizer.shield(role)}\n${tokenizer.shield(content)}<|im_end|>\n`,
      );
      return tokenizer.encode(`${turns.join("")}<|im_start|>assistant\n`, { special: true });
    },
  };
}
