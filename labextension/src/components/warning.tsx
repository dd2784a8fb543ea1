import React from 'react';

/**
 * A sign that something is to be seen to, which says what.
 */
export function Warning(props: {
  readonly text: string | null;
}): React.ReactElement | null {
  return props.text ? (
    <span
      className="jp-VSandbox-sign"
      role="img"
      aria-label={props.text}
      title={props.text}
    >
      ⚠
    </span>
  ) : null;
}
