// On Locust's page: a bar with the verdict so far, and classes that stay picked.

"use strict";
{
  const colours = { good: "#00866a", bad: "#b00020", unsure: "#b45309", "": "#555555" };
  const bar = document.createElement("div");
  bar.id = "lab-verdict";
  bar.setAttribute("role", "status");
  bar.style.cssText =
    "padding:.6rem 1rem;color:#fff;font:15px/1.4 system-ui,sans-serif";
  const said = bar.appendChild(document.createElement("span"));
  const runs = bar.appendChild(document.createElement("a"));
  runs.href = "./lab/runs/";
  runs.target = "_blank";
  runs.textContent = "Reports";
  runs.style.cssText = "color:inherit;margin-left:1rem";
  document.body.prepend(bar);

  async function show() {
    try {
      const answer = await fetch("./lab/run");
      const { mood, sentence } = await answer.json();
      said.textContent = sentence || "No run yet";
      bar.style.background = colours[mood];
    } catch {
      bar.style.background = colours[""];
      said.textContent = "Locust does not answer";
    }
  }

  // Classes. Locust's form begins with all of them, also after "New".
  const KEY = "lab-classes";
  const rows = () =>
    [...document.querySelectorAll("tbody tr")].filter((row) =>
      row.querySelector("td:first-child input[type=checkbox]"),
    );
  const name = (row) => row.cells[1].textContent;
  const box = (row) => row.querySelector("input[type=checkbox]");

  document.addEventListener(
    "submit",
    () => {
      const picked = rows().filter((row) => box(row).checked);
      if (rows().length) sessionStorage.setItem(KEY, JSON.stringify(picked.map(name)));
    },
    true,
  );

  let table = null;
  async function restore() {
    const first = rows()[0];
    const here = first ? first.closest("table") : null;
    if (here === table) return;
    table = here;
    const picked = JSON.parse(sessionStorage.getItem(KEY) || "null");
    if (!here || !picked) return;
    for (const row of rows()) {
      if (box(row).checked !== picked.includes(name(row))) {
        row.cells[0].click();
        await new Promise(requestAnimationFrame); // React takes one change at a time
      }
    }
  }

  new MutationObserver(restore).observe(document.body, {
    childList: true,
    subtree: true,
  });
  restore();
  show();
  setInterval(() => document.hidden || show(), 2000);
}
