import React from 'react';

/**
 * A line of a text, and whether it is in both.
 */
export interface ILine {
  readonly kind: 'same' | 'old' | 'new';
  readonly text: string;
}

/**
 * The lines of two texts as one, by their longest common subsequence.
 */
export function compareLines(before: string, after: string): ILine[] {
  const old = before ? before.split('\n') : [];
  const now = after ? after.split('\n') : [];
  // common[i][j]: how many lines old from i on and new from j on have in common.
  const common = Array.from({ length: old.length + 1 }, () =>
    new Array<number>(now.length + 1).fill(0)
  );
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      common[i][j] =
        old[i] === now[j]
          ? common[i + 1][j + 1] + 1
          : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const lines: ILine[] = [];
  let i = 0;
  let j = 0;
  while (i < old.length || j < now.length) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      lines.push({ kind: 'same', text: old[i] });
      i++;
      j++;
    } else if (
      j === now.length ||
      (i < old.length && common[i + 1][j] >= common[i][j + 1])
    ) {
      lines.push({ kind: 'old', text: old[i++] });
    } else {
      lines.push({ kind: 'new', text: now[j++] });
    }
  }
  return lines;
}

/**
 * Two texts in one, with the lines that left and that came marked.
 */
export function Lines(props: {
  readonly before: string;
  readonly after: string;
}): React.ReactElement {
  const signs = { same: ' ', old: '-', new: '+' };
  return (
    <pre className="jp-VSandbox-lines">
      {compareLines(props.before, props.after).map(({ kind, text }, index) => (
        <div key={index} data-kind={kind}>
          {`${signs[kind]} ${text}`}
        </div>
      ))}
    </pre>
  );
}
