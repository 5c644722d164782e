// Formulas as MathML, which browsers draw themselves: KaTeX only translates, so it needs no fonts and no style sheet.
const ALPHABETS = {
  // Letters of their own in Unicode: where capitals begin, and those that have an older place. Browsers know no others.
  "double-struck": [0x1d538, { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" }],
  script: [0x1d49c, { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ" }],
  bold: [0x1d400, {}],
};

function letter(variant, character) {
  const [first, older] = ALPHABETS[variant];
  const place = character.charCodeAt(0) - 65;
  if (older[character]) return older[character];
  return place >= 0 && place < 26 ? String.fromCodePoint(first + place) : character;
}

document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const formula = element.textContent.trim();
    const displayMode = formula.startsWith("\\[");
    katex.render(formula.slice(2, -2), element, { displayMode, output: "mathml", throwOnError: false });
    for (const part of element.querySelectorAll("[mathvariant]")) {
      const variant = part.getAttribute("mathvariant");
      if (ALPHABETS[variant]) part.textContent = letter(variant, part.textContent);
    }
  }
});
