/* ---- rows: every tensor that exists, with its share of the ledgers ---- */

/* `loose` leaves out what must hold: used to bracket an answer, never to give one. */
function rowsOf(plan, filled, loose) {
  var args = argumentsOf(plan, filled), out = [];
  plan.tensors.forEach(function (piece) { out.push.apply(out, gathered(piece, placed(piece, args[piece.part], loose), args[piece.part], plan, loose)); });
  return loose ? out : some(plan, out);
}
/* The rows, if there are any where the method has places. */
function some(plan, rows) {
  if (!rows.length && plan.tensors.some(function (piece) { return piece.spots.length; })) {
    fail(plan.method.name + " finds nothing to act on in " + plan.inv.backbone.name + " with these hyperparameters");
  }
  return rows;
}
/* The rows of a tensor, one for each spot where it exists. */
function placed(piece, own, loose) {
  var rows = [];
  piece.spots.forEach(function (spot) {
    var row;
    try { row = rowOf(piece, spot, own, loose); } catch (error) {
      if (error.user) throw error;
      fail("tensor " + piece.name + " has no size here: " + error.message);
    }
    if (row) rows.push(row);
  });
  return rows;
}
function whole(piece, what, value, loose) {
  value = Number(value);
  if (value > EXACT || (!loose && (!Number.isInteger(value) || value < 0))) fail("tensor " + piece.name + ": " + what + " is " + value + ", not a count");
  return value;
}
function rowOf(piece, spot, own, loose) {
  var tensor = piece.tensor, names = atop(spot.dims, own), row = { piece: piece, spot: spot };
  if (tensor.guard !== null && !run(tensor.guard, names)) return null;
  if (!loose && tensor.requires !== null && !run(tensor.requires, names)) {
    fail("tensor " + piece.name + (spot.role ? " at " + spot.role : "") + " requires " + tensor.rule);
  }
  row.shape = tensor.shape ? tensor.shape.map(function (f) { return run(f, names); }) : spot.shape || null;
  row.count = whole(piece, "its size", row.shape ? product(row.shape) : run(tensor.count, names), loose);
  row.n = tensor.copies === null ? spot.n : spot.n * whole(piece, "copies", run(tensor.copies, names), loose);
  row.trained = tensor.trained === true ? row.count * row.n : tensor.trained === false ? 0 : row.n * whole(piece, "trained", run(tensor.trained, names), loose);
  row.stored = row.bits = row.indices = 0;
  tensor.stored.forEach(function (s) {
    if (s.across !== null) return;
    keep(row, s.as, row.n * (s.count === null ? row.count : whole(piece, "stored", run(s.count, names), loose)));
  });
  return served(row, row.count * row.n);
}
function keep(row, as, amount) {
  if (as === "bits") row.bits += amount; else if (as !== "shared") row.stored += amount;
  if (as === "indices") row.indices += amount;
}
function served(row, numel) {
  var stays = row.piece.tensor.served === "kept" ? numel : 0;
  row.served = row.bits ? 0 : stays;
  row.served_bits = row.bits ? stays : 0;
  return row;
}
/* A tensor with a share over all its places together becomes one row: that share has no place of its own. */
function gathered(piece, rows, own, plan, loose) {
  var tensor = piece.tensor;
  if (!rows.length || (tensor.moved === null && tensor.stored.every(function (s) { return s.across === null; }))) return rows;
  var numel = rows.reduce(function (n, r) { return n + r.count * r.n; }, 0), names = merge(own, plan.common, { numel: numel });
  var row = {
    piece: piece, spot: null, shape: null, count: numel, n: 1, stored: total(rows, "stored"), bits: total(rows, "bits"), indices: total(rows, "indices"),
    trained: tensor.moved === null ? total(rows, "trained") : whole(piece, "trained", run(tensor.moved, names), loose),
    roles: rows.map(function (r) { return r.spot.role; })
  };
  tensor.stored.forEach(function (s) { if (s.across !== null) keep(row, s.as, whole(piece, "stored", run(s.across, names), loose)); });
  return [served(row, numel)];
}

function sumsOf(rows, size) {
  var sum = {};
  SUMS.forEach(function (key) { sum[key] = total(rows, key); });
  sum.stored_bytes = (sum.stored - sum.indices) * size + sum.indices * INDEX_BYTES + Math.ceil(sum.bits / 8);
  return sum;
}
function most(sum) { return Math.max(sum.trained, sum.stored, sum.stored_bytes, sum.served, sum.bits); }
function sizeOf(options) {
  var dtype = options.dtype || "float32";
  return at(BYTES, dtype) || fail("unknown dtype " + dtype + "; known: " + Object.keys(BYTES).join(", "));
}
