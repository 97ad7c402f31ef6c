/* The search's dialog. The ranking and the index (search.js, search-data.js) are fetched when it is first opened. What it
   lists is always computed from the field's present text, at once: there is no worker that could answer late. */
"use strict";

(function () {
  var make = pf.make, root = new URL("..", document.currentScript.src);
  var SCRIPTS = ["vendor/minisearch/minisearch", "search", "search-data"];
  var HINT = "Methods, models, categories, pages, references and deviations";
  var box = null, field, list, status, found = [], active = -1;

  function built() {
    if (box) return;
    field = make("input", {
      class: "pf-search__field", type: "text", inputmode: "search", enterkeyhint: "go", role: "combobox", placeholder: "Search", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
      "aria-label": "Search", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": "pf-search-list", oninput: show, onkeydown: key
    });
    list = make("div", { class: "pf-search__list", id: "pf-search-list", role: "listbox", "aria-label": "Results", hidden: true });
    status = make("p", { class: "pf-search__status", role: "status" }, HINT);
    box = make("dialog", { class: "pf-search", "aria-label": "Search" }, [
      make("div", { class: "pf-search__bar", role: "search" }, [field, make("button", { type: "button", class: "pf-search__close", "aria-label": "Esc: close the search", onclick: function () { box.close(); } }, "Esc")]),
      status, list
    ]);
    box.addEventListener("click", function (event) { if (event.target === box || event.target.closest("a")) box.close(); });
    document.body.append(box);
  }
  function open() {
    built();
    if (!box.open) box.showModal();
    field.focus();
    field.select();
    pf.fetched("search", SCRIPTS, show);
    show();
  }
  function show() {
    var words = field.value.trim(), ready = typeof pfSearch !== "undefined" && pfSearch.ready;
    found = words && ready ? pfSearch.find(words) : [];
    list.replaceChildren.apply(list, found.map(function (card, i) { return option(card, i, words); }));
    list.hidden = !found.length;
    list.scrollTop = 0;
    field.setAttribute("aria-expanded", String(!!found.length));
    status.textContent = !words ? HINT : !ready ? "Loading…" : !found.length ? "Nothing found for “" + words + "”" : found.length === 1 ? "1 result" : found.length + " results";
    activate(found.length ? 0 : -1);
  }
  function option(card, i, words) {
    return make("a", { class: "pf-found", role: "option", id: "pf-found-" + i, tabindex: "-1", href: new URL(card.href, root).href, "aria-selected": "false" }, [
      make("span", { class: "pf-found__head" }, [make("strong", {}, marked(card.title, words)), make("span", { class: "pf-tag pf-found__kind" }, card.kindName)]),
      card.where ? make("span", { class: "pf-found__where" }, card.where) : null,
      card.summary ? make("span", { class: "pf-found__summary" }, marked(card.summary, words)) : null
    ]);
  }
  function marked(text, words) {
    return pfSearch.marked(text, words).map(function (part) { return part[1] ? make("mark", {}, part[0]) : part[0]; });
  }
  function activate(next) {
    var before = list.children[active], now = list.children[next];
    if (before) before.setAttribute("aria-selected", "false");
    active = next;
    if (!now) { field.removeAttribute("aria-activedescendant"); return; }
    now.setAttribute("aria-selected", "true");
    field.setAttribute("aria-activedescendant", now.id);
    now.scrollIntoView({ block: "nearest" });
  }
  function key(event) {
    var move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move && found.length) {
      event.preventDefault();
      activate((active + move + found.length) % found.length);
    } else if (event.key === "Enter" && !event.isComposing && list.children[active]) {
      event.preventDefault();
      list.children[active].click();
    }
  }

  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-search-open]")) open();
  });
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape" && box && box.open && !event.isComposing) {   // the browser itself would close it, a moment later
      event.preventDefault();
      box.close();
      return;
    }
    var typing = event.target.closest("input, textarea, select, [contenteditable]");
    var wanted = event.key === "/" ? !typing && !event.ctrlKey && !event.metaKey && !event.altKey : event.key === "k" && (event.ctrlKey || event.metaKey);
    if (!wanted) return;
    event.preventDefault();
    open();
  });
})();
