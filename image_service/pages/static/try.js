// An operation that runs, as its events come; at its end the page is loaded anew, with what came of it. Without this file
// the page loads itself every two seconds.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const place = document.querySelector("#try");
  if (!place?.dataset.events) return;
  const find = (name) => place.querySelector("#try-" + name);
  const source = new EventSource(place.dataset.events);
  const known = find("steps").children.length;
  let came = 0;
  source.addEventListener("progress", (event) => {
    const step = JSON.parse(event.data);
    came += 1;
    if (step.fraction !== null) find("progress").value = step.fraction;
    if (came <= known) return; // it stands there already
    const percent = step.fraction === null ? "" : `, ${Math.round(step.fraction * 100)} %`;
    const line = document.createElement("li");
    line.textContent = `${new Date(step.at).toISOString().slice(0, 19).replace("T", " ")} ${step.state}${percent}`;
    find("steps").append(line);
  });
  const over = () => {
    source.close();
    location.reload();
  };
  source.addEventListener("completed", over);
  source.addEventListener("failed", over);
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) find("said").textContent = "It cannot be followed any more: look again.";
  });
  addEventListener("pagehide", () => source.close());
});
