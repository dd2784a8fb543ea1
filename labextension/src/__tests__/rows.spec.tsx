import { ReactWidget } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';
import React, { act } from 'react';
import type { IRow } from '../components/rows';
import { Rows } from '../components/rows';

(
  globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }
).IS_REACT_ACT_ENVIRONMENT = true;

const ROWS: IRow[] = [
  { key: 'now', level: 1, current: true },
  { key: 'fold', level: 1, expanded: true },
  { key: 'inner', level: 2 },
  ...Array.from({ length: 500 }, (_, index) => ({
    key: `row-${index}`,
    level: 1
  }))
];

describe('Rows', () => {
  const toggle = jest.fn();
  let widget: ReactWidget;

  beforeEach(async () => {
    toggle.mockClear();
    widget = ReactWidget.create(
      <Rows
        label="History"
        rows={ROWS}
        height={40}
        render={({ key }) => <span>{key}</span>}
        toggle={toggle}
      />
    );
    Widget.attach(widget, document.body);
    await widget.renderPromise;
  });

  afterEach(() => {
    widget.dispose();
  });

  function items(): Element[] {
    return Array.from(widget.node.querySelectorAll('[role="treeitem"]'));
  }

  function press(key: string): void {
    act(() => {
      const init = { key, bubbles: true, cancelable: true };
      const target = document.activeElement ?? document.body;
      target.dispatchEvent(new KeyboardEvent('keydown', init));
    });
  }

  function focused(): string | null | undefined {
    return document.activeElement?.textContent;
  }

  function focusFirst(): void {
    act(() => {
      widget.node.querySelector<HTMLElement>('[tabindex="0"]')?.focus();
    });
  }

  it('draws what is seen, and tells how many there are', () => {
    expect(items().length).toBeLessThan(100);
    expect(items()[0].getAttribute('aria-setsize')).toBe('503');
    expect(items()[0].getAttribute('aria-current')).toBe('true');
    expect(items()[1].getAttribute('aria-expanded')).toBe('true');
    expect(items()[2].getAttribute('aria-level')).toBe('2');
  });

  it('has one row in the tab order', () => {
    const inOrder = items().filter(
      each => each.getAttribute('tabindex') === '0'
    );
    expect(inOrder.map(each => each.textContent)).toEqual(['now']);
  });

  it('goes by arrow keys, also to rows that are not drawn yet', () => {
    focusFirst();
    press('ArrowDown');
    expect(focused()).toBe('fold');
    press('End');
    expect(focused()).toBe('row-499');
    press('ArrowDown');
    expect(focused()).toBe('row-499');
    press('Home');
    expect(focused()).toBe('now');
  });

  it('opens and closes, and goes in and out', () => {
    focusFirst();
    press('ArrowDown');
    press('ArrowRight');
    expect(focused()).toBe('inner');
    press('ArrowLeft');
    expect(focused()).toBe('fold');
    expect(toggle).not.toHaveBeenCalled();
    press('ArrowLeft');
    expect(toggle).toHaveBeenCalledWith(ROWS[1]);
  });

  it("opens a row's context menu by the enter key", () => {
    const menu = jest.fn();
    document.body.addEventListener('contextmenu', menu, { once: true });
    focusFirst();
    press('Enter');
    expect(menu).toHaveBeenCalledTimes(1);
  });
});
