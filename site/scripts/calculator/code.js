/* The question of the calculator as code: for the shell, for Python and for peft. */

class Coded extends Answers {
  /* The same question (`of`: cost or memory) as a command, in Python and for peft. */
  foot(of) {
    var self = this, codes = { shell: this.shell(of), python: this.python(of), peft: of === "cost" ? this.peft() : "" };
    var shown = codes[this.code[of]] ? this.code[of] : "shell";
    var options = [["shell", "Shell"], ["python", "Python"]].concat(codes.peft ? [["peft", "peft"]] : []);
    var seg = this.choice("Copy as", options, shown, function (v) {
      self.code[of] = v;
      var made = self.foot(of);
      foot.replaceWith(made);
      made.querySelector('[aria-pressed="true"]').focus();
    });
    var foot = make("div", { class: "pf-calc__foot" }, [
      make("div", { class: "pf-calc__bar" }, [seg,
        make("button", { type: "button", class: "pf-button", "data-copy-text": codes[shown] }, "Copy"),
        make("button", { type: "button", class: "pf-button", "data-copy-address": true }, "Copy link")]),
      make("div", { class: "pf-command", tabindex: "0", role: "region", "aria-label": of === "cost" ? "The cost as code" : "The memory as code" }, codes[shown])
    ]);
    return foot;
  }
  shell(of) {
    var s = this.state, parts = ["peftonomy " + of, s.method, "--model", this.pasted ? "config.json" : s.model];
    Object.keys(s.values).forEach(function (k) { parts.push("--set", quoted(k + "=" + s.values[k])); });
    if (s.targets) parts.push("--targets", quoted(s.targets.join(",")));
    if (s.modules) parts.push("--target-modules", quoted([].concat(s.modules).join(",")));
    if (s.task) parts.push("--task", s.task);
    if (this.labelled() && Number(s.labels) !== 2) parts.push("--num-labels", s.labels);
    if (of === "memory") parts = parts.concat(this.stepOptions());
    else if (s.dtype !== "float32") parts.push("--dtype", s.dtype);
    return parts.join(" ");
  }
  literal(spec, value) {
    if (spec.type === "choice") return JSON.stringify(value);
    if (spec.type === "bool") return /^(true|1)$/i.test(String(value)) ? "True" : "False";
    return spec.type === "float" && /^-?\d+$/.test(String(value)) ? value + ".0" : String(value);
  }
  python(of) {
    var self = this, s = this.state, args = [JSON.stringify(this.pasted ? "./config.json" : s.model)];
    this.specs().forEach(function (h) { if (h.name in s.values) args.push(h.name + "=" + self.literal(h, s.values[h.name])); });
    if (s.targets) args.push("targets=" + list(s.targets));
    if (s.modules) args.push("target_modules=" + (s.modules === "all-linear" ? '"all-linear"' : list(s.modules)));
    if (s.task) args.push("task=" + JSON.stringify(s.task));
    if (this.labelled() && Number(s.labels) !== 2) args.push("num_labels=" + s.labels);
    if (of === "memory") this.stepArguments().forEach(function (a) { args.push(a[0] + "=" + (typeof a[1] === "number" ? a[1] : typeof a[1] === "boolean" ? (a[1] ? "True" : "False") : JSON.stringify(a[1]))); });
    else if (s.dtype !== "float32") args.push("dtype=" + JSON.stringify(s.dtype));
    return "import peftonomy\n\n" + of + " = peftonomy.load()[" + JSON.stringify(s.method) + "]." + of + "(" + args.join(", ") + ")";
  }
  /* peft's config, where the entry names its class and says how the hyperparameters are called there. */
  peft() {
    var self = this, s = this.state, found = peft.data.methods[s.method].libraries.hf_peft, question = this.question();
    if (!found || !/^\w+Config$/.test(found.symbol || "") || (!Object.keys(found.rename).length && this.specs().length)) return "";
    var answer = tried(function () { return { cost: peft.cost(s.method, question), names: self.takesTargets() ? peft.suffixes(s.method, question) : undefined }; }).value;
    if (!answer || answer.names === null) return "";
    var model = this.backbone(), task = s.task || model.default_task, said = peft.python.coded(Object.assign({}, found.set, peft.written(s.method, question, "hf_peft")));
    this.specs().forEach(function (h) {
      var value = answer.cost.hyperparameters[h.name], name = found.rename[h.name] || (found.type ? "" : h.name);
      if (!name) return;
      peft.python.put(said, name.split("."), found.counted.indexOf(name) >= 0 ? "list(range(" + value + "))" :
        found.files.indexOf(name) >= 0 ? '{str(n): f"path/to/{n}" for n in range(' + value + ")}" :
        self.literal(h, found.loud.indexOf(name) >= 0 ? String(value).toUpperCase() : value));
    });
    var args = Object.keys(said).map(function (name) { return name + "=" + peft.python.spelled(said[name]); });
    if (answer.names && found.aimed) args.push("target_modules=" + (answer.names === "all-linear" ? '"all-linear"' : list(answer.names)));
    var known = [task].concat(peft.modules(question).computed);
    var type = peft.data.tasks.types.filter(function (t) { return known.indexOf(t.task) >= 0 && (!t.kind || t.kind === model.family.kind); })[0];
    if (type) args.push('task_type="' + type.type + '"');
    return "from peft import " + found.symbol + "\n\nconfig = " + found.symbol + "(" + args.join(", ") + ")";
  }
}
