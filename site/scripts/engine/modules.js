/* ---- its modules, as one task builds them ---- */

function savedByPeft(inv) { return inv.task === "question_ans" ? ANSWERS_SAVED_BY_PEFT : SAVED_BY_PEFT; }
/* A task may have an earlier name, under which the family declares its computation. */
function named(family, task) { return at(family.tasks, task) === undefined ? at(family.earlier, task) || task : task; }
function computed(family, task) {
  return Object.keys(family.earlier).filter(function (name) { return family.earlier[name] === task; })[0] || task;
}
/* The task of a training step: the model's own or, if that has no loss, a classification. */
function trainedTask(backbone) {
  if (backbone.default_task !== "none") return backbone.default_task;
  var tasks = data.tasks.labelled.map(function (task) { return named(backbone.family, task); });
  return tasks.filter(function (task) { return backbone.tasks.indexOf(task) >= 0; })[0] || backbone.default_task;
}

/* Whether a model reads tokens. Images and speech have a length that the model determines. */
function readsTokens(inv) { return inv.modules.some(function (m) { return m.role === "embed.token"; }); }

function inventory(backbone, task, labels) {
  task = given(task) ? task : backbone.default_task;
  labels = given(labels) ? labels : 2;
  var key = task + "|" + labels, found = backbone.inventories.get(key);
  if (found) return found;
  task = named(backbone.family, task);
  if (backbone.tasks.indexOf(task) < 0) fail(backbone.name + " has no task " + task + "; it has " + backbone.tasks.join(", "));
  if (!Number.isInteger(labels) || labels < 1 || labels > data.limits.labels) fail("labels: found " + labels + "; expected a whole number from 1 to " + grouped(data.limits.labels));
  var only = at(backbone.family.only, task);
  if (given(only) && labels !== only) fail("labels: found " + labels + "; expected " + only + ", the only number that the class for " + task + " takes");
  var sizes = merge(backbone.config, { num_labels: labels }), family = backbone.family, prefix = family.tasks[task], modules = [];
  var stacks = Object.keys(family.stacks).filter(function (name) { var tasks = family.stacks[name].tasks; return !tasks || tasks.indexOf(task) >= 0; });
  function exists(spec, sizes) { return (!spec.tasks || spec.tasks.indexOf(task) >= 0) && (!given(spec.when) || run(spec.when, sizes)); }
  family.modules.forEach(function (spec) { if (exists(spec, sizes)) modules.push(moduleOf(spec, spec.outside ? "" : prefix, "", null, sizes)); });
  stacks.forEach(function (name) {
    var stack = family.stacks[name], n = backbone.layers[name], own = merge(sizes, backbone.own[name]);
    stack.modules.forEach(function (spec) {
      var layers = [0, n];
      if (given(spec.where)) {
        var chosen = range(0, n).filter(function (layer) { return run(spec.where, atLayer(layer, family, own)); });
        layers = chosen.length === n ? layers : { at: chosen };
      }
      if (countOf(layers) && exists(spec, own)) modules.push(moduleOf(spec, prefix + stack.path + ".", name, layers, own));
    });
  });
  found = { backbone: backbone, task: task, computed: computed(family, task), labels: labels, stacks: stacks, modules: modules, blocks: blocksOf(backbone, stacks, modules) };
  found.total = total(modules, "numel");
  found.head = total(modules.filter(function (m) { return m.head; }), "numel");
  found.dims = dimsOf(found);
  found.sites = sitesIn(found);
  if (backbone.inventories.size > 40) backbone.inventories.clear();
  backbone.inventories.set(key, found);
  return found;
}
/* What a formula sees at one layer. */
function atLayer(layer, family, sizes) {
  var seen = merge(sizes, { layer: layer });
  family.config.forEach(function (key) { if (key.type === "layers") seen[key.name] = sizes[key.name].indexOf(layer) >= 0; });
  return seen;
}
/* Layers are null (exists once), [start, stop) or {at: [...]}. */
function layersOf(layers) { return !layers ? [] : Array.isArray(layers) ? range(layers[0], layers[1]) : layers.at; }
function countOf(layers) { return !layers ? 1 : Array.isArray(layers) ? layers[1] - layers[0] : layers.at.length; }

function moduleOf(spec, prefix, stack, layers, sizes) {
  function size(index) { return run(index, sizes); }
  function flag(index) { return given(index) && Boolean(size(index)); }
  var d_in, d_out, shape, parameters, start = 0;
  if (spec.kind === "embedding" || spec.kind === "parameter") {
    shape = (spec.shape || []).map(size);
    d_in = spec.kind === "parameter" ? 1 : shape[0];
    d_out = shape.length ? shape[shape.length - 1] : 1;
    parameters = [[spec.kind === "parameter" ? spec.suffix : "weight", shape]];
  } else {
    if (spec.kind === "norm") d_in = d_out = size(spec.size); else { d_in = size(spec.in); d_out = size(spec.out); }
    shape = spec.kind === "norm" ? (given(spec.heads) ? [size(spec.heads), d_in] : [d_in]) : spec.kind === "linear" ? [d_out, d_in] : spec.kind === "conv1d" ? [d_in, d_out] : [d_out, fdiv(d_in, size(spec.groups))].concat(spec.kernel.map(size));
    parameters = [["weight", shape]];
    if (flag(spec.bias)) parameters.push(["bias", [d_out]]);
  }
  var bias = parameters.some(function (p) { return p[0] === "bias"; });
  if (given(spec.tied) && size(spec.tied)) parameters = parameters.filter(function (p) { return spec.ties && spec.ties.indexOf(p[0]) < 0; });
  return {
    path: (prefix + (spec.path || "")).replace(/\.$/, ""), role: spec.role, stack: stack, layers: layers, n: countOf(layers), kind: spec.kind, d_in: d_in, d_out: d_out, bias: bias,
    parameters: parameters, head: !!spec.new, pretrained: !spec.absent && !spec.new,
    numel: countOf(layers) * parameters.reduce(function (n, p) { return n + product(p[1]); }, 0),
    slices: (spec.slices || []).map(function (s) { var from = start; start += size(s[1]); return [s[0], from, start]; }),
    groups: LINEAR.indexOf(spec.kind) >= 0 && given(spec.groups) ? size(spec.groups) : 1
  };
}
function blocksOf(backbone, stacks, modules) {
  var out = [];
  stacks.forEach(function (name) {
    var n = backbone.layers[name], dims = merge(backbone.dims, backbone.own[name], { n_layers: n });
    function add(kind, called, layers) { out.push({ kind: kind, name: called, role: called, stack: name, layers: layers, n: countOf(layers), dims: dims }); }
    Object.keys(backbone.family.stacks[name].attention).forEach(function (attention) {
      var inside = modules.filter(function (m) { return m.stack === name && m.role.indexOf(attention + ".") === 0; });
      var having = range(0, n).filter(function (layer) { return inside.some(function (m) { return layersOf(m.layers).indexOf(layer) >= 0; }); });
      if (having.length) add("attention", attention, having.length === n ? [0, n] : { at: having });
    });
    if (modules.some(function (m) { return m.stack === name && m.role === backbone.family.stacks[name].mlp; })) add("mlp", "mlp", [0, n]);
    add("layer", "layer", [0, n]);
  });
  return out;
}
function dimsOf(inv) {
  function layers(wanted) {
    return inv.stacks.reduce(function (n, name) { return n + (inStack(wanted, name) ? inv.backbone.layers[name] : 0); }, 0);
  }
  return merge(inv.backbone.dims, inv.backbone.own[inv.stacks[0]], {
    n_layers: layers(""), n_encoder_layers: layers("encoder"), n_decoder_layers: layers("decoder"),
    n_attention: total(inv.blocks.filter(function (b) { return b.kind === "attention"; }), "n"),
    n_encoders: inv.stacks.filter(function (name) { return name.indexOf("encoder") === 0; }).length,
    n_inputs: INPUTS.filter(function (role) { return inv.modules.some(function (m) { return m.role === role; }); }).length,
    n_labels: data.tasks.labelled.indexOf(inv.task) >= 0 ? inv.labels : 0
  });
}
