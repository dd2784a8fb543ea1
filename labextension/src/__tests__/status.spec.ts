import { nullTranslator } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { SandboxModel } from '../model';
import { StatusItem } from '../panels/status';
import type { SandboxStatus } from '../tokens';
import { describe as put } from '../words';
import {
  FakeContext,
  fakeService,
  kernel,
  SANDBOX,
  settle,
  storeOf
} from './fixtures';

const title = 'Python 3.11';

describe('describe', () => {
  const trans = nullTranslator.load('jupyter_vsandbox');

  it.each<[SandboxStatus, string | undefined]>([
    [{ kind: 'none' }, undefined],
    [{ kind: 'asking', title }, 'Python 3.11 · sandbox · …'],
    [
      { kind: 'known', title, sandbox: SANDBOX, busy: [] },
      'Python 3.11 · sandbox · running (emulated)'
    ],
    [
      {
        kind: 'known',
        title,
        sandbox: { ...SANDBOX, state: 'starting', emulated: null },
        busy: []
      },
      'Python 3.11 · sandbox · starting'
    ],
    [
      { kind: 'known', title, sandbox: null, busy: [] },
      'Python 3.11 · sandbox · no machine'
    ],
    [
      { kind: 'known', title, sandbox: SANDBOX, busy: ['hibernate'] },
      'Python 3.11 · sandbox · hibernating… (emulated)'
    ],
    [
      { kind: 'unreachable', title, reason: 'r' },
      'Python 3.11 · sandbox · server unreachable'
    ],
    [
      { kind: 'failed', title, reason: 'r' },
      'Python 3.11 · sandbox · state unknown'
    ]
  ])('puts %j in words', (status, source) => {
    expect(put(status, trans)?.source).toBe(source);
  });
});

describe('StatusItem', () => {
  it('names the state, and takes a snapshot; it is nothing without a sandbox', async () => {
    const store = await storeOf(fakeService());
    const model = new SandboxModel(store);
    const snapshot = jest.fn();
    const item = new StatusItem(model, nullTranslator, snapshot);
    Widget.attach(item, document.body);
    await item.renderPromise;
    expect(item.node.textContent).toBe('');

    model.context = new FakeContext(kernel('kernel-1')).asContext;
    await settle();
    await item.renderPromise;
    const button = item.node.querySelector('button');
    expect(button?.textContent).toBe(
      'Python 3.11 · sandbox · running (emulated)'
    );
    expect(button?.getAttribute('aria-label')).toBe(
      'Sandbox of Python 3.11: running (emulated). Take a snapshot'
    );
    expect(button?.title).toContain('0123456789ab');
    button?.click();
    expect(snapshot).toHaveBeenCalledTimes(1);

    item.dispose();
    model.dispose();
    store.dispose();
  });
});
