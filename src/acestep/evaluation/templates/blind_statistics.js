// What a number of votes proves: exact binomial sums, without approximation by a normal curve.
"use strict";
window.acestepStatistics = (() => {
  // log(n!) as a sum; a listening test has a few hundred votes at most.
  function logFactorial(n) {
    let sum = 0;
    for (let k = 2; k <= n; k += 1) sum += Math.log(k);
    return sum;
  }
  function probability(k, n, p) {
    if (p <= 0) return k === 0 ? 1 : 0;
    if (p >= 1) return k === n ? 1 : 0;
    const ways = logFactorial(n) - logFactorial(k) - logFactorial(n - k);
    return Math.exp(ways + k * Math.log(p) + (n - k) * Math.log(1 - p));
  }
  function atLeast(k, n, p) {
    let sum = 0;
    for (let i = k; i <= n; i += 1) sum += probability(i, n, p);
    return Math.min(1, sum);
  }
  function atMost(k, n, p) {
    let sum = 0;
    for (let i = 0; i <= k; i += 1) sum += probability(i, n, p);
    return Math.min(1, sum);
  }
  function solve(rises, wanted) {
    let [low, high] = [0, 1];
    for (let step = 0; step < 60; step += 1) {
      const middle = (low + high) / 2;
      if (rises(middle) < wanted) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }
  // Clopper and Pearson 1934: the shares under which k of n would not be surprising at either end.
  function interval(k, n, level = 0.95) {
    const tail = (1 - level) / 2;
    return [
      k === 0 ? 0 : solve((p) => atLeast(k, n, p), tail),
      k === n ? 1 : solve((p) => -atMost(k, n, p), -tail),
    ];
  }
  // ABX asks whether somebody hears a difference, so only many right answers count against guessing.
  const oneSided = (k, n) => (n === 0 ? 1 : atLeast(k, n, 0.5));
  // A preference may go either way; at one half both tails are the same.
  const twoSided = (k, n) => (n === 0 ? 1 : Math.min(1, 2 * atLeast(Math.max(k, n - k), n, 0.5)));
  return { interval, oneSided, twoSided };
})();
