// Which exercises of the workshop this browser's reader has solved, each with the statement.

const KEY = "workshop";
const solved = JSON.parse(localStorage.getItem(KEY) ?? "{}");

const verdict = document.querySelector("[data-solved]");
if (verdict) {
  solved[verdict.dataset.solved] = document.getElementById("sql").value;
  localStorage.setItem(KEY, JSON.stringify(solved));
}

const exercises = [...document.querySelectorAll("[data-exercise]")];
const done = exercises.filter(({ dataset }) => dataset.exercise in solved);
for (const exercise of done) {
  const answer = document.createElement("a");
  answer.href = `${exercise.querySelector("a").pathname}?${new URLSearchParams({ sql: solved[exercise.dataset.exercise] })}`;
  answer.textContent = "your answer";
  exercise.querySelector(".state").append("✓ solved, ", answer);
}
const progress = document.getElementById("progress");
if (progress && done.length) {
  progress.hidden = false;
  progress.querySelector("span").textContent = `You have solved ${done.length} of ${exercises.length}.`;
  progress.querySelector("button").addEventListener("click", () => {
    localStorage.removeItem(KEY);
    location.reload();
  });
}
