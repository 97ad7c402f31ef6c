/* Models by any of their names. */

var VARIANT = /^(instruct|chat|it|base|hf|bnb|unsloth|4bit|8bit|awq|gptq|gguf|fp8|int4|int8)*$/;
function fold(text) { return text.toLowerCase().replace(/[^a-z0-9]/g, ""); }

/* Every name of a model, folded: its id, its name, its name on the Hub, and that without the owner, as mirrors have it. */
function namesOf(id) {
  var hub = peft.data.models[id].hub || "", cut = hub.indexOf("/"), repository = hub.slice(cut + 1);
  return [id, peft.data.models[id].name, hub, repository, cut > 0 ? hub.split(/[-\/]/)[0] + repository : ""].filter(Boolean).map(fold);
}
/* The models that a text may mean, and whether it names a variant of one: {ids, variant}. */
function modelsNamed(text) {
  var ids = Object.keys(peft.data.models), asked = fold(text), part = fold(text.slice(text.lastIndexOf("/") + 1));
  function having(test) { return ids.filter(function (id) { return namesOf(id).some(test); }); }
  if (!asked) return { ids: [] };
  var exact = having(function (n) { return n === asked; });
  if (!exact.length && text.indexOf("/") >= 0) exact = having(function (n) { return n === part; });
  if (exact.length) return { ids: exact };
  var longest = 0, found = [];
  ids.forEach(function (id) {
    namesOf(id).forEach(function (n) {
      if (part.slice(0, n.length) !== n || n.length < longest || !VARIANT.test(part.slice(n.length))) return;
      if (n.length > longest) found = [];
      longest = n.length;
      found.push(id);
    });
  });
  if (found.length) return { ids: Array.from(new Set(found)), variant: true };
  var words = text.toLowerCase().split(/[^a-z0-9.]+/).map(fold).filter(Boolean);
  return { ids: ids.filter(function (id) { var all = namesOf(id).join(" "); return words.every(function (w) { return all.indexOf(w) >= 0; }); }) };
}
/* What the field of the model says about the models that its text may mean. */
function modelNote(found) {
  var models = peft.data.models, names = found.ids.slice(0, 5).map(function (id) { return models[id].name; }).join(", ");
  if (found.ids.length === 1) return found.variant ? "Counted as " + names + ", whose shapes a variant shares." : models[found.ids[0]].hub || "";
  return found.ids.length ? "Several models: " + names + (found.ids.length > 5 ? ", …" : ".") : "No model here has this name. Paste its config.json instead.";
}
