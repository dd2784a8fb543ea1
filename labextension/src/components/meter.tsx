import React from 'react';

export interface IMeterProps {
  readonly label: string;
  readonly value: number;
  readonly max: number;
  /** The value in words. */
  readonly text: string;
  /** Whether it is a warning when little is left. */
  readonly scarce?: boolean;
}

/**
 * A small bar that shows how much of something is taken.
 */
export function Meter(props: IMeterProps): React.ReactElement {
  const { label, max, text } = props;
  const value = Math.min(Math.max(props.value, 0), max);
  const share = max > 0 ? value / max : 0;
  return (
    <div className="jp-VSandbox-meter">
      <span className="jp-VSandbox-meterLabel">{label}</span>
      <span
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={max}
        aria-valuenow={value}
        aria-valuetext={text}
        className="jp-VSandbox-meterTrack"
        data-high={props.scarce && share > 0.9 ? 'true' : undefined}
      >
        <span style={{ width: `${(100 * share).toFixed(1)}%` }} />
      </span>
      <span className="jp-VSandbox-meterText">{text}</span>
    </div>
  );
}
