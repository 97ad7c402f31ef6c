/* The helpers that compiled formulas name, with Python's meaning. */
function mod(a, b) {
  if (b === 0) throw new Error("division by zero");
  var r = a % b;
  return r !== 0 && (r < 0) !== (b < 0) ? r + b : r;
}
function fdiv(a, b) {
  if (b === 0) throw new Error("division by zero");
  var r = a % b, quotient = (a - r) / b - (r !== 0 && (r < 0) !== (b < 0) ? 1 : 0), floor = Math.floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}
function pow(a, n) {
  if (!Number.isInteger(a)) return Math.pow(a, n);
  for (var product = 1; n > 0; n--) product *= a;
  return product;
}
function gcd(a, b) {
  for (a = Math.abs(a), b = Math.abs(b); b; ) { var r = a % b; a = b; b = r; }
  return a;
}
function factor(n, f) {
  if (f > 0 && n % f === 0) return f;
  if (!(n >= 1 && n <= 1e9)) throw new Error("factor of a number that is not from 1 to 1,000,000,000");
  for (var d = Math.floor(f < 1 ? Math.sqrt(n) : Math.min(f, Math.sqrt(n))); n % d; d--);
  return d;
}
