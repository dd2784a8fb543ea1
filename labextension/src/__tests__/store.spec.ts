import { ServerConnection } from '@jupyterlab/services';
import { OperationCancelled } from '../operations';
import type { SandboxStore } from '../store';
import type { FakeService } from './fixtures';
import {
  FakeEvents,
  fakeService,
  OPERATION,
  SANDBOX,
  settle,
  SNAPSHOT,
  storeOf
} from './fixtures';

describe('SandboxStore', () => {
  let service: FakeService;
  let events: FakeEvents;
  let store: SandboxStore;

  beforeEach(async () => {
    service = fakeService();
    events = new FakeEvents();
    store = await storeOf(service, events);
  });

  afterEach(() => {
    store.dispose();
  });

  function requests(): number {
    return Object.values(service).reduce(
      (sum, { mock }) => sum + mock.calls.length,
      0
    );
  }

  it('fetches all once, and is kept current by events alone', async () => {
    expect(store.connection.kind).toBe('live');
    expect(store.sandboxes.get(SANDBOX.id)).toEqual(SANDBOX);
    const before = requests();

    events.received.emit({
      name: 'usage',
      data: { usages: { [SANDBOX.id]: { ...SANDBOX.usage, memory: 5 } } }
    });
    expect(store.sandboxes.get(SANDBOX.id)?.usage.memory).toBe(5);
    events.sandbox({ ...SANDBOX, state: 'hibernated' });
    expect(store.sandboxes.get(SANDBOX.id)?.state).toBe('hibernated');
    events.received.emit({
      name: 'sandbox',
      data: { action: 'removed', id: SANDBOX.id, sandbox: null }
    });
    expect(store.sandboxes.size).toBe(0);
    await settle();
    expect(requests()).toBe(before);
  });

  it('says that the server is gone, and fetches all again when it is back', async () => {
    events.connect(false);
    expect(store.connection.kind).toBe('lost');

    service.list.mockResolvedValue([{ ...SANDBOX, state: 'stopped' }]);
    events.connect(true);
    await settle();
    expect(store.connection.kind).toBe('live');
    expect(store.sandboxes.get(SANDBOX.id)?.state).toBe('stopped');
  });

  it('tells a server that does not answer from one that answers with an error', async () => {
    service.list.mockRejectedValueOnce(new Error('The store is gone.'));
    events.connect(true);
    await settle();
    expect(store.connection).toEqual({
      kind: 'failed',
      reason: 'The store is gone.'
    });
    service.list.mockRejectedValueOnce(
      new ServerConnection.NetworkError(new TypeError('Failed to fetch'))
    );
    events.connect(true);
    await settle();
    expect(store.connection.kind).toBe('lost');
  });

  it('lets an event that overtakes an answer win', async () => {
    let answer: (sandboxes: unknown) => void = () => {};
    service.list.mockReturnValueOnce(
      new Promise(resolve => {
        answer = resolve;
      })
    );
    events.connect(true);
    events.sandbox({ ...SANDBOX, state: 'hibernated' });
    answer([SANDBOX]);
    await settle();
    expect(store.sandboxes.get(SANDBOX.id)?.state).toBe('hibernated');
  });

  it('fetches histories when they are wanted, and follows them', async () => {
    expect(store.snapshots(SANDBOX.id)).toBeUndefined();
    store.want([SANDBOX.id]);
    store.want([SANDBOX.id]);
    await settle();
    expect(service.history).toHaveBeenCalledTimes(1);
    expect([...(store.snapshots(SANDBOX.id)?.keys() ?? [])]).toEqual([
      SNAPSHOT.id
    ]);

    events.snapshot({ ...SNAPSHOT, name: 'better' });
    expect(store.snapshots(SANDBOX.id)?.get(SNAPSHOT.id)?.name).toBe('better');
    events.received.emit({
      name: 'snapshot',
      data: {
        action: 'removed',
        id: SNAPSHOT.id,
        sandbox: SANDBOX.id,
        snapshot: null
      }
    });
    expect(store.snapshots(SANDBOX.id)?.size).toBe(0);
  });

  it('fetches wanted histories again after the server was away', async () => {
    store.want([SANDBOX.id]);
    await settle();
    service.history.mockResolvedValue([]);
    events.connect(false);
    events.connect(true);
    await settle();
    await settle();
    expect(store.snapshots(SANDBOX.id)?.size).toBe(0);
  });

  describe('run', () => {
    it('shows the verb as under way, and resolves with what came of it', async () => {
      service.operation.mockResolvedValue({ ...OPERATION, result: SNAPSHOT });
      const done = store.run('snapshot', SANDBOX.id, () =>
        service.snapshot(SANDBOX.id, {})
      );
      expect(store.busy(SANDBOX.id)).toEqual(['snapshot']);
      await settle();
      expect(store.busy(SANDBOX.id)).toEqual(['snapshot']);
      events.operation({ state: 'done' });
      await expect(done).resolves.toEqual(SNAPSHOT);
      expect(store.busy(SANDBOX.id)).toEqual([]);
    });

    it('is not misled by an end that overtakes the answer', async () => {
      const done = store.run('snapshot', SANDBOX.id, async () => {
        events.operation({ state: 'done' });
        return Promise.resolve(OPERATION);
      });
      await expect(done).resolves.toBeUndefined();
      expect(store.busy(SANDBOX.id)).toEqual([]);
    });

    it("rejects with the server's message", async () => {
      const done = store.run('snapshot', SANDBOX.id, () =>
        service.snapshot(SANDBOX.id, {})
      );
      await settle();
      const error = { message: 'No space.', kind: 'Exhausted', field: null };
      events.operation({ state: 'failed', error });
      await expect(done).rejects.toThrow('No space.');
    });

    it('tells a cancelled one from a failed one', async () => {
      const done = store.run('snapshot', SANDBOX.id, () =>
        service.snapshot(SANDBOX.id, {})
      );
      await settle();
      events.operation({ state: 'cancelled' });
      await expect(done).rejects.toBeInstanceOf(OperationCancelled);
    });

    it('ends nothing when it was not accepted', async () => {
      service.snapshot.mockRejectedValue(new Error('It is stopped.'));
      await expect(
        store.run('snapshot', SANDBOX.id, () =>
          service.snapshot(SANDBOX.id, {})
        )
      ).rejects.toThrow('It is stopped.');
      expect(store.busy(SANDBOX.id)).toEqual([]);
    });

    it('rejects where the server that was at it is gone', async () => {
      const done = store.run('snapshot', SANDBOX.id, () =>
        service.snapshot(SANDBOX.id, {})
      );
      await settle();
      events.connect(false);
      events.connect(true);
      await expect(done).rejects.toThrow('The server ended');
    });

    it('collects what is printed', async () => {
      events.operation({ verb: 'build' }, ['one']);
      events.operation({ verb: 'build' }, ['two']);
      await settle();
      expect(store.log(OPERATION.id)).toEqual(['one', 'two']);
    });
  });
});
