// The greatest common divisor and the least common multiple: how blocks, groups, tiles and words of different sizes meet.

/** The largest whole number that divides both; the other where one is 0. */
export function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** The smallest whole number that both divide; of positive whole numbers. */
export function lcm(a: number, b: number): number {
  return (a / gcd(a, b)) * b;
}
