// What a function, a class or a command is called comes before pages that mention it, and pages that explain
// come before measured tables and the changelog.
var Scorer = {
  score: ([page, , , , score]) => /^(results\/|reference\/changelog)/.test(page) ? score / 3 : score,
  objNameMatch: 200,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
