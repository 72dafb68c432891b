// Errors of the HTTP interface: a status, and the envelope that OpenAI's clients read. Fields of a request are read here
// too, each with its limits, so that every refusal names the field, its value and what would work.
// Not here: which fields there are (serve-request.ts).

export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly param: string | null;
  readonly code: string | null;

  /** @param param the field that is wrong, as in "messages[0].role" */
  constructor(status: number, message: string, param: string | null = null, code: string | null = null) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

const TYPES: Readonly<Record<number, string>> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  429: "rate_limit_error",
};

/** The envelope `{error: {message, type, param, code}}`. */
export function envelope(error: ApiError): object {
  const { status, message, param, code } = error;
  const type = TYPES[status] ?? (status >= 500 ? "server_error" : "invalid_request_error");
  return { error: { message, type, param, code } };
}

/** A field is wrong: status 400. */
export function bad(param: string, value: unknown, allowed: string): ApiError {
  return new ApiError(400, `${param}: ${brief(value)}; ${allowed}`, param);
}

export type Body = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is Body {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value of a field; undefined where it is absent or null, which clients send for what they do not set. */
export function given(body: Body, name: string): unknown {
  return Object.hasOwn(body, name) ? (body[name] ?? undefined) : undefined;
}

export function numberIn<F>(body: Body, name: string, min: number, max: number, absent: F): number | F {
  const value = given(body, name);
  if (value === undefined) return absent;
  if (typeof value === "number" && value >= min && value <= max) return value;
  throw bad(name, value, `a number from ${min} to ${max} is needed`);
}

export function integerIn<F>(body: Body, name: string, min: number, max: number, absent: F): number | F {
  const value = given(body, name);
  if (value === undefined) return absent;
  if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return value as number;
  throw bad(name, value, `a whole number from ${min} to ${max} is needed`);
}

export function booleanIn(body: Body, name: string, absent: boolean): boolean {
  const value = given(body, name);
  if (value === undefined || typeof value === "boolean") return value ?? absent;
  throw bad(name, value, "true or false is needed");
}

/** A value as it is shown in an error: short, whatever it is. */
export function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
