// Colours SQL: elements with a class per kind of token, which statement.css colours.

const KEYWORDS = new Set(`all analyze and any array as asc between both by case cast collate cross current_date
  current_time current_timestamp desc distinct else end escape except exists explain extract false fetch filter first
  following for from full group grouping having ilike in inner intersect interval into is isnull join last lateral
  leading left like limit localtime localtimestamp materialized natural not notnull null nulls offset on only or order
  ordinality outer over overlaps partition position preceding range recursive right rollup row rows select show similar
  some symmetric table tablesample then ties to trailing true unbounded union unknown using values verbose when where
  window with within without zone`.split(/\s+/));

// What PostgreSQL's lexer distinguishes: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
// A comment, text or name that does not end reaches to the end of the statement. Nested comments are not recognised.
const TOKENS = new RegExp([
  String.raw`(?<comment>--[^\n]*|/\*[^]*?(?:\*/|$))`,
  String.raw`(?<string>\b[Ee]'(?:[^'\\]|\\[^]|'')*(?:'|$)|'(?:[^']|'')*(?:'|$)|\$(?<tag>\w*)\$[^]*?(?:\$\k<tag>\$|$))`,
  String.raw`(?<name>"(?:[^"]|"")*(?:"|$))`,
  String.raw`(?<number>\b\d[\w.]*)`,
  String.raw`(?<word>[\p{L}_][\p{L}\d_$]*)`,
].join("|"), "gu");
const KINDS = ["comment", "string", "number"];

function kindOf(groups) {
  if (groups.word) return KEYWORDS.has(groups.word.toLowerCase()) ? "keyword" : undefined;
  return KINDS.find((kind) => groups[kind]);
}

function parts(sql) {
  const made = [];
  let end = 0;
  for (const { 0: text, index, groups } of sql.matchAll(TOKENS)) {
    const kind = kindOf(groups);
    if (!kind) continue;
    const token = document.createElement("span");
    token.className = kind;
    token.textContent = text;
    made.push(sql.slice(end, index), token);
    end = index + text.length;
  }
  return [...made, sql.slice(end)];
}

// Show this SQL in an element; by default, colour the SQL that it has.
export function colour(element, sql = element.textContent) {
  element.classList.add("coloured");
  element.replaceChildren(...parts(sql));
}

export function colourAll(root) {
  for (const element of root.querySelectorAll("pre.sql:not(.coloured)")) colour(element);
}
