/* The search: ranks the cards of search-data.js with MiniSearch. It has no worker and no DOM: `find` returns at once.
   A query is folded, stripped of stop words and cut into groups: a word, or a phrase of the synonyms with its other forms.
   A card's score is the sum over the groups that it matches, times the share of groups that it matches, its kind's weight
   and its own. An exact name adds to that. */
"use strict";

var pfSearch = (function () {
  var FIELDS = { title: 6, names: 4, where: 1.5, summary: 2, text: 1 }, SYNONYM = 0.6, EXACT = 90, WHOLE = 0.7, BEGINNING = 20, MOST = 30;
  var STRICT = { prefix: prefixed, fuzzy: edits, maxFuzzy: 2, weights: { prefix: 0.5, fuzzy: 0.3 }, boost: FIELDS };
  var LOOSE = Object.assign({}, STRICT, { prefix: true, fuzzy: 0.45, maxFuzzy: 4 });
  var PLAIN = /^[\x00-\x7f]*$/;   // most texts; they need no rule of Unicode
  var kinds = {}, cards = [], index = null, called = new Map(), stems = new Map(), stop = new Set(), phrases = new Map(), longest = 1;

  function prefixed(term) { return term.length > 1; }
  function edits(term) { return term.length < 4 || /\d/.test(term) ? 0 : term.length < 7 ? 1 : 2; }

  /* "(IA)³" as "(ia)3", "Café" as "cafe". */
  function fold(text) {
    if (PLAIN.test(text)) return text.toLowerCase();
    return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  }
  function words(text) {
    text = fold(text);
    return text.match(PLAIN.test(text) ? /\+*[a-z0-9][a-z0-9+]*/g : /\+*[\p{L}\p{N}][\p{L}\p{N}+]*/gu) || [];
  }
  /* One form for singular and plural, and for British and American spelling. */
  function stem(word) {
    var found = stems.get(word);
    if (found === undefined) stems.set(word, found = stemmed(word));
    return found;
  }
  function stemmed(word) {
    word = word.replace(/\+/g, "");
    if (word.length < 4 || /\d/.test(word)) return word;
    return word.replace(/ies$/, "y").replace(/([^su])s$/, "$1").replace(/is(e|ed|er|ing|ation|able)$/, "iz$1")
      .replace(/ys(e|ed|ing)$/, "yz$1").replace(/our$/, "or").replace(/ours?(ed|ing|al|able)$/, "or$1")
      .replace(/ll(ed|ing|er)$/, "l$1").replace(/^(.*)tre$/, "$1ter").replace(/gramme$/, "gram");
  }
  /* Letters, digits and plus signs of a name: "(IA)^3" as "ia3". */
  function key(text) { return fold(text).replace(/[^\p{L}\p{N}+]/gu, ""); }

  function load(record) {
    kinds = record.kinds;
    stop = new Set(record.stop.map(stem));
    cards = record.cards.map(function (row, id) {
      return { id: id, kind: row[0], href: row[1], title: row[2], where: row[3], names: row[4], summary: row[5], text: row[6], weight: row[7] * kinds[row[0]][1] };
    });
    called = new Map();
    cards.forEach(function (card) {
      [card.title].concat(card.names.split(" | ")).forEach(function (name, i) {
        if (!key(name)) return;
        if (!called.has(key(name))) called.set(key(name), []);
        called.get(key(name)).push([card.id, i ? WHOLE : 1]);
      });
    });
    phrases = new Map();
    record.synonyms.forEach(function (group) {
      var forms = group.map(function (phrase) { return { words: content(words(phrase)), name: key(phrase), share: SYNONYM }; });
      forms.forEach(function (form) {
        var said = form.words.join(" ");
        phrases.set(said, (phrases.get(said) || []).concat(forms.filter(function (f) { return f !== form; })));
        longest = Math.max(longest, form.words.length);
      });
    });
    index = null;
  }
  /* Made at the first question: a tenth of a second. */
  function made() {
    if (index) return index;
    index = new MiniSearch({
      fields: Object.keys(FIELDS), tokenize: tokens, processTerm: function (term) { return term; }
    });
    index.addAll(cards);
    return index;
  }
  /* Words of a field, and names of several words as one: "prefixtuning". */
  function tokens(text, field) {
    var found = words(text).map(stem);
    if (field === "title" || field === "names") text.split(" | ").forEach(function (name) {
      var parts = words(name);
      if (parts.length > 1 && parts.length < 5) found.push(key(name).replace(/\+/g, ""));
    });
    return found;
  }
  /* Stems without stop words; all of them if there are no others. */
  function content(list) {
    var stems = list.map(stem), kept = stems.filter(function (w) { return !stop.has(w); });
    return kept.length ? kept : stems;
  }
  /* The query in groups of forms: what was asked, and what means the same. */
  function groups(stems) {
    var out = [];
    for (var i = 0; i < stems.length; ) {
      for (var n = Math.min(longest, stems.length - i); n > 1 && !phrases.has(stems.slice(i, i + n).join(" ")); n--);
      var own = stems.slice(i, i + n);
      out.push({ size: n, forms: [{ words: own, name: "", share: 1 }].concat(phrases.get(own.join(" ")) || []) });
      i += n;
    }
    return out;
  }
  /* The best score of each card over the forms of a group. */
  function scored(group, how) {
    var best = new Map();
    group.forms.forEach(function (form) {
      function better(id, score) { if (score > (best.get(id) || 0)) best.set(id, score); }
      var asked = Object.assign({ combineWith: "AND", tokenize: function () { return form.words; } }, how);
      if (form.share < 1) Object.assign(asked, { prefix: false, fuzzy: false });
      made().search(form.words.join(" "), asked).forEach(function (found) { better(found.id, found.score * form.share); });
      (called.get(form.name) || []).forEach(function (c) { better(c[0], (best.get(c[0]) || 0) + EXACT * form.share * c[1]); });
    });
    return best;
  }
  function ranked(stems, how) {
    var asked = groups(stems), all = asked.reduce(function (n, g) { return n + g.size; }, 0), total = new Map();
    asked.forEach(function (group) {
      scored(group, how).forEach(function (score, id) {
        var found = total.get(id) || [0, 0];
        total.set(id, [found[0] + score, found[1] + group.size]);
      });
    });
    total.forEach(function (found, id) { total.set(id, found[0] * found[1] / all); });
    return total;
  }
  /* The cards whose name is in the query, with the share of its words that the name takes: from WHOLE if it is the query. */
  function named(list) {
    var found = new Map(), kept = list.filter(function (w) { return !stop.has(stem(w)); });
    [list, kept].forEach(function (words) {
      words.forEach(function (_, from) {
        for (var to = words.length; to > from; to--) {
          (called.get(words.slice(from, to).join("")) || []).forEach(function (c) {
            var share = c[1] * ((to - from) / words.length);
            if (share > (found.get(c[0]) || 0)) found.set(c[0], share);
          });
        }
      });
    });
    return found;
  }
  /* The cards for a query, best first. A query that matches nothing is asked again with more typing errors allowed. */
  function find(query) {
    var list = words(query);
    if (!list.length) return [];
    var stems = content(list), total = ranked(stems, STRICT);
    named(list).forEach(function (share, id) { total.set(id, (total.get(id) || 0) * (share < WHOLE ? 1 : 3) + EXACT * share); });
    if (!total.size) total = ranked(stems, LOOSE);
    var whole = key(query);
    total.forEach(function (score, id) {
      var card = cards[id];
      if (whole.length > 1 && key(card.title).indexOf(whole) === 0) score += BEGINNING * whole.length / key(card.title).length;
      total.set(id, score * card.weight);
    });
    return Array.from(total).sort(function (a, b) { return b[1] - a[1] || a[0] - b[0]; }).slice(0, MOST).map(function (pair) {
      return Object.assign({ score: pair[1], kindName: kinds[cards[pair[0]].kind][0] }, cards[pair[0]]);
    });
  }
  /* The parts of a text, marked where a word of the query begins: [["Low-", false], …]. */
  function marked(text, query) {
    var stems = content(words(query)), parts = [];
    text.split(/([\p{L}\p{N}]+)/u).forEach(function (part, i) {
      parts.push([part, i % 2 === 1 && stems.some(function (s) { return stem(fold(part)).indexOf(s) === 0; })]);
    });
    return parts;
  }
  return { load: load, find: find, marked: marked, get ready() { return cards.length > 0; } };
})();
