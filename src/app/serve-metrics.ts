// Counts of a server in the text format of Prometheus (exposition format 0.0.4). Not here: what is counted when.

/** Upper bounds in seconds, from an answer out of the cache to a long wait. */
const BUCKETS = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export interface Metrics {
  request(route: string, status: number): void;
  /** Time from a request's coming to its first token. */
  firstToken(seconds: number): void;
  tokens(counts: { readonly prompt: number; readonly cached: number; readonly generated: number }): void;
  /** @param gauges what is the case now, by name */
  text(gauges: Readonly<Record<string, number>>): string;
}

export function makeMetrics(): Metrics {
  const requests = new Map<string, number>();
  const counts = { prompt: 0, cached: 0, generated: 0 };
  const buckets = BUCKETS.map(() => 0);
  let [firstTokens, firstTokenSeconds] = [0, 0];
  return {
    request(route, status) {
      const key = `route="${route}",code="${status}"`;
      requests.set(key, (requests.get(key) ?? 0) + 1);
    },
    firstToken(seconds) {
      firstTokens++;
      firstTokenSeconds += seconds;
      BUCKETS.forEach((bound, i) => (buckets[i] = (buckets[i] ?? 0) + (seconds <= bound ? 1 : 0)));
    },
    tokens({ prompt, cached, generated }) {
      counts.prompt += prompt;
      counts.cached += cached;
      counts.generated += generated;
    },
    text(gauges) {
      const first = "lutra_first_token_seconds";
      return [
        "# TYPE lutra_requests_total counter",
        ...[...requests].map(([labels, value]) => `lutra_requests_total{${labels}} ${value}`),
        ...Object.entries(counts).flatMap(([name, value]) => [
          `# TYPE lutra_${name}_tokens_total counter`,
          `lutra_${name}_tokens_total ${value}`,
        ]),
        ...Object.entries(gauges).flatMap(([name, value]) => [`# TYPE lutra_${name} gauge`, `lutra_${name} ${value}`]),
        `# TYPE ${first} histogram`,
        ...BUCKETS.map((bound, i) => `${first}_bucket{le="${bound}"} ${buckets[i]}`),
        `${first}_bucket{le="+Inf"} ${firstTokens}`,
        `${first}_sum ${firstTokenSeconds}`,
        `${first}_count ${firstTokens}`,
        "",
      ].join("\n");
    },
  };
}
