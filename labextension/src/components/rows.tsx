import React from 'react';

/** How many rows are drawn where the height is not known yet. */
const FIRST = 40;
/** How many are drawn above and below what is seen. */
const MORE = 6;

/**
 * One row of `Rows`.
 */
export interface IRow {
  readonly key: string;
  /** From 1. */
  readonly level: number;
  /** Whether it is open; undefined where it has nothing to open. */
  readonly expanded?: boolean;
  /** Whether it is where things are now. */
  readonly current?: boolean;
  /** What its context menu and commands act on. */
  readonly data?: Readonly<Record<string, string>>;
}

export interface IRowsProps<T extends IRow> {
  readonly label: string;
  readonly rows: readonly T[];
  /** Height of each row in pixels. */
  readonly height: number;
  render(row: T): React.ReactNode;
  /** Called for a row that is to be opened or closed. */
  toggle?(row: T): void;
}

/**
 * A tree of rows of one height, of which only those that are seen are drawn.
 *
 * One row is in the tab order, with the buttons in it; arrow keys, Home, End and the page keys go to
 * others, Enter opens the row's context menu or what the row has to open.
 */
export function Rows<T extends IRow>(props: IRowsProps<T>): React.ReactElement {
  const { rows, height } = props;
  const node = React.useRef<HTMLDivElement>(null);
  const [view, setView] = React.useState({ top: 0, height: FIRST * height });
  const [active, setActive] = React.useState('');
  const [moved, setMoved] = React.useState(0);

  const index = Math.max(
    0,
    rows.findIndex(({ key }) => key === active)
  );

  React.useLayoutEffect(() => {
    const element = node.current;
    if (!element) {
      return;
    }
    const look = () => {
      setView(before => {
        const now = {
          top: Math.floor(element.scrollTop / height) * height,
          height: element.clientHeight || FIRST * height
        };
        const same = now.top === before.top && now.height === before.height;
        return same ? before : now;
      });
    };
    look();
    element.addEventListener('scroll', look, { passive: true });
    const observer =
      typeof ResizeObserver === 'undefined' ? null : new ResizeObserver(look);
    observer?.observe(element);
    return () => {
      element.removeEventListener('scroll', look);
      observer?.disconnect();
    };
  }, [height]);

  // A key moved to another row, which may have been drawn only now.
  React.useLayoutEffect(() => {
    if (moved > 0) {
      node.current?.querySelector<HTMLElement>('[tabindex="0"]')?.focus();
    }
  }, [moved]);

  const go = (to: number) => {
    const target = Math.min(Math.max(to, 0), rows.length - 1);
    const element = node.current;
    if (element) {
      const top = target * height;
      const bottom = top + height - element.clientHeight;
      element.scrollTop = Math.max(
        Math.min(element.scrollTop, top),
        Math.min(bottom, top)
      );
    }
    setActive(rows[target].key);
    setMoved(moved + 1);
  };

  const onKey = (event: React.KeyboardEvent) => {
    const row = rows[index];
    const page = Math.max(1, Math.floor(view.height / height) - 1);
    switch (event.key) {
      case 'ArrowDown':
        go(index + 1);
        break;
      case 'ArrowUp':
        go(index - 1);
        break;
      case 'PageDown':
        go(index + page);
        break;
      case 'PageUp':
        go(index - page);
        break;
      case 'Home':
        go(0);
        break;
      case 'End':
        go(rows.length - 1);
        break;
      case 'ArrowRight':
        if (row.expanded === true) {
          go(index + 1);
        } else if (row.expanded === false) {
          props.toggle?.(row);
        }
        break;
      case 'ArrowLeft':
        if (row.expanded) {
          props.toggle?.(row);
        } else if (row.level > 1) {
          let parent = index;
          while (parent > 0 && rows[parent].level >= row.level) {
            parent--;
          }
          go(parent);
        }
        break;
      case 'Enter':
        if (!(event.target as Element).matches('[role="treeitem"]')) {
          return; // a button takes it
        }
        if (row.expanded !== undefined) {
          props.toggle?.(row);
        } else {
          openMenu(event.target as HTMLElement);
        }
        break;
      default:
        return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  const first = Math.max(0, Math.floor(view.top / height) - MORE);
  const last = Math.min(
    rows.length,
    Math.ceil((view.top + view.height) / height) + MORE
  );
  const drawn: number[] = [];
  for (let each = first; each < last; each++) {
    drawn.push(each);
  }
  // It may hold the focus, and is what the tab key comes to.
  if (rows.length > 0 && (index < first || index >= last)) {
    drawn.push(index);
  }
  return (
    <div ref={node} className="jp-VSandbox-rows">
      <div
        role="tree"
        aria-label={props.label}
        style={{ height: rows.length * height }}
        onKeyDown={rows.length > 0 ? onKey : undefined}
      >
        {drawn.map(each => {
          const row = rows[each];
          return (
            <div
              key={row.key}
              role="treeitem"
              aria-level={row.level}
              aria-posinset={each + 1}
              aria-setsize={rows.length}
              aria-expanded={row.expanded}
              aria-current={row.current ? 'true' : undefined}
              aria-selected={each === index}
              tabIndex={each === index ? 0 : -1}
              className="jp-VSandbox-row"
              style={{ top: each * height, height }}
              onFocus={() => {
                setActive(row.key);
              }}
              {...dataset(row.data)}
            >
              {props.render(row)}
            </div>
          );
        })}
      </div>
    </div>
  );
}

/**
 * Open the context menu of an element, below it.
 */
export function openMenu(element: HTMLElement): void {
  const { left, bottom } = element.getBoundingClientRect();
  element.dispatchEvent(
    new MouseEvent('contextmenu', {
      bubbles: true,
      cancelable: true,
      clientX: left + 8,
      clientY: bottom
    })
  );
}

function dataset(data: IRow['data']): Record<string, string> {
  const attributes: Record<string, string> = {};
  for (const [name, value] of Object.entries(data ?? {})) {
    attributes[`data-${name}`] = value;
  }
  return attributes;
}
