/* Choose methods for a model, a GPU, a training step and some requirements. It mirrors `peftonomy.knowledge.choose`,
   `memory.gpus` and `libraries.script`; a test compares the answers. After engine.js, data.js and choices.js; counts need
   the scripts of memory. */
"use strict";

(function () {
  var inner = peft.inner, given = inner.given, merge = inner.merge, fail = inner.fail;
  var GIB = Math.pow(2, 30), ANY = "any";
  function known() { return peft.choices; }
  function method(id) { return peft.data.methods[id]; }
  /* The result of an action, or the error that is meant for people. */
  function tried(action) {
    try { return { value: action() }; } catch (error) { if (!error.user) throw error; return { problem: error }; }
  }
  function binary(value) {
    for (var units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], i = 0; value >= 1023.5 && i < units.length - 1; i++) value /= 1024;
    return Number(value.toPrecision(4)) + " " + units[i];
  }

  /* ---- GPUs ---- */

  /* The words of a GPU's name without brands; none for a size alone. */
  function wordsOf(text) {
    var joined = text.toLowerCase().replace(/(\d)\s*(?:gib|gb|g)\b/g, "$1gb"), brands = known().brands;
    var words = (joined.match(/[a-z0-9]+/g) || []).filter(function (w, i, all) { return brands.indexOf(w) < 0 && all.indexOf(w) === i; });
    return words.some(function (w) { return !/^\d*gb$/.test(w); }) ? words : [];
  }
  function within(a, b) { return a.every(function (w) { return b.indexOf(w) >= 0; }); }
  /* The GPUs of this name; else those whose name it contains, the longest; else those that contain it. */
  function gpusNamed(text) {
    var asked = wordsOf(text), names = [];
    if (!asked.length) return [];
    known().gpus.forEach(function (g) { [g.name].concat(g.aliases).forEach(function (name) { names.push([wordsOf(name), g]); }); });
    function found(test) { return names.filter(function (n) { return test(n[0]); }); }
    var exact = found(function (n) { return n.length === asked.length && within(n, asked); });
    var inside = found(function (n) { return n.length < asked.length && within(n, asked); });
    var longest = Math.max.apply(null, inside.map(function (n) { return n[0].length; }));
    if (!exact.length && inside.length) exact = inside.filter(function (n) { return n[0].length === longest; });
    if (!exact.length) exact = found(function (n) { return n.length > asked.length && within(asked, n); });
    return exact.map(function (n) { return n[1]; });
  }
  /* Bytes of a GPU by its name or a size; a bare number is GiB. Null for an empty text. */
  function gpuMemory(text) {
    var found = gpusNamed(text), size = peft.gpuBytes(text);
    if (found.length && new Set(found.map(function (g) { return g.mib; })).size === 1) return found[0].mib * Math.pow(2, 20);
    if (found.length) fail("This may be " + found.map(function (g) { return g.name; }).join(" or ") + ". Name one of them.", "gpu");
    if (Number.isNaN(size)) fail("No GPU has this name. Give a size such as 24 GiB, or a name such as A100 80GB or RTX 4090.", "gpu");
    return size;
  }

  /* ---- requirements ---- */

  /* "10M", "1e6" or "0.1%" as a number of parameters; null for an empty text. */
  function trainedBudget(text, parameters) {
    if (!given(text) || String(text).trim() === "") return null;
    var found = /^([0-9][0-9,]{0,29}\.?[0-9]{0,30}(?:e[0-9]{1,2})?)\s*([kmb%]?)$/.exec(String(text).trim().toLowerCase());
    if (!found) fail("This is no number of parameters. Write 10M, 250k, 1e6, or 0.1% of the model.", "trained");
    return Math.floor(Number(found[1].replace(/,/g, "")) * ({ "": 1, k: 1e3, m: 1e6, b: 1e9 }[found[2]] || parameters / 100));
  }
  function libraries(id) { return known().libraries[id]; }
  function unmet(id, wishes) {
    var reasons = wishes.merge && method(id).merge !== "exact" ? ["does not merge into the weights"] : [], own = libraries(id);
    (wishes.needs || []).forEach(function (need) {
      var wish = known().wishes[need];
      if (wish.methods.indexOf(id) < 0) reasons.push(wish.unmet);
    });
    if (wishes.library === ANY && !own.length) reasons.push("is in no library");
    else if (wishes.library && wishes.library !== ANY && own.indexOf(wishes.library) < 0) reasons.push("is not in " + known().names[wishes.library]);
    return reasons;
  }
  /* The hyperparameters with which a method stays within a budget, and its cost: the size is halved until it does. */
  function sized(id, options, budget, dtype) {
    var set = merge(options, { dtype: dtype }), cost = peft.cost(id, merge(set, { values: {} }));
    if (budget === null || cost.trained <= budget) return { given: {}, cost: cost };
    var name = method(id).size, least = cost, value = name ? Math.floor(cost.hyperparameters[name] / 2) : 0;
    for (; value; value = Math.floor(value / 2)) {
      var found = tried(function () { return peft.cost(id, merge(set, { values: { [name]: value } })); });
      if (found.problem) continue;
      least = found.value;
      if (least.trained <= budget) return { given: { [name]: value }, cost: least };
    }
    fail("trains " + inner.grouped(least.trained) + (name ? " at its smallest, " + name + " = " + least.hyperparameters[name] : " at any setting"));
  }

  /* ---- the training step ---- */

  function refusal(id, reasons) { return { method: id, reasons: reasons, bytes: null, seq: null, gpus: null }; }
  function whole(memory) { return memory.peak + memory.gpu_extra_estimate; }
  /* A setting with some relaxations; one that changes nothing is left out. */
  function relaxed(setting, names) {
    return names.reduce(function (made, name) {
      if (name === "optimizer" && (made.optimizer.indexOf("adamw") < 0 || /8bit$/.test(made.optimizer))) return made;
      if (name === "quantized" && given(made.quantized)) return made;
      return merge(made, known().relaxations[name][0]);
    }, setting);
  }
  function same(a, b) { return Object.keys(a).every(function (key) { return a[key] === b[key]; }); }
  /* The largest number from 1 to `most` for which `fits` holds; 0 if there is none. */
  function largest(fits, most) {
    for (var low = 0, high = most + 1; high - low > 1;) {
      var middle = Math.floor((low + high) / 2);
      if (fits(middle)) low = middle; else high = middle;
    }
    return low;
  }
  /* The settings that a library refuses for a method: the required library, else the one for which code is written. */
  function refusedBy(id, library) { return ((known().untrainable[id] || {})[library && library !== ANY ? library : known().peft]) || {}; }
  /* A candidate, or {method, reasons, bytes, seq, gpus}. */
  function fitted(id, options, found, wishes) {
    var asked = wishes.setting, set = merge(options, { values: found.given });
    if (method(id).parts.some(function (part) { return part.base.length; })) asked = merge(asked, { quantized: null });
    function taken(setting) { return whole(peft.memory(id, set, setting)); }
    asked = merge(asked, wishes.sharing);
    var first = tried(function () { return taken(asked); });
    if (first.problem) return refusal(id, [first.problem.message]);
    var steps = [first.value], names = [], refused = refusedBy(id, wishes.library), all = Object.keys(known().relaxations);
    for (var key in refused) if (asked[key]) return refusal(id, [refused[key]]);
    all.concat(all).forEach(function (name) {
      var changed = relaxed(asked, names.concat(name)), last = steps[steps.length - 1];
      if (given(refused[name]) || names.indexOf(name) >= 0 || last <= wishes.gpu || same(changed, relaxed(asked, names))) return;
      var needed = tried(function () { return taken(changed); });
      if (needed.problem || needed.value >= last) return;
      names.push(name);
      steps.push(needed.value);
    });
    var setting = relaxed(asked, names);
    if (steps[steps.length - 1] > wishes.gpu) {
      var batch = largest(function (value) { return taken(merge(setting, { batch: value })) <= wishes.gpu; }, asked.batch - 1);
      if (!batch) return tooLarge(id, taken, merge(setting, { batch: 1 }), refused, wishes);
      setting = merge(setting, { batch: batch });
      names.push("batch");
    }
    names.slice(0, -1).reverse().forEach(function (name) {   // what the later ones made unnecessary
      var fewer = merge(relaxed(asked, names.filter(function (n) { return n !== name; })), { batch: setting.batch });
      if (taken(fewer) > wishes.gpu) return;
      names.splice(names.indexOf(name), 1);
      setting = fewer;
    });
    var memory = peft.memory(id, set, setting), cost = found.cost;
    steps = names.map(function (_, i) { return taken(relaxed(asked, names.slice(0, i))); }).concat(whole(memory));
    return {
      method: id, given: found.given, hyperparameters: memory.hyperparameters, targets: memory.targets, setting: setting, relaxed: names, steps: steps,
      accumulate: Math.ceil(asked.batch / setting.batch), bytes: whole(memory), memory: memory, trained: cost.trained, percent: cost.percent,
      stored_bytes: cost.stored_bytes, libraries: libraries(id)
    };
  }
  /* How much the smallest step takes, which length would fit, and how many GPUs would. */
  function tooLarge(id, taken, setting, refused, wishes) {
    var needed = taken(setting), gpu = wishes.gpu, kept = setting.checkpointing || given(refused.checkpointing);
    var several = (kept ? null : fewest(taken, merge(setting, { checkpointing: true }), wishes)) || fewest(taken, setting, wishes);
    var seq = !given(setting.seq) ? 0 : largest(function (value) {
      var shorter = tried(function () { return taken(merge(setting, { seq: value })); });
      return !shorter.problem && shorter.value <= gpu;
    }, setting.seq - 1);
    var reason = "needs " + binary(needed) + " with all that saves memory and one sequence" + (seq ? "; a length of " + inner.grouped(seq) + " fits" : "");
    if (several) reason += "; " + inner.grouped(several.gpus) + " such GPUs fit it with " + several.shard + (several.optimizer === setting.optimizer ? "" : " and the optimizer " + several.optimizer);
    return { method: id, reasons: [reason].concat(Object.keys(refused).map(function (k) { return refused[k]; })), bytes: needed, seq: seq || null, gpus: several ? several.gpus : null };
  }
  /* The setting with the smallest number of GPUs on which a step fits; null if no power of two helps. */
  function fewest(taken, setting, wishes) {
    var sharing = wishes.sharing || {}, least = sharing.gpus || 1, numbers = known().numbers.filter(function (n) { return n > least; });
    var set = merge(setting, { shard: sharing.shard || peft.data.training.sharding.kinds[0] });
    if (tried(function () { return peft.checkedSetting(merge(set, { gpus: numbers[0] })); }).problem) set.optimizer = wishes.setting.optimizer;
    function fits(n) {
      var bytes = tried(function () { return taken(merge(set, { gpus: n })); });
      return !bytes.problem && bytes.value <= wishes.gpu;
    }
    var last = numbers.filter(function (n) { return Number.isInteger(Math.log2(n)); }).find(fits);
    return last ? merge(set, { gpus: numbers.find(function (n) { return n === last || fits(n); }) }) : null;
  }

  /* ---- the choice ---- */

  function compared(a, b) {
    for (var i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
    return a.length - b.length;
  }
  function byRank(a, b) { return compared(a[0], b[0]); }
  /* The published comparison on a model of the same kind, and the best run of each method in it. */
  function runsFor(backbone) {
    var study = Object.keys(known().studies).filter(function (key) { return known().studies[key].kind === backbone.family.kind; })[0];
    return study ? known().evidence[study] : {};
  }
  /* Our own study on a model of the same kind and task, with the arm of each method. */
  function oursFor(backbone) {
    function like(one) { return one.kind === backbone.family.kind && backbone.tasks.indexOf(one.task) >= 0; }
    return known().ours.filter(like)[0] || { methods: {} };
  }
  /* Lower for better runs; the highest for a method without one. */
  function quality(run) { return !run ? Infinity : known().studies[run.study].better === "higher" ? -run.value : run.value; }
  /* An answer that is found in steps: call `step` until it is true, then read `answer`. `wishes`: gpu (bytes), setting,
     sharing (gpus and shard, if several GPUs share the step), merge, needs, library, trained (text), by, anywhere. `only`: the methods to count, all if it is empty. */
  function choosing(options, wishes, n, only) {
    var backbone = peft.backbone(options), budget = trainedBudget(wishes.trained, backbone.parameters), widths = known().widths;
    var dtype = widths[peft.data.training.dtypes[wishes.setting.dtype][1]], by = wishes.by || "libraries";
    var ids = only && only.length ? Array.from(new Set(only)) : Object.keys(peft.data.methods), some = only && only.length, ready = [], refused = [], found = [], sorted = false;
    if (wishes.sharing) peft.checkedSetting(merge(wishes.setting, wishes.sharing));
    var runs = runsFor(backbone);
    if (by === "evidence" && !Object.keys(runs).length) fail("No published comparison here has a model of this kind. Choose another order.", "by");
    var own = oursFor(backbone);
    if (by === "ours" && !Object.keys(own.methods).length) fail("None of our own studies has a model of this kind. Choose another order.", "by");
    function size(id) {
      var rank = [wishes.anywhere ? 0 : Number(!libraries(id).length)].concat(known().use[id], [method(id).year, id]), reasons = unmet(id, wishes);
      var answer = tried(function () { return sized(id, options, budget, dtype); });
      if (answer.problem) { refused.push([rank, refusal(id, reasons.concat(answer.problem.message))]); return; }
      if (!answer.value.cost.trained) reasons.push("trains nothing by itself");
      if (answer.value.cost.trained >= answer.value.cost.backbone && !some) reasons.push("trains all parameters of the model");
      if (by === "stored") rank.splice(1, 0, answer.value.cost.stored_bytes);
      if (by === "evidence") rank.splice(1, 0, quality(runs[id]));
      if (by === "ours") rank.splice(1, 0, own.methods[id] ? own.methods[id].group : Infinity);
      if (reasons.length) refused.push([rank, refusal(id, reasons)]);
      else ready.push([rank, id, answer.value]);
    }
    function fit(item) {
      var answer = fitted(item[1], options, item[2], wishes), rank = item[0];
      if (answer.reasons) { refused.push([rank, answer]); return false; }
      answer.evidence = runs[item[1]] || null;
      answer.ours = own.methods[item[1]] ? merge({ study: own.study, metric: own.metric, groups: own.groups }, own.methods[item[1]]) : null;
      if (by === "memory") rank = [rank[0], answer.bytes].concat(rank.slice(1));
      found.push([rank, answer]);
      return by !== "memory" && !some && found.length === n;
    }
    function above(rank, last) {
      if (by === "memory") return rank[0] <= last[0];
      return (["stored", "evidence", "ours"].indexOf(by) < 0 || rank.length >= last.length) && compared(rank, last) < 0;
    }
    return {
      step: function () {
        if (ids.length) { size(ids.shift()); return false; }
        if (!sorted) { ready.sort(byRank); sorted = true; }
        return !ready.length || fit(ready.shift()) || !ready.length;
      },
      answer: function () {
        found.sort(byRank);
        refused.sort(byRank);
        var last = some || found.length < n ? null : found[n - 1][0];
        return {
          found: (some ? found : found.slice(0, n)).map(function (f) { return f[1]; }),
          refused: refused.filter(function (r) { return last === null || above(r[0], last); }).map(function (r) { return r[1]; })
        };
      }
    };
  }
  function choose(options, wishes, n, only) {
    for (var choice = choosing(options, wishes, n, only); !choice.step();) continue;
    return choice.answer();
  }

  /* ---- the code ---- */

  function literal(spec, value) {
    if (spec.type === "choice") return JSON.stringify(value);
    if (spec.type === "bool") return value === true || /^(true|1)$/i.test(String(value)) ? "True" : "False";
    return spec.type === "float" && /^-?\d+$/.test(String(value)) ? value + ".0" : String(value);
  }
  function quotedList(names) { return "[" + names.slice().sort().map(function (n) { return JSON.stringify(n); }).join(", ") + "]"; }
  /* The names, among those of all targets, of the modules that have a tensor; null where they name others too. */
  function endingsOf(id, options, names, tensor) {
    var own = new Set(), others = new Set();
    inner.planOf(id, options).tensors.forEach(function (piece) {
      piece.spots.forEach(function (spot) {
        var source = spot.source, path = source && source.module && source.module.path;
        if (path) names.forEach(function (name) { if (path === name || path.slice(-name.length - 1) === "." + name) (piece.name === tensor ? own : others).add(name); });
      });
    });
    return Array.from(own).some(function (name) { return others.has(name); }) ? null : Array.from(own);
  }
  /* The class of peft's configuration and its arguments as code; null where there is no such configuration. */
  function configured(id, options, values) {
    var found = method(id).libraries[known().peft], specs = method(id).parts[0].hyperparameters, aimed = method(id).parts.some(function (p) { return p.targets; });
    if (!found || !found.type || !/^\w+Config$/.test(found.symbol || "")) return null;
    var set = merge(options, { values: values }), cost = peft.cost(id, set), names = aimed ? peft.suffixes(id, set) : undefined;
    if (names === null || (!aimed && found.aimed)) return null;   // modules that have no roles are not named here
    var said = peft.python.coded(merge(found.set, peft.written(id, set, known().peft)));
    specs.forEach(function (h) {
      var value = cost.hyperparameters[h.name], name = found.rename[h.name];
      if (!name) return;
      var numbers = Array.from({ length: Number(value) || 0 }, function (_, n) { return n; }), whole = (known().whole[id] || []).indexOf(name) >= 0 && Number.isInteger(value);
      peft.python.put(said, name.split("."), found.counted.indexOf(name) >= 0 ? "[" + numbers.join(", ") + "]" :
        found.files.indexOf(name) >= 0 ? "{" + numbers.map(function (n) { return '"' + n + '": "path/to/' + n + '"'; }).join(", ") + "}" :
        whole ? String(value) : literal(h, found.loud.indexOf(name) >= 0 ? String(value).toUpperCase() : value));
    });
    var inventory = peft.modules(options), backbone = inventory.backbone, tasks = [inventory.task, inventory.computed];
    var type = peft.data.tasks.types.filter(function (t) { return tasks.indexOf(t.task) >= 0 && (!t.kind || t.kind === backbone.family.kind); })[0];
    var lines = (type ? ['task_type="' + type.type + '"'] : []).concat(Object.keys(said).map(function (name) { return name + "=" + peft.python.spelled(said[name]); }));
    if (names && found.aimed) lines.push("target_modules=" + (names === "all-linear" ? '"all-linear"' : quotedList(names)));
    var apart = known().apart[id] || {}, kept = names && found.aimed ? Object.keys(apart).map(function (tensor) { return endingsOf(id, set, names, tensor); }) : [];
    if (kept.indexOf(null) >= 0) return null;
    Object.keys(apart).forEach(function (tensor, i) { if (kept[i]) lines.push(apart[tensor] + "=" + quotedList(kept[i])); });
    return { symbol: found.symbol, arguments: lines };
  }
  /* The whole code for a candidate; null where peft has no configuration of the method, or the GPUs share more than `coded`. */
  function code(candidate, options) {
    var task = given(options.task) ? options.task : inner.trainedTask(peft.backbone(options)), asked = merge(options, { task: task });
    var config = configured(candidate.method, asked, candidate.given), setting = candidate.setting, say = known().code, kind = peft.backbone(options).type;
    if (!config || (given(setting.gpus) && setting.shard !== known().coded)) return null;
    var type = say.types[setting.dtype], only = peft.data.families[kind].only || {}, labelled = peft.data.tasks.labelled.indexOf(task) >= 0 && !(task in only);
    var name = known().classes[kind][task], checkpoint = (given(options.model) && peft.data.models[options.model].hub) || say.placeholder;
    var load = ['"' + checkpoint + '"', "dtype=torch." + type];
    if (labelled) load.push("num_labels=" + (options.num_labels || 2));
    if (setting.attention !== "sdpa") load.push('attn_implementation="' + setting.attention + '"');
    if (given(setting.quantized)) load.push("quantization_config=transformers.BitsAndBytesConfig(\n" + say.quantized[setting.quantized].map(function (line) { return "        " + line.replace("{dtype}", type) + ",\n"; }).join("") + "    )");
    var step = ['output_dir="output"', "per_device_train_batch_size=" + setting.batch, 'optim="' + say.optimizers[setting.optimizer] + '"'];
    if (candidate.accumulate > 1) step.push("gradient_accumulation_steps=" + candidate.accumulate);
    if (setting.checkpointing) step.push("gradient_checkpointing=True", 'gradient_checkpointing_kwargs={"use_reentrant": False}');
    if (setting.dtype === "mixed") step.push("bf16=True");
    function call(head, lines) { return head + "(\n" + lines.map(function (line) { return "    " + line + ",\n"; }).join("") + ")"; }
    var library = say.libraries[known().peft], calls = say.half.indexOf(setting.dtype) >= 0 && library.half.length ? library.half : library.usage;
    return ["import " + library.package, "import torch", "import transformers", "",
      call("model = transformers." + name + ".from_pretrained", load),
      call("config = " + library.package + "." + config.symbol, config.arguments)
    ].concat(calls.map(function (line) { return line.replace("{config}", "config").replace("{dtype}", "torch." + type); }), library.report, ["",
      call("arguments = transformers.TrainingArguments", step), say.dataset,
      "trainer = " + library.trainer + "(model=model, args=arguments, train_dataset=dataset)", "trainer.train()"
    ], library.save).join("\n");
  }
  /* The library, besides peft, for which Python writes the program of a candidate; none where there is none. */
  function elsewhere(candidate) {
    var libraries = known().code.libraries;
    return candidate.libraries.filter(function (key) { return key !== known().peft && libraries[key] && (method(candidate.method).libraries[key] || {}).symbol; })[0];
  }

  Object.assign(peft, { gpusNamed: gpusNamed, gpuMemory: gpuMemory, trainedBudget: trainedBudget, choosing: choosing, choose: choose, oursFor: oursFor, script: code, elsewhere: elsewhere });
})();
