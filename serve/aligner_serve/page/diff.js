/* Which words of two texts are the same. */

const MOST_CELLS = 4_000_000; // of the table; above it the texts count as wholly different

/** Words with the white space that follows them; together they are the text again. */
export function words(text) {
  const found = [];
  for (const piece of pieces(text)) {
    if (piece.trim() === "" && found.length > 0) found[found.length - 1] += piece;
    else found.push(piece);
  }
  return found;
}

/**
 * The two texts as runs of `{same, text}`, one list for each. The kept words are a longest common
 * subsequence; white space does not count, line breaks do.
 */
export function compare(before, after) {
  const left = words(before);
  const right = words(after);
  const pairs = common(left.map(key), right.map(key));
  return [
    runs(left, new Set(pairs.map(([index]) => index))),
    runs(right, new Set(pairs.map(([, index]) => index))),
  ];
}

function pieces(text) {
  // Not every language puts spaces between words.
  if (typeof Intl.Segmenter === "function") {
    const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
    return Array.from(segmenter.segment(text), (part) => part.segment);
  }
  return text.match(/\s+|[^\s]+/g) ?? [];
}

function key(word) {
  return word.trim() + (word.includes("\n") ? "\n" : "");
}

/** Pairs of positions that hold the same word, in order. */
function common(left, right) {
  let start = 0;
  let [leftEnd, rightEnd] = [left.length, right.length];
  while (start < leftEnd && start < rightEnd && left[start] === right[start]) start += 1;
  while (leftEnd > start && rightEnd > start && left[leftEnd - 1] === right[rightEnd - 1]) {
    leftEnd -= 1;
    rightEnd -= 1;
  }
  const pairs = [];
  for (let at = 0; at < start; at += 1) pairs.push([at, at]);
  for (const [i, j] of longest(left.slice(start, leftEnd), right.slice(start, rightEnd))) {
    pairs.push([start + i, start + j]);
  }
  for (let at = 0; leftEnd + at < left.length; at += 1) pairs.push([leftEnd + at, rightEnd + at]);
  return pairs;
}

function longest(left, right) {
  const width = right.length + 1;
  if (left.length * right.length > MOST_CELLS) return [];
  // length[i * width + j]: of the longest common subsequence of left[i:] and right[j:].
  const length = new Uint16Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      length[at] =
        left[i] === right[j]
          ? length[at + width + 1] + 1
          : Math.max(length[at + width], length[at + 1]);
    }
  }
  const pairs = [];
  let [i, j] = [0, 0];
  while (i < left.length && j < right.length) {
    const at = i * width + j;
    if (left[i] === right[j]) pairs.push([i++, j++]);
    else if (length[at + width] >= length[at + 1]) i += 1;
    else j += 1;
  }
  return pairs;
}

function runs(list, kept) {
  const joined = [];
  list.forEach((word, index) => {
    const same = kept.has(index);
    const last = joined[joined.length - 1];
    if (last && last.same === same) last.text += word;
    else joined.push({ same, text: word });
  });
  return joined;
}
