import { nullTranslator } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';
import { Widget } from '@lumino/widgets';
import React from 'react';
import { layOut } from '../lineage';
import { HistoryBody } from '../panels/history/body';
import type { HistoryModel } from '../panels/history/model';
import type { IPanelContext } from '../panels/section';
import type { SandboxStore } from '../store';
import type { ISandbox, ISnapshot } from '../tokens';
import { fakeService, SANDBOX, SNAPSHOT, storeOf } from './fixtures';

const OLD = 'It is older than 72 h.';
const LONG = '4 snapshots stand one above the other.';

describe('HistoryBody', () => {
  let store: SandboxStore;

  beforeEach(async () => {
    store = await storeOf(fakeService());
  });

  afterEach(() => {
    store.dispose();
  });

  async function draw(
    sandbox: ISandbox,
    snapshot: ISnapshot
  ): Promise<HTMLElement> {
    const rows = layOut([snapshot], [sandbox], new Set(), true);
    const model = { sandbox, rows } as unknown as HistoryModel;
    const context = {
      commands: new CommandRegistry(),
      store,
      trans: nullTranslator.load('jupyter_vsandbox')
    } as unknown as IPanelContext;
    const widget = ReactWidget.create(
      <HistoryBody model={model} context={context} />
    );
    Widget.attach(widget, document.body);
    await widget.renderPromise;
    return widget.node;
  }

  function signs(node: HTMLElement, kind: string): (string | null)[] {
    const found = node.querySelectorAll(`[data-kind="${kind}"] [role="img"]`);
    return Array.from(found, each => each.getAttribute('aria-label'));
  }

  it('warns of what the server warns of, and of nothing else', async () => {
    const calm = await draw(SANDBOX, SNAPSHOT);
    expect(calm.querySelector('[role="img"]')).toBeNull();
    const node = await draw(
      { ...SANDBOX, history: { count: 1, bytes: 1, warning: LONG } },
      { ...SNAPSHOT, warning: OLD }
    );
    expect(signs(node, 'head')).toEqual([LONG]);
    expect(signs(node, 'snapshot')).toEqual([OLD]);
  });

  it('says where a fork has the disk alone', async () => {
    const titles = (node: HTMLElement) =>
      Array.from(node.querySelectorAll('button'), each => each.title);
    expect(titles(await draw(SANDBOX, SNAPSHOT))).toContain(
      'Fork from “first”'
    );
    const there = { ...SANDBOX, memory_anywhere: false };
    expect(titles(await draw(there, SNAPSHOT))).toContain(
      'Fork from “first”: the fork boots from its disk, without the variables'
    );
  });
});
