/* The guided choice: methods for a model, a GPU, a training step and some requirements, with settings that fit, what was
   relaxed and why, and the code. After calculator.js, choices.js and chooser.js. */
"use strict";

(function () {
  var make = pf.make, number = pf.number, FIRST = 5, MOST = 20;

  class Choose extends pf.Tool {
    start() {
      var q = this.query, s = this.state, known = peft.choices;
      s.gpu = q.get("gpu") || "";
      s.needs = pf.words(q.get("need")).filter(function (need) {
        var there = Object.keys(known.wishes).indexOf(need) >= 0;
        if (!there) q.refuse("the requirement", need, Object.keys(known.wishes));
        return there;
      });
      s.library = q.one("library", ["any"].concat(this.libraries())) || "";
      s.trained = q.get("trained") || "";
      s.by = q.one("by", Object.keys(known.priorities)) || Object.keys(known.priorities)[0];
      s.anywhere = q.flag("anywhere");
      s.n = FIRST;
      this.form = make("form", { class: "pf-calc__form pf-calc__form--still", "aria-label": "Your case" });
      this.form.addEventListener("submit", function (event) { event.preventDefault(); });
      this.out = make("div", { class: "pf-calc__out", "aria-live": "polite" });
      this.replaceChildren(make("div", { class: "pf-calc" }, [this.form, this.out]));
      this.settle();
      this.build();
    }
    get shares() { return ["gpus", "shard"]; }
    libraries() { return Object.keys(peft.choices.names); }
    write() {
      var s = this.state, query = this.writeModel(new URLSearchParams());
      if (s.gpu) query.set("gpu", s.gpu);
      this.writeStep(query);
      if (s.needs.length) query.set("need", s.needs.join(","));
      if (s.library) query.set("library", s.library);
      if (s.trained) query.set("trained", s.trained);
      if (s.by !== Object.keys(peft.choices.priorities)[0]) query.set("by", s.by);
      if (s.anywhere) query.set("anywhere", "1");
      this.address(query);
    }
    build() {
      var self = this, s = this.state, known = peft.choices;
      function change(key) { return function (v) { s[key] = v; s.n = FIRST; self.show(); self.write(); }; }
      function stepped() { s.n = FIRST; self.show(); self.write(); }
      var gpus = known.gpus.map(function (g) { return [g.name, pf.binary(g.mib * Math.pow(2, 20)) + (g.how === "nominal" ? ", nominal" : "")]; });
      if (!this.steps) {
        var all = this.stepFields(stepped);
        this.lengths = all[0];
        this.several = all[all.length - 1];
        this.steps = make("details", { class: "pf-details" }, [make("summary", {}, "More settings"), make("div", { class: "pf-stepfields" }, [
          this.input("trained", "Trained at most", s.trained, "text", change("trained"), "10M, 250k, 1e6, or 0.1% of the model"),
          this.tick("anywhere", "also methods outside libraries", s.anywhere, change("anywhere"), "ranked like all others")
        ].concat(all.slice(1, -1)))]);
        this.steps.open = Boolean(s.trained || s.anywhere);
      }
      this.form.replaceChildren.apply(this.form, this.modelFields().concat([
        this.suggested("gpu", "GPU", s.gpu, gpus, change("gpu"), "A name such as A100 80GB, 4090 or T4, or its memory such as 24 GiB."),
        this.lengths, this.several,
        make("fieldset", { class: "pf-wishes" }, [make("legend", {}, "Requirements")].concat(Object.keys(known.wishes).map(function (id) {
          return self.tick("need-" + id, known.wishes[id].name, s.needs.indexOf(id) >= 0, function (on) {
            s.needs = Object.keys(known.wishes).filter(function (w) { return w === id ? on : s.needs.indexOf(w) >= 0; });
            stepped();
          });
        }), this.tick("nf4", "trains over a base in NF4", s.step.quantized === "nf4", function (on) {
          s.step.quantized = on ? "nf4" : null;
          var control = self.querySelector('[data-field="quantized"] select');
          if (control) control.value = s.step.quantized || "";
          stepped();
        }, "4-bit, as in QLoRA"))),
        this.select("library", "In a library or trainer", [["", "does not matter"], ["any", "any"]].concat(this.libraries().map(function (k) { return [k, peft.choices.names[k]]; })), s.library, change("library")),
        this.select("by", "Rank by", Object.keys(known.priorities).map(function (k) { return [k, known.priorities[k][0]]; }), s.by, change("by")),
        this.steps
      ]));
      this.show();
    }
    wishes(gpu) {
      var s = this.state, setting = this.setting(), sharing = setting.gpus === null ? null : { gpus: setting.gpus, shard: setting.shard };
      delete setting.gpus;
      delete setting.shard;
      return { gpu: gpu, setting: setting, sharing: sharing, needs: s.needs, library: s.library || null, trained: s.trained, by: s.by, anywhere: s.anywhere };
    }
    /* Say what is wrong with a field, below it. */
    complain(name, message) {
      var field = this.querySelector('[data-field="' + name + '"]'), note = field && field.querySelector("small");
      if (!field) return;
      if (!("hint" in note.dataset)) note.dataset.hint = note.textContent;
      this.wrong(name, message);
      note.className = message ? "pf-error" : "";
      note.textContent = message || note.dataset.hint;
    }
    /* Count the methods a few at a time, so that typing goes on meanwhile. */
    show() {
      var self = this, s = this.state, question = this.question(), gpu, choice;
      if (this.stop) this.stop();
      this.stop = null;
      ["gpu", "trained", "batch", "seq", "gpus", "optimizer", "quantized"].forEach(function (name) { self.complain(name, ""); });
      this.showLength();
      if (!question) { this.out.replaceChildren(this.waiting()); return; }
      if (!s.gpu.trim()) { this.out.replaceChildren(this.invite()); return; }
      if (!this.remembers()) { this.out.replaceChildren(this.loading()); return; }
      gpu = pf.tried(function () { return peft.gpuMemory(s.gpu); });
      if (gpu.problem) { this.complain("gpu", gpu.problem.message); this.out.replaceChildren(this.problem(gpu.problem.message)); return; }
      var wishes = this.wishes(gpu.value), bad = ["batch", "seq"].filter(function (name) { var asked = wishes.setting[name]; return asked !== null && (typeof asked !== "number" || asked < 1); })[0];
      if (bad) { this.complain(bad, "A whole number from 1."); this.out.replaceChildren(this.problem("Batch and length are whole numbers from 1.")); return; }
      choice = pf.tried(function () { return peft.choosing(question, wishes, s.n, []); });
      if (choice.problem) {
        this.complain(choice.problem.field || "trained", choice.problem.message);
        this.out.replaceChildren(this.problem(choice.problem.message));
        return;
      }
      this.run(choice.value, wishes, question);
    }
    run(choice, wishes, question) {
      var self = this, stopped = false, told = false;
      this.stop = function () { stopped = true; };
      (function some() {
        for (var end = performance.now() + 12; performance.now() < end;) {
          if (stopped) return;
          if (choice.step()) { self.stop = null; self.answer(choice.answer(), wishes, question); return; }
        }
        if (!told && !self.out.querySelector(".pf-choice")) self.out.replaceChildren(make("p", { class: "pf-muted pf-wait" }, "Counting…"));
        told = true;
        setTimeout(some);
      })();
    }
    invite() {
      var self = this, s = this.state;
      return make("div", { class: "pf-wait" }, [
        make("p", {}, "Name your GPU, or give its memory, to get three to five methods with settings that fit."),
        make("p", { class: "pf-actions" }, ["T4", "RTX 4090", "A100 80GB"].filter(function (name) { return peft.gpusNamed(name).length; }).map(function (name) {
          return make("button", { type: "button", class: "pf-button", onclick: function () {
            s.gpu = name;
            self.querySelector('[data-field="gpu"] input').value = name;
            self.show();
            self.write();
          } }, name);
        }))
      ]);
    }
    nameOf(id) { return peft.data.methods[id].name; }
    link(id) { return [make("span", { class: "pf-dot hue-" + peft.data.methods[id].hue, "aria-hidden": "true" }), " ", make("a", { href: "methods/" + id + ".html" }, this.nameOf(id))]; }
    relaxation(name) { return peft.choices.relaxations[name]; }
    /* What was relaxed, in words: "gradient checkpointing and a base in NF4". */
    with_(c) {
      var words = c.relaxed.map(function (name) { return this.relaxation(name)[1] + (name === "batch" ? " (" + c.setting.batch + ")" : ""); }, this);
      return words.length > 1 ? words.slice(0, -1).join(", ") + " and " + words[words.length - 1] : words.join("");
    }
    answer(answer, wishes, question) {
      var self = this, s = this.state, first = answer.found[0], size = pf.binary(wishes.gpu), each = wishes.sharing ? " each of " + number(wishes.sharing.gpus) + " GPUs" : "";
      var head = first ? [make("strong", { "data-out": "first" }, this.nameOf(first.method)), " fits " + this.modelName() + " on " + size + each + (first.relaxed.length ? " with " + this.with_(first) : " as asked") + "."] :
        ["No method fits " + this.modelName() + " on " + size + each + " with these requirements."];
      var cards = answer.found.map(function (c, i) { return self.card(c, i, wishes, question); });
      var more = answer.found.length === s.n && s.n < MOST ? make("button", { type: "button", class: "pf-button", onclick: function () {
        var at = s.n;
        s.n = Math.min(MOST, s.n + FIRST);
        self.focusOn = at;
        self.show();
      } }, "Show more") : "";
      this.out.replaceChildren.apply(this.out, [
        make("p", { class: "pf-decision", role: "status" }, head),
        cards.length ? make("ol", { class: "pf-choices" }, cards) : "", more,
        this.refusals(answer.refused, wishes, !cards.length), this.criteria(wishes), this.command(wishes)
      ].filter(Boolean));
      if (this.focusOn && cards[this.focusOn]) cards[this.focusOn].querySelector("a").focus({ preventScroll: true });
      this.focusOn = 0;
    }
    card(c, i, wishes, question) {
      var self = this, method = peft.data.methods[c.method], use = peft.choices.use[c.method];
      var query = this.writeModel(new URLSearchParams({ method: c.method })), before = this.state.step;
      Object.keys(c.given).forEach(function (k) { query.set(pf.key(k), c.given[k]); });
      this.state.step = Object.assign({}, c.setting, { batch: String(c.setting.batch), seq: c.setting.seq === null ? before.seq : String(c.setting.seq), gpus: String(c.setting.gpus || before.gpus), shard: c.setting.shard || before.shard });
      this.writeStep(query);
      this.state.step = before;
      var largest = peft.fit(c.method, Object.assign({}, question, { values: c.given }), c.setting, "batch", wishes.gpu).value;
      var setting = Object.keys(c.hyperparameters).map(function (k) { return k + " = " + c.hyperparameters[k]; }).join(", ") || "nothing to set";
      var why = [c.libraries.length ? "In " + c.libraries.map(function (k) { return peft.choices.names[k]; }).join(", ") : "In no library", use[1] ? number(-use[1]) + (use[1] === -1 ? " method here builds on it" : " methods here build on it") : ""].filter(Boolean).join("; ") + ".";
      return make("li", { class: "pf-choice", "data-choice": c.method }, [
        make("h2", {}, this.link(c.method)), make("p", { class: "pf-choice__summary" }, method.summary),
        make("dl", { class: "pf-choice__facts" }, [
          this.fact("Memory", pf.binary(c.bytes), "of " + pf.binary(wishes.gpu) + (wishes.sharing ? ", on each GPU" : "")), this.fact("Largest batch", number(largest), (wishes.sharing ? "on each GPU, " : "") + (c.setting.seq === null ? "in a step" : "at this length")),
          this.fact("Trained", number(c.trained), pf.percent(c.percent)),
          this.fact("Checkpoint", pf.bytes(c.stored_bytes), "for each task"), this.fact("Setting", make("a", { href: "calculator.html?" + query }, setting), Object.keys(c.given).length ? "made smaller for the budget" : "the default")
        ]),
        this.bars(c, wishes, question), this.reasons(c), this.evidence(c.evidence), this.ours(c.ours),
        make("p", { class: "pf-small pf-muted" }, why), this.code(c, question)
      ]);
    }
    fact(name, value, note) { return make("div", {}, [make("dt", {}, name), make("dd", {}, [value, make("small", {}, note)])]); }
    /* The memory of the step as asked, and after each relaxation in turn, against the line of the GPU. */
    bars(c, wishes, question) {
      var self = this, set = Object.assign({}, question, { values: c.given }), names = c.relaxed.slice(), rows = c.steps.map(function (bytes, i) { return [i ? names[i - 1] : "", bytes, true]; });
      var further = Object.keys(peft.choices.relaxations).filter(function (name) { return name !== "batch" && names.indexOf(name) < 0; }), setting = c.setting;
      further.forEach(function (name) {   // what more would save, for reference
        var next = Object.assign({}, setting, self.relaxation(name)[0]);
        if (JSON.stringify(next) === JSON.stringify(setting)) return;
        var found = pf.tried(function () { return peft.memory(c.method, set, next); });
        if (!found.value) return;
        var bytes = found.value.peak + found.value.gpu_extra_estimate;
        if (bytes > 0.99 * rows[rows.length - 1][1]) return;   // too little to be worth a line
        setting = next;
        rows.push([name, bytes, false]);
      });
      var most = Math.max.apply(null, rows.map(function (r) { return r[1]; }).concat(wishes.gpu)) * 1.02;
      return make("figure", { class: "pf-bars" }, [
        make("figcaption", { class: "pf-visually-hidden" }, "Memory of a training step against " + pf.binary(wishes.gpu)),
        make("ul", {}, rows.map(function (r) {
          var bar = make("span", { class: "pf-bars__track", "aria-hidden": "true" }, [make("i", {}), make("b", {})]), over = r[1] > wishes.gpu;
          bar.firstChild.style.width = 100 * r[1] / most + "%";
          bar.lastChild.style.left = 100 * wishes.gpu / most + "%";
          return make("li", { class: (over ? "is-over " : "") + (r[2] ? "is-used" : "is-further") }, [
            make("span", { class: "pf-bars__name" }, (r[0] ? (r[2] ? "with " : "could add ") + self.relaxation(r[0])[1] : "as asked")),
            bar, make("span", { class: "pf-bars__value pf-num" }, [pf.binary(r[1]), over ? make("span", { class: "pf-visually-hidden" }, ", too much") : ""])
          ]);
        }))
      ]);
    }
    /* Why each relaxation was made, with what it saves. */
    reasons(c) {
      var self = this, extra = c.accumulate > 1 ? " Add up the gradients of " + c.accumulate + " batches to keep " + self.state.step.batch + " sequences in each update." : "";
      return c.relaxed.length ? make("ul", { class: "pf-choice__why" }, c.relaxed.map(function (name, i) {
        var title = self.relaxation(name)[1];
        return make("li", {}, [make("strong", {}, title.charAt(0).toUpperCase() + title.slice(1)), ": " + pf.binary(c.steps[i]) + " → " + pf.binary(c.steps[i + 1]) + ". " + self.relaxation(name)[2] + (name === "batch" ? extra : "")]);
      })) : "";
    }
    /* The best published run of the method, where there is one. */
    evidence(run) {
      if (!run) return "";
      var study = peft.choices.studies[run.study], shown = study.share ? (100 * run.value).toFixed(1) + " %" : Number(run.value.toPrecision(3));
      return make("p", { class: "pf-choice__evidence" }, [
        make("strong", {}, study.metric + " " + shown), " with " + study.model + (run.trained ? ", " + number(run.trained) + " trained" : "") + " (", make("a", { href: "measured.html" }, study.name), "). ", make("span", { class: "pf-muted" }, study.limits)
      ]);
    }
    /* The arm of our own study, where there is one. */
    ours(arm) {
      if (!arm) return "";
      var study = peft.oursFor(this.backbone());
      function share(v) { return (100 * v).toFixed(1); }
      return make("p", { class: "pf-choice__evidence", "data-ours": true }, [
        make("strong", {}, study.metric.charAt(0).toUpperCase() + study.metric.slice(1) + " " + share(arm.value) + " %"), " (" + share(arm.low) + " to " + share(arm.high) + "), group " + arm.group + " of " + study.groups + " in ",
        make("a", { href: "measured.html#own-" + study.study.replace(/_/g, "-") }, "our study " + study.study), ". ", make("span", { class: "pf-muted" }, study.about + " " + study.finished + " of " + study.arms + " arms so far. An arm cannot be told apart from the best of its group.")
      ]);
    }
    code(c, question) {
      var text = pf.tried(function () { return peft.script(c, question); }).value;
      var shard = c.setting.gpus ? c.setting.shard : null, coded = peft.choices.coded;
      if (shard && shard !== coded) return make("p", { class: "pf-small pf-muted" }, "The code is written for one GPU, or for " + coded + ".");
      if (!text) {
        var key = peft.elsewhere(c), about = "PEFT has no configuration for this method that can be written here.";
        if (!key) return make("p", { class: "pf-small pf-muted" }, about);
        return make("p", { class: "pf-small" }, [about + " Its program for " + peft.choices.names[key] + ": ", make("code", {}, this.asked() + " " + c.method + " --code")]);
      }
      var otherwise = peft.choices.otherwise.indexOf(c.method) < 0 ? "" : make("p", { class: "pf-small pf-muted", "data-otherwise": true }, [
        "PEFT may train another number of parameters. How many, this says: ", make("code", {}, this.asked() + " " + c.method + " --code")
      ]);
      return make("details", { class: "pf-details" }, [make("summary", {}, "Code for PEFT"), otherwise, make("div", { class: "pf-calc__foot" }, [
        make("div", { class: "pf-calc__bar" }, make("button", { type: "button", class: "pf-button", "data-copy-text": text }, "Copy")),
        make("div", { class: "pf-command pf-command--block", tabindex: "0", role: "region", "aria-label": "Code for " + this.nameOf(c.method) }, text)
      ])]);
    }
    /* Better ranked methods that do not fit, with what would make them fit. */
    refusals(refused, wishes, none) {
      var self = this, shown = refused.slice(0, none ? 12 : 8);
      if (!shown.length) return "";
      return make("section", { class: "pf-refusals" }, [
        make("h2", {}, none ? "What would make them fit" : "Ranked above, and left out"),
        make("ul", {}, shown.map(function (r) {
          var gpu = r.bytes && peft.choices.gpus.filter(function (g) { return g.mib * Math.pow(2, 20) >= r.bytes; }).sort(function (a, b) { return a.mib - b.mib; })[0];
          return make("li", { "data-refused": r.method }, self.link(r.method).concat(": " + r.reasons.join("; ") + "." + (gpu ? " A GPU with " + pf.binary(gpu.mib * Math.pow(2, 20)) + " would hold it, such as " + gpu.name + "." : "")));
        })),
        refused.length > shown.length ? make("p", { class: "pf-small pf-muted" }, "And " + number(refused.length - shown.length) + " more.") : ""
      ]);
    }
    criteria(wishes) {
      var s = this.state;
      return make("p", { class: "pf-small pf-muted" }, (s.anywhere ? "" : "Methods in a library come first. ") + "They are ranked by " + peft.choices.priorities[s.by][1] + ". Ties: the most used, then the oldest. Each method has its default setting; the size is halved where a budget asks for it. Memory is the peak of a training step with an estimate of what a GPU adds." + (wishes.sharing ? " Not covered: " + peft.data.training.sharding.not_covered + "." : ""));
    }
    /* The same question as a command. */
    asked() {
      var s = this.state, parts = ["peftonomy choose --model", this.pasted ? "config.json" : s.model, "--gpu", quoted(/^[\d.]+$/.test(s.gpu.trim()) && !peft.gpusNamed(s.gpu).length ? s.gpu.trim() + "GiB" : s.gpu.trim())];
      parts = parts.concat(this.stepOptions());
      if (s.task) parts.push("--task", s.task);
      if (this.labelled() && Number(s.labels) !== 2) parts.push("--num-labels", s.labels);
      s.needs.forEach(function (need) { parts.push("--need", need); });
      if (s.library) parts.push("--library", s.library);
      if (s.trained) parts.push("--trained", quoted(s.trained));
      if (s.by !== Object.keys(peft.choices.priorities)[0]) parts.push("--by", s.by);
      if (s.anywhere) parts.push("--anywhere");
      return parts.join(" ");
    }
    command() {
      var text = this.asked();
      return make("div", { class: "pf-actions" }, [make("code", { class: "pf-choice__command" }, text), make("button", { type: "button", class: "pf-button", "data-copy-text": text }, "Copy command"), make("button", { type: "button", class: "pf-button", "data-copy-address": true }, "Copy link")]);
    }
  }
  function quoted(word) { return /^[\w.,:=+\/%-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'"; }
  customElements.define("peft-choose", Choose);
})();
