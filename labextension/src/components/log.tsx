import React from 'react';

/**
 * What something prints; it stays at the end unless the user scrolls up.
 */
export function Log(props: {
  readonly label: string;
  readonly lines: readonly string[];
}): React.ReactElement | null {
  const { label, lines } = props;
  const node = React.useRef<HTMLPreElement>(null);
  const atEnd = React.useRef(true);
  React.useLayoutEffect(() => {
    if (node.current && atEnd.current) {
      node.current.scrollTop = node.current.scrollHeight;
    }
  }, [lines.length]);
  if (lines.length === 0) {
    return null;
  }
  return (
    <pre
      ref={node}
      role="log"
      aria-label={label}
      tabIndex={0}
      className="jp-VSandbox-log"
      onScroll={({
        currentTarget: { scrollTop, scrollHeight, clientHeight }
      }) => {
        atEnd.current = scrollTop + clientHeight > scrollHeight - 8;
      }}
    >
      {lines.join('\n')}
    </pre>
  );
}
