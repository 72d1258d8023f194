// Sort a table by the column whose heading is pressed; pressed again, the other way round. Numbers come as numbers,
// texts after them, and what is not known last, whichever way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const text = row.cells[column].textContent;
      const number = Number(text.replaceAll(",", "").replace("−", "-"));
      return { row, text, number, kind: text === "–" ? 2 : Number.isNaN(number) ? 1 : 0 };
    });
    keyed.sort((a, b) => {
      if (a.kind !== b.kind) return a.kind - b.kind;
      const order = a.kind ? a.text.localeCompare(b.text) : a.number - b.number;
      return up ? order : -order;
    });
    table.tBodies[0].append(...keyed.map((item) => item.row));
  }));
}
