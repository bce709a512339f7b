"use strict";
// Every table.sortable gets buttons in its headings, a search field, and a choice for each column with few values.
const MOST_CHOICES = 14;
const FIRST_ROWS = matchMedia("(max-width: 640px)").matches ? 6 : 15;
const FEW_ROWS = 8;

function value(row, index) {
  const cell = row.cells[index];
  return cell.dataset.value ?? cell.textContent.trim();
}

function sort(table, index, heading) {
  const isDescending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
  const isNumber = heading.classList.contains("number");
  const compare = (a, b) => {
    const [x, y] = [value(a, index), value(b, index)];
    if (!isNumber) return isDescending ? y.localeCompare(x) : x.localeCompare(y);
    if (x === "" || y === "") return (x === "") - (y === "");  // rows without a number come last, either way
    return isDescending ? y - x : x - y;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
  limit(table);
}

// On the screen a long table shows its first rows until the rest is asked for; on paper it shows all.
function limit(table) {
  const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const isLimited = table.dataset.all !== "yes" && rows.length > FIRST_ROWS;
  rows.forEach((row, place) => row.classList.toggle("later", isLimited && place >= FIRST_ROWS));
  const scroll = table.closest(".scroll");
  if (scroll.nextElementSibling?.className === "more") scroll.nextElementSibling.remove();
  if (!isLimited) return;
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  more.textContent = `Show ${rows.length - FIRST_ROWS} more rows`;
  more.addEventListener("click", () => {
    table.dataset.all = "yes";
    limit(table);
  });
  scroll.after(more);
}

function tools(table) {
  const bar = document.createElement("div");
  bar.className = "tools";
  const labelled = (text, field) => {
    const label = document.createElement("label");
    field.setAttribute("aria-label", text);  // without it a choice's values would count as its name
    label.append(text, field);
    bar.append(label);
    return field;
  };
  const search = labelled("Search", document.createElement("input"));
  search.type = "search";
  const rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const initial = JSON.parse(table.dataset.initial ?? "{}");
  const choices = [];
  headings.forEach((heading, index) => {
    if (heading.classList.contains("number")) return;
    const values = [...new Set(rows.map((row) => value(row, index)))];
    if (values.length < 2 || values.length > MOST_CHOICES) return;
    const title = heading.textContent;
    const select = labelled(title, document.createElement("select"));
    select.append(new Option("all", ""), ...values.map((text) => new Option(text, text)));
    if (values.includes(initial[title])) select.value = initial[title];
    choices.push([index, select]);
  });
  const reset = document.createElement("button");
  reset.type = "button";
  reset.textContent = "Show all";
  const count = document.createElement("span");
  count.className = "count";
  count.setAttribute("role", "status");
  bar.append(reset, count);
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const isShown = words.every((word) => text.includes(word))
        && choices.every(([index, select]) => select.value === "" || value(row, index) === select.value);
      row.hidden = !isShown;
      shown += isShown;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
    limit(table);
  };
  reset.addEventListener("click", () => {
    search.value = "";
    for (const [, select] of choices) select.value = "";
    table.dataset.all = "yes";
    apply();
  });
  bar.addEventListener("input", apply);
  table.closest(".scroll").before(bar);
  apply();
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = table.tHead.rows[table.tHead.rows.length - 1].cells;
  [...headings].forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => sort(table, index, heading));
  });
  if (table.tBodies[0].rows.length > FEW_ROWS) tools(table);
}
