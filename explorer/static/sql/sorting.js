// Sorts a table by the column whose heading is clicked: in ascending order, and in descending order the next time.

const compareTexts = new Intl.Collator(undefined, { numeric: true }).compare;
const INTEGER = /^-?\d+$/;

function compareNumbers(a, b) {
  // Integers may have more digits than a JavaScript number.
  if (INTEGER.test(a) && INTEGER.test(b)) return BigInt(a) < BigInt(b) ? -1 : Number(BigInt(a) > BigInt(b));
  return Number(a) - Number(b);
}

// NaN and null follow all others in both orders.
const isLast = ({ cell, text, isNumber }) => cell.firstElementChild?.matches("i") || (isNumber && text === "NaN");

function sorted(rows, column, isNumber, direction) {
  const keys = rows.map((row) => ({ row, cell: row.cells[column], text: row.cells[column].textContent, isNumber }));
  const [last, others] = [keys.filter(isLast), keys.filter((key) => !isLast(key))];
  const compare = isNumber ? compareNumbers : compareTexts;
  others.sort((a, b) => direction * compare(a.text, b.text));
  return [...others, ...last].map(({ row }) => row);
}

export function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const direction = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.ariaSort = direction === 1 ? "ascending" : "descending";
      body.append(...sorted([...body.rows], column, head.classList.contains("number"), direction));
    });
  });
}
