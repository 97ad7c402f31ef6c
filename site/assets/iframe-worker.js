/* Opened from a folder, a page may not start a worker. There, search runs in a hidden frame that behaves like one; made
   node by node, since the policy of the page lets no script text in. The theme asks for `IFrameWorker` by this name. */
"use strict";

class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    var self = this, frame = this.frame = document.createElement("iframe");
    frame.hidden = true;
    frame.title = "Search";
    document.body.append(frame);
    var inside = this.inside = frame.contentWindow;
    inside.postMessage = function (data) { setTimeout(function () { self.receive(data); }, 0); };
    inside.importScripts = function () {
      return [].reduce.call(arguments, function (before, source) { return before.then(function () { return self.load(source); }); }, Promise.resolve());
    };
    this.ready = this.load(url);
  }
  load(source) {
    var script = this.inside.document.createElement("script"), done = new Promise(function (resolve, reject) { script.onload = resolve; script.onerror = reject; });
    script.src = source;
    this.inside.document.body.append(script);
    return done;
  }
  receive(data) {
    var event = new MessageEvent("message", { data: data });
    this.dispatchEvent(event);
    if (this.onmessage) this.onmessage(event);
  }
  postMessage(data) {
    var inside = this.inside;
    this.ready.then(function () { inside.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })); });
  }
  terminate() { this.frame.remove(); }
}
window.IFrameWorker = IFrameWorker;
if (location.protocol === "file:") window.Worker = IFrameWorker;
