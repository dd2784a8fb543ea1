import { ServerConnection } from '@jupyterlab/services';
import { SandboxModel } from '../model';
import type { ISandbox } from '../tokens';
import { FakeContext, kernel, SANDBOX, settle } from './fixtures';

describe('SandboxModel', () => {
  let list: jest.Mock<Promise<ISandbox[]>, []>;
  let model: SandboxModel;

  beforeEach(() => {
    list = jest.fn<Promise<ISandbox[]>, []>().mockResolvedValue([SANDBOX]);
    model = new SandboxModel({ list });
  });

  afterEach(() => {
    model.dispose();
  });

  async function follow(context: FakeContext): Promise<void> {
    model.context = context.asContext;
    await settle();
  }

  it('finds the sandbox by the id of its kernel', async () => {
    const other = { ...SANDBOX, id: 'ffffffffffff', kernel_id: 'kernel-2' };
    list.mockResolvedValue([other, SANDBOX]);
    await follow(new FakeContext(kernel('kernel-1')));
    expect(model.status).toEqual({
      kind: 'known',
      title: 'Python 3.11',
      sandbox: SANDBOX
    });
  });

  it('says so when no machine serves the kernel', async () => {
    await follow(new FakeContext(kernel('kernel-9')));
    expect(model.status).toMatchObject({ kind: 'known', sandbox: null });
  });

  it('shows nothing and asks nothing for other kernels and for none', async () => {
    await follow(new FakeContext(kernel('kernel-1', false)));
    expect(model.status.kind).toBe('none');
    await follow(new FakeContext(null));
    expect(model.status.kind).toBe('none');
    expect(list).not.toHaveBeenCalled();
  });

  it('tells a server that does not answer from one that answers with an error', async () => {
    const context = new FakeContext(kernel('kernel-1'));
    list.mockRejectedValueOnce(
      new ServerConnection.NetworkError(new TypeError('Failed to fetch'))
    );
    await follow(context);
    expect(model.status.kind).toBe('unreachable');

    list.mockRejectedValueOnce(new Error('500'));
    await model.refresh();
    expect(model.status.kind).toBe('failed');

    context.connectionStatusChanged.emit('connected');
    await settle();
    expect(model.status.kind).toBe('known');
  });

  it('does not ask again for every cell that runs', async () => {
    const context = new FakeContext(kernel('kernel-1'));
    await follow(context);
    context.statusChanged.emit('idle');
    await settle();
    list.mockClear();
    for (const status of ['busy', 'idle', 'busy', 'idle'] as const) {
      context.statusChanged.emit(status);
    }
    await settle();
    expect(list).not.toHaveBeenCalled();
    context.statusChanged.emit('restarting');
    await settle();
    expect(list).toHaveBeenCalledTimes(1);
  });

  it('follows the notebook to another kernel', async () => {
    const context = new FakeContext(kernel('kernel-1'));
    await follow(context);
    context.session.kernel = kernel('kernel-1', false);
    context.kernelChanged.emit(undefined);
    expect(model.status.kind).toBe('none');
    await settle();
    expect(model.status.kind).toBe('none');
  });

  it('ignores an answer that a later question has overtaken', async () => {
    const context = new FakeContext(kernel('kernel-1'));
    await follow(context);
    let answerLate: (sandboxes: ISandbox[]) => void = () => {};
    list.mockReturnValueOnce(
      new Promise(resolve => {
        answerLate = resolve;
      })
    );
    const late = model.refresh();
    await settle();
    await model.refresh();
    answerLate([{ ...SANDBOX, state: 'starting' }]);
    await late;
    expect(model.status).toMatchObject({ sandbox: { state: 'running' } });
  });

  it('lets go of a notebook that is no longer in front', async () => {
    const context = new FakeContext(kernel('kernel-1'));
    await follow(context);
    model.context = null;
    list.mockClear();
    context.connectionStatusChanged.emit('connected');
    context.statusChanged.emit('dead');
    await settle();
    expect(model.status.kind).toBe('none');
    expect(list).not.toHaveBeenCalled();
  });
});
