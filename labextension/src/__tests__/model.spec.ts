import { SandboxModel } from '../model';
import type { SandboxStore } from '../store';
import type { FakeService } from './fixtures';
import {
  FakeContext,
  FakeEvents,
  fakeService,
  kernel,
  SANDBOX,
  settle,
  storeOf
} from './fixtures';

describe('SandboxModel', () => {
  let service: FakeService;
  let events: FakeEvents;
  let store: SandboxStore;
  let model: SandboxModel;

  beforeEach(async () => {
    service = fakeService();
    events = new FakeEvents();
    store = await storeOf(service, events);
    model = new SandboxModel(store);
  });

  afterEach(() => {
    model.dispose();
    store.dispose();
  });

  async function follow(context: FakeContext): Promise<void> {
    model.context = context.asContext;
    await settle();
  }

  it('finds the sandbox by the id of its kernel', async () => {
    const other = { ...SANDBOX, id: 'ffffffffffff', kernel_id: 'kernel-2' };
    events.sandbox(other);
    await follow(new FakeContext(kernel('kernel-1')));
    expect(model.status).toEqual({
      kind: 'known',
      title: 'Python 3.11',
      sandbox: SANDBOX,
      busy: []
    });
  });

  it('says so when no machine serves the kernel', async () => {
    await follow(new FakeContext(kernel('kernel-9')));
    expect(model.status).toMatchObject({ kind: 'known', sandbox: null });
  });

  it('finds what was kept for a notebook without a kernel', async () => {
    await follow(new FakeContext(null, 'work.ipynb'));
    expect(model.sandbox).toEqual(SANDBOX);
    await follow(new FakeContext(null, 'other.ipynb'));
    expect(model.status.kind).toBe('none');
  });

  it('shows nothing for other kernels and for none', async () => {
    await follow(new FakeContext(kernel('kernel-1', false), 'work.ipynb'));
    expect(model.status.kind).toBe('none');
    await follow(new FakeContext(null));
    expect(model.status.kind).toBe('none');
  });

  it('shows no state that the server has not told', async () => {
    await follow(new FakeContext(kernel('kernel-1')));
    events.connect(false);
    expect(model.status.kind).toBe('unreachable');
    expect(model.sandbox).toBeNull();
    events.connect(true);
    await settle();
    expect(model.status.kind).toBe('known');
  });

  it('follows the machine, and what is under way on it', async () => {
    await follow(new FakeContext(kernel('kernel-1')));
    const changed = jest.fn();
    model.stateChanged.connect(changed);
    events.operation({ verb: 'hibernate' });
    expect(model.status).toMatchObject({ busy: ['hibernate'] });
    events.sandbox({ ...SANDBOX, state: 'hibernated' });
    events.operation({ verb: 'hibernate', state: 'done' });
    expect(model.status).toMatchObject({
      busy: [],
      sandbox: { state: 'hibernated' }
    });
    expect(changed).toHaveBeenCalledTimes(3);
  });

  it('is not disturbed by what happens to others', async () => {
    await follow(new FakeContext(kernel('kernel-1')));
    const changed = jest.fn();
    model.stateChanged.connect(changed);
    events.sandbox({ ...SANDBOX, id: 'ffffffffffff', kernel_id: '' });
    expect(changed).not.toHaveBeenCalled();
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

  it('lets go of a notebook that is no longer in front', async () => {
    const context = new FakeContext(kernel('kernel-1'));
    await follow(context);
    model.context = null;
    expect(model.status.kind).toBe('none');
    context.kernelChanged.emit(undefined);
    await settle();
    expect(model.status.kind).toBe('none');
  });
});
