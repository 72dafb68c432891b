// The breakdown of an area as a drawing: one bar a module, the longest first, with its area and share. SVG as text, so that
// it is drawn without a screen. Not here: the figures themselves (report.ts), where the file goes (the command).

import type { Report } from "./report.ts";

const WIDTH = 720;
const LABELS = 190;
const BARS = 360;
const ROW = 24;
const TOP = 64;
/** More rows than can be read are drawn as one. */
const MAX_ROWS = 20;

/** Text of an SVG file. Bars are areas of modules that were mapped apart, at the report's node; `lines` stand above. */
export function breakdownSvg(report: Report, title: string, subtitle: string, areaFactor: number): string {
  const shown = report.modules.slice(0, MAX_ROWS - 1);
  const rest = report.modules.slice(MAX_ROWS - 1);
  const rows = shown.map(({ kind, areaUm2 }) => ({ name: kind === "" ? "(top)" : kind, areaUm2 }));
  if (rest.length > 0)
    rows.push({ name: `${rest.length} more`, areaUm2: rest.reduce((sum, { areaUm2 }) => sum + areaUm2, 0) });
  const total = rows.reduce((sum, { areaUm2 }) => sum + areaUm2, 0);
  const largest = Math.max(...rows.map(({ areaUm2 }) => areaUm2));
  const bars = rows.flatMap(({ name, areaUm2 }, i) => {
    const y = TOP + i * ROW;
    const width = (BARS * areaUm2) / largest;
    const share = `${(areaUm2 * areaFactor).toPrecision(4)} um2, ${((100 * areaUm2) / total).toFixed(1)} %`;
    return [
      `<text x="${LABELS - 8}" y="${y + 15}" text-anchor="end">${escapeXml(name)}</text>`,
      `<rect x="${LABELS}" y="${y + 3}" width="${width.toFixed(2)}" height="${ROW - 6}" fill="#4269d0"/>`,
      `<text x="${(LABELS + width + 6).toFixed(2)}" y="${y + 15}">${share}</text>`,
    ];
  });
  const height = TOP + rows.length * ROW + 16;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="12" y="24" font-size="15" font-weight="bold">${escapeXml(title)}</text>`,
    `<text x="12" y="44" fill="#555">${escapeXml(subtitle)}</text>`,
    ...bars,
    "</svg>",
    "",
  ].join("\n");
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
