/* What the tools share (fields, the choice of a model, the address bar), and the calculator.
   After peftonomy.js, engine.js and data.js. Text from the data or from a paste only ever becomes a text node. */
"use strict";

Object.assign(pf, (function () {
  var make = pf.make, number = pf.number, held = pf.held, percent = pf.percent, serial = 0;
  /* include words */
  /* include fields */
  /* include models */
  /* include tool */
  /* include answers */
  /* include code */
  /* include calculator */
  customElements.define("peft-calculator", Calculator);

  return { Tool: Tool, bytes: bytes, binary: binary, short: short, words: words, tried: tried, key: key };
})());
