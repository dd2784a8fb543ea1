import { ServerConnection } from '@jupyterlab/services';
import { SandboxEvents } from '../events';
import type { SandboxEvent } from '../tokens';

/**
 * A websocket that a test opens, feeds and closes.
 */
class FakeSocket {
  constructor(readonly url: string) {
    sockets.push(this);
  }

  onopen = () => {};
  onclose = () => {};
  onmessage: (message: { data: string }) => void = () => {};
  close(): void {}
}

let sockets: FakeSocket[] = [];

describe('SandboxEvents', () => {
  let events: SandboxEvents;

  beforeEach(() => {
    jest.useFakeTimers();
    sockets = [];
    events = new SandboxEvents(
      ServerConnection.makeSettings({
        wsUrl: 'ws://localhost/user/a/',
        token: 'secret',
        appendToken: true,
        WebSocket: FakeSocket as never
      })
    );
  });

  afterEach(() => {
    events.dispose();
    jest.useRealTimers();
  });

  it('listens below the base url and with the token', async () => {
    await jest.advanceTimersByTimeAsync(1);
    expect(sockets[0].url).toBe(
      'ws://localhost/user/a/api/events/subscribe?token=secret'
    );
  });

  it('passes on what is of the project, and nothing else', async () => {
    await jest.advanceTimersByTimeAsync(1);
    const received: SandboxEvent[] = [];
    events.received.connect((_, event) => received.push(event));
    const base = 'https://events.jupyter.org/jupyter_';
    for (const schema_id of [
      `${base}vsandbox/runtimes/v1`,
      `${base}server/contents_service/v1`
    ]) {
      const data = JSON.stringify({ schema_id, reason: 'images' });
      sockets[0].onmessage({ data });
    }
    expect(received).toHaveLength(1);
    expect(received[0]).toMatchObject({
      name: 'runtimes',
      data: { reason: 'images' }
    });
  });

  it('says when it is connected, and comes back when it is not', async () => {
    await jest.advanceTimersByTimeAsync(1);
    const told: boolean[] = [];
    events.connectedChanged.connect((_, connected) => told.push(connected));
    sockets[0].onopen();
    sockets[0].onclose();
    expect(told).toEqual([true, false]);
    await jest.advanceTimersByTimeAsync(6000);
    expect(sockets.length).toBeGreaterThan(1);
    sockets[sockets.length - 1].onopen();
    expect(events.connected).toBe(true);
  });
});
