import { nullTranslator } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { SandboxModel } from '../model';
import { StatusItem } from '../panels/status';
import { describe as put } from '../panels/status/text';
import type { SandboxStatus } from '../tokens';
import { FakeContext, kernel, SANDBOX, settle } from './fixtures';

const title = 'Python 3.11';

describe('describe', () => {
  const trans = nullTranslator.load('jupyter_vsandbox');

  it.each<[SandboxStatus, string | undefined]>([
    [{ kind: 'none' }, undefined],
    [{ kind: 'asking', title }, 'Python 3.11 · sandbox · …'],
    [
      { kind: 'known', title, sandbox: SANDBOX },
      'Python 3.11 · sandbox · running (emulated)'
    ],
    [
      {
        kind: 'known',
        title,
        sandbox: { ...SANDBOX, state: 'starting', emulated: null }
      },
      'Python 3.11 · sandbox · starting'
    ],
    [
      { kind: 'known', title, sandbox: null },
      'Python 3.11 · sandbox · no machine'
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
  it('shows and names the state, and nothing without a sandbox', async () => {
    const model = new SandboxModel({ list: () => Promise.resolve([SANDBOX]) });
    const item = new StatusItem(model, nullTranslator);
    Widget.attach(item, document.body);
    await item.renderPromise;
    expect(item.node.textContent).toBe('');

    model.context = new FakeContext(kernel('kernel-1')).asContext;
    await settle();
    await item.renderPromise;
    const node = item.node.querySelector('[role="status"]');
    expect(node?.textContent).toBe(
      'Python 3.11 · sandbox · running (emulated)'
    );
    expect(node?.getAttribute('aria-label')).toBe(
      'Sandbox of Python 3.11: running (emulated)'
    );
    expect(node?.getAttribute('title')).toContain('0123456789ab');

    item.dispose();
    model.dispose();
  });
});
