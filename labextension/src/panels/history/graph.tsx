import React from 'react';
import type { HistoryRow } from '../../lineage';

const LANE = 12;
const COLOURS = 6;
/** Lanes further to the right share the last place. */
const SHOWN = 8;

/**
 * The part of the graph that is in one row.
 */
export function Graph(props: {
  readonly row: HistoryRow;
  readonly height: number;
}): React.ReactElement {
  const { row, height } = props;
  const width = place(Math.max(row.lane, ...row.through, ...row.from)) + 9;
  const middle = height / 2;
  const x = place(row.lane);
  return (
    <svg
      className="jp-VSandbox-graph"
      width={width}
      height={height}
      aria-hidden="true"
    >
      {row.through.map(lane => (
        <path
          key={`through-${lane}`}
          data-lane={lane % COLOURS}
          d={`M${place(lane)} 0V${height}`}
        />
      ))}
      {row.from.map(lane => (
        <path
          key={`from-${lane}`}
          data-lane={lane % COLOURS}
          d={
            lane === row.lane
              ? `M${x} 0V${middle}`
              : `M${place(lane)} 0C${place(lane)} ${middle} ${x} ${middle * 0.4} ${x} ${middle}`
          }
        />
      ))}
      {row.down ? (
        <path data-lane={row.lane % COLOURS} d={`M${x} ${middle}V${height}`} />
      ) : null}
      <Dot row={row} x={x} y={middle} />
    </svg>
  );
}

function Dot(props: {
  readonly row: HistoryRow;
  readonly x: number;
  readonly y: number;
}): React.ReactElement {
  const { row, x, y } = props;
  const common = { cx: x, cy: y, 'data-lane': row.lane % COLOURS };
  switch (row.kind) {
    case 'head':
      return <circle {...common} r={5} className="jp-mod-head" />;
    case 'fold':
      return <circle {...common} r={3} className="jp-mod-fold" />;
    case 'snapshot':
      return row.snapshot.cause === 'asked' ? (
        <circle {...common} r={4.5} />
      ) : (
        <circle {...common} r={3} className="jp-mod-automatic" />
      );
  }
}

function place(lane: number): number {
  return Math.min(lane, SHOWN - 1) * LANE + LANE / 2 + 3;
}
