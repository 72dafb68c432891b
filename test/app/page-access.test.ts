// For whom the page is: names and announcements for those who hear it, keys for those without a mouse, contrast and room
// for those who see it; and pictures of it, which people look at: build/screenshots.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { describe, expect } from "vitest";

import { testWith } from "../oracle/oracle.ts";
import { root } from "./lutra.ts";
import { browserAtHand, choose, done, fill, otherOrigin, ready, refusal, statusOf, tinyBytes, visit } from "./visit.ts";

const SCREENSHOTS = join(root, "build/screenshots");

/** A node of the tree that screen readers read. */
interface AxNode {
  readonly role?: { readonly value: string };
  readonly name?: { readonly value: string };
  readonly properties?: readonly { readonly name: string; readonly value: { readonly value: unknown } }[];
}

async function accessibilityTree(page: Page): Promise<readonly AxNode[]> {
  const session = await page.context().newCDPSession(page);
  const { nodes } = (await session.send("Accessibility.getFullAXTree")) as { nodes: readonly AxNode[] };
  return nodes;
}

const CONTROLS = new Set([
  "button",
  "textbox",
  "spinbutton",
  "checkbox",
  "link",
  "DisclosureTriangle",
  "log",
  "progressbar",
]);

/** Relative luminance, WCAG 2.2. */
function luminance(color: readonly number[]): number {
  const [r = 0, g = 0, b = 0] = color.map((c) =>
    c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

interface Shown {
  readonly text: string;
  readonly color: readonly number[];
  readonly behind: readonly number[];
}

/** Every visible text, and every placeholder, with its colour and that behind it. */
function shownTexts(page: Page): Promise<readonly Shown[]> {
  return page.evaluate<readonly Shown[]>(`(() => {
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const behind = (node) => {
      for (let at = node; at !== null; at = at.parentElement) {
        const color = numbers(getComputedStyle(at).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color.slice(0, 3);
      }
      return [255, 255, 255];
    };
    return [...document.body.querySelectorAll("*")].filter((node) => node.checkVisibility()).flatMap((node) => {
      const own = [...node.childNodes].filter(({ nodeType }) => nodeType === 3).map(({ data }) => data.trim()).join("");
      const texts = [];
      const style = getComputedStyle(node);
      if (own !== "") texts.push({ text: own, color: numbers(style.color), behind: behind(node) });
      if (node.placeholder) {
        const { color } = getComputedStyle(node, "::placeholder");
        texts.push({ text: node.placeholder, color: numbers(color), behind: behind(node) });
      }
      return texts;
    });
  })()`);
}

describe("for everybody", () => {
  testWith(browserAtHand, "every control has a name, and what changes is announced", async () => {
    const page = await visit();
    await page.locator("#options").evaluate((details) => (details.open = true));
    const nodes = await accessibilityTree(page);
    const controls = nodes.filter(({ role }) => CONTROLS.has(role?.value ?? ""));
    expect(controls.length).toBeGreaterThan(12);
    expect(controls.filter(({ name }) => (name?.value ?? "") === "")).toEqual([]);
    const live = nodes
      .filter(({ properties = [] }) => properties.some((one) => one.name === "live" && one.value.value === "polite"))
      .map(({ role }) => role?.value);
    expect(live).toEqual(expect.arrayContaining(["status", "log"]));
    await choose(page, { "x.gguf": new Uint8Array(30) });
    await refusal(page);
    const alert = (await accessibilityTree(page)).find(({ role }) => role?.value === "alert");
    expect(alert?.properties).toContainEqual({ name: "live", value: { type: "token", value: "assertive" } });
    expect(await page.locator("html").getAttribute("lang")).toBe("en");
  });

  testWith(browserAtHand, "all can be done without a mouse, and what has the focus shows it", async () => {
    const page = await visit();
    await page.locator("summary").press("Enter");
    await page.locator("body").evaluate((body) => body.ownerDocument.activeElement.blur());
    const wanted = await page.evaluate<readonly string[]>(
      `[...document.querySelectorAll("button, input, textarea, summary, a, #text")]
        .filter((node) => !node.disabled).map((node) => node.id || node.textContent)`,
    );
    expect(wanted.length).toBeGreaterThan(10);
    const seen = new Set<string>();
    for (let i = 0; i < 2 * wanted.length && seen.size < wanted.length; i++) {
      await page.keyboard.press("Tab");
      const [name, outline] = await page.evaluate<[string, string]>(`(() => {
        const node = document.activeElement;
        const { outlineStyle, outlineWidth } = getComputedStyle(node);
        return [node.id || node.textContent, outlineStyle + " " + outlineWidth];
      })()`);
      if (wanted.includes(name)) expect([name, outline]).toEqual([name, "solid 3px"]);
      if (wanted.includes(name)) seen.add(name);
    }
    expect([...seen].toSorted()).toEqual([...wanted].toSorted());
  });

  testWith(browserAtHand, "the focus goes to what can be done next", async () => {
    const page = await visit();
    await page.evaluate(
      `window.focused = [];
      document.addEventListener("focusin", ({ target }) => window.focused.push(target.id));`,
    );
    await page.locator("#url").fill(`${otherOrigin}/tiny.gguf`);
    await page.locator("#url").press("Enter");
    await ready(page);
    expect(await page.evaluate("window.focused.splice(0)")).toEqual(["url", "stop", "generate"]);
    await page.keyboard.press("Enter");
    await done(page);
    expect(await page.evaluate("window.focused")).toEqual(["stop", "generate"]);
  });

  testWith(browserAtHand, "a number that is wrong is shown, where it was hidden too", async () => {
    const page = await visit();
    await choose(page, { "tiny.gguf": tinyBytes });
    await ready(page);
    await fill(page, { temperature: "-1" });
    await page.locator("#options").evaluate((details) => (details.open = false));
    await page.locator("#generate").click();
    expect(await page.locator("#temperature").isVisible()).toBe(true);
    expect(await statusOf(page)).toMatch(/^The model is ready/);
  });

  testWith(browserAtHand, "text can be read in light and dark colours, on narrow and wide screens", async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    const page = await visit();
    /** A picture of each look; nothing is cut off, and every text stands out from what is behind it. */
    const pictures = async (name: string): Promise<void> => {
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme });
        for (const [size, width] of [
          ["narrow", 320],
          ["wide", 1400],
        ] as const) {
          await page.setViewportSize({ width, height: 900 });
          const look = `${name}-${colorScheme}-${size}`;
          writeFileSync(join(SCREENSHOTS, `${look}.png`), await page.screenshot({ fullPage: true }));
          const cut = await page.evaluate<readonly string[]>(
            `[...document.querySelectorAll("body *")]
              .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth)
              .map((node) => node.outerHTML)`,
          );
          expect(cut, look).toEqual([]);
          const texts = await shownTexts(page);
          expect(texts.length).toBeGreaterThan(20);
          for (const { text, color, behind } of texts) {
            const [a, b] = [luminance(color), luminance(behind)];
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            const colors = `${look}: ${text}: ${color.join()} on ${behind.join()}`;
            expect(contrast, colors).toBeGreaterThanOrEqual(4.5);
          }
        }
      }
    };
    await page.locator("#embedded").click();
    await ready(page);
    await fill(page, { "max-tokens": "16", seed: "7" });
    await page.locator("#generate").click();
    await done(page);
    await pictures("text");
    await choose(page, { "notes.gguf": new TextEncoder().encode("This is no model, but a text.") });
    expect(await refusal(page)).toBe('notes.gguf: magic: "This"; a GGUF file begins with "GGUF"');
    await pictures("failure");
  });
});
