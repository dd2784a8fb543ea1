import { URLExt } from '@jupyterlab/coreutils';
import type { ServerConnection } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { ISandboxEvents, SandboxEvent } from './tokens';

const SCHEMA =
  /^https:\/\/events\.jupyter\.org\/jupyter_vsandbox\/([a-z]+)\/v1$/;

/**
 * Listens to the server's event websocket for the events of the server extension.
 *
 * JupyterLab's own event manager does not tell when it is connected again, and events that were missed
 * are not repeated; so this has a websocket of its own.
 */
export class SandboxEvents implements ISandboxEvents, IDisposable {
  constructor(serverSettings: ServerConnection.ISettings) {
    this._serverSettings = serverSettings;
    this._poll = new Poll({
      name: 'jupyter-vsandbox:events',
      factory: () => this._listen(),
      frequency: { interval: 1000, backoff: true, max: 5000 },
      standby: 'when-hidden'
    });
  }

  get connected(): boolean {
    return this._connected;
  }

  get connectedChanged(): ISignal<this, boolean> {
    return this._connectedChanged;
  }

  get received(): ISignal<this, SandboxEvent> {
    return this._received;
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._poll.dispose();
    this._socket?.close();
    this._socket = null;
    Signal.clearData(this);
  }

  /**
   * Listen until the connection ends; the poll comes back then. Never resolves.
   */
  private _listen(): Promise<void> {
    return new Promise<void>((_, reject) => {
      const { appendToken, token, WebSocket, wsUrl } = this._serverSettings;
      let url = URLExt.join(wsUrl, 'api', 'events', 'subscribe');
      if (appendToken && token !== '') {
        url += `?token=${encodeURIComponent(token)}`;
      }
      const socket = new WebSocket(url);
      this._socket = socket;
      socket.onopen = () => {
        this._set(true);
      };
      socket.onclose = () => {
        this._set(false);
        reject(new Error('The event websocket closed.'));
      };
      socket.onmessage = (message: MessageEvent<string>) => {
        this._receive(message.data);
      };
    });
  }

  private _receive(text: string): void {
    if (!text) {
      return;
    }
    const data = JSON.parse(text) as { schema_id?: string };
    const name = SCHEMA.exec(data.schema_id ?? '')?.[1];
    if (name) {
      this._received.emit({ name, data } as unknown as SandboxEvent);
    }
  }

  private _set(connected: boolean): void {
    if (!this.isDisposed && connected !== this._connected) {
      this._connected = connected;
      this._connectedChanged.emit(connected);
    }
  }

  private readonly _serverSettings: ServerConnection.ISettings;
  private readonly _poll: Poll;
  private readonly _connectedChanged = new Signal<this, boolean>(this);
  private readonly _received = new Signal<this, SandboxEvent>(this);
  private _connected = false;
  private _socket: WebSocket | null = null;
}
