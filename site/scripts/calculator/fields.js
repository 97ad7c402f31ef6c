/* An element with labelled fields, each with a note that explains it. `uid` makes their ids differ from those of other elements. */

class Fields extends HTMLElement {
  field(name, label, control, hint) {
    control.id = this.uid + "-" + name;
    var note = make("small", { id: control.id + "-note" }, hint || "");
    control.setAttribute("aria-describedby", note.id);
    return make("div", { class: "pf-field", "data-field": name }, [make("label", { for: control.id }, label), control, note]);
  }
  select(name, label, options, value, onchange, hint) {
    var control = make("select", { class: "pf-input" }, options.map(function (o) {
      return make("option", { value: o[0], selected: String(o[0]) === String(value) }, o[1]);
    }));
    control.addEventListener("change", function () { onchange(control.value); });
    return this.field(name, label, control, hint);
  }
  input(name, label, value, kind, onchange, hint) {
    var mode = { number: "numeric", decimal: "decimal" }[kind] || "text";
    var control = make("input", { class: "pf-input", type: "text", inputmode: mode, value: String(value), autocomplete: "off", spellcheck: "false" });
    control.addEventListener("input", function () { onchange(control.value.trim()); });
    return this.field(name, label, control, hint);
  }
  /* A text field with suggestions. */
  suggested(name, label, value, options, onchange, hint) {
    var list = make("datalist", { id: this.uid + "-" + name + "-list" }, options.map(function (o) { return make("option", { value: o[0] }, o[1]); }));
    var field = this.input(name, label, value, "text", onchange, hint);
    field.querySelector("input").setAttribute("list", list.id);
    field.append(list);
    return field;
  }
  tick(name, label, checked, onchange, hint) {
    var box = make("input", { type: "checkbox", id: this.uid + "-" + name, checked: checked });
    box.addEventListener("change", function () { onchange(box.checked); });
    return make("div", { class: "pf-tick" }, [box, make("label", { for: box.id }, [label, hint ? make("small", {}, hint) : null])]);
  }
  /* Small buttons of which one is pressed. */
  choice(label, options, value, onchange) {
    return make("div", { class: "pf-seg", role: "group", "aria-label": label }, options.map(function (o) {
      return make("button", { type: "button", "aria-pressed": String(o[0] === value), onclick: function () { onchange(o[0]); } }, o[1]);
    }));
  }
  wrong(name, message) {
    var field = this.querySelector('[data-field="' + name + '"]');
    if (!field) return;
    var control = field.querySelector("input, select, textarea");
    control.setAttribute("aria-invalid", message ? "true" : "false");
  }
}
