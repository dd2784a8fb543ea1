import { ServerConnection } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Debouncer } from '@lumino/polling';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import { Operations } from './operations';
import type {
  Connection,
  IOperation,
  IPool,
  IRuntimes,
  ISandbox,
  ISandboxEvents,
  ISandboxService,
  ISandboxStore,
  ISnapshot,
  SandboxEvent,
  StoreChange,
  Verb
} from './tokens';

const SETTLE_MILLISECONDS = 300;
const AGAIN_MILLISECONDS = 5000;

/**
 * Keeps what the server has told: all of it is fetched whenever events begin to arrive, and from then
 * on only events change it.
 */
export class SandboxStore implements ISandboxStore, IDisposable {
  constructor(service: ISandboxService, events: ISandboxEvents) {
    this._service = service;
    this._events = events;
    this._operations = new Operations(service, () => {
      this._changed.emit('operations');
    });
    events.connectedChanged.connect(this._onConnected, this);
    events.received.connect(this._onEvent, this);
    if (events.connected) {
      void this._sync();
    }
  }

  get connection(): Connection {
    return this._connection;
  }

  get sandboxes(): ReadonlyMap<string, ISandbox> {
    return this._sandboxes;
  }

  get operations(): ReadonlyMap<string, IOperation> {
    return this._operations.all;
  }

  get runtimes(): IRuntimes | null {
    return this._runtimes;
  }

  get pools(): readonly IPool[] {
    return this._pools;
  }

  get changed(): ISignal<this, StoreChange> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this._refreshPools.dispose();
    clearTimeout(this._again);
    Signal.clearData(this);
  }

  snapshots(sandbox: string): ReadonlyMap<string, ISnapshot> | undefined {
    return this._histories.get(sandbox);
  }

  want(sandboxes: readonly string[]): void {
    const missing = sandboxes.filter(id => !this._wanted.has(id));
    missing.forEach(id => this._wanted.add(id));
    if (this._connection.kind === 'live') {
      missing.forEach(id => void this._fetchHistory(id));
    }
  }

  log(operation: string): readonly string[] {
    return this._operations.log(operation);
  }

  busy(sandbox: string): readonly Verb[] {
    return this._operations.busy(sandbox);
  }

  run<T>(
    verb: Verb,
    sandbox: string | null,
    begin: () => Promise<IOperation>,
    begun?: (operation: IOperation) => void
  ): Promise<T> {
    return this._operations.run(verb, sandbox, begin, begun);
  }

  /**
   * Fetch everything. Events that arrive meanwhile are put on top: each tells a whole record, and some
   * of the answers may be older.
   */
  private async _sync(): Promise<void> {
    const round = ++this._round;
    const missed: SandboxEvent[] = (this._missed = []);
    try {
      const [sandboxes, operations, runtimes, pools] = await Promise.all([
        this._service.list(),
        this._service.operations(),
        this._service.runtimes(),
        this._service.pools()
      ]);
      if (round !== this._round || this._isDisposed) {
        return;
      }
      this._sandboxes = new Map(sandboxes.map(each => [each.id, each]));
      this._runtimes = runtimes;
      this._pools = pools;
      this._histories.clear();
      this._missed = null;
      this._operations.replace(operations);
      missed.forEach(event => this._take(event));
      this._connect({ kind: 'live' });
      for (const change of ['sandboxes', 'runtimes', 'pools'] as const) {
        this._changed.emit(change);
      }
      for (const id of this._wanted) {
        void this._fetchHistory(id);
      }
    } catch (error) {
      if (round !== this._round || this._isDisposed) {
        return;
      }
      const lost = error instanceof ServerConnection.NetworkError;
      this._connect({ kind: lost ? 'lost' : 'failed', reason: said(error) });
      // Without a connection, that it is there again is told by its event.
      if (this._events.connected) {
        this._again = setTimeout(() => void this._sync(), AGAIN_MILLISECONDS);
      }
    }
  }

  private async _fetchHistory(sandbox: string): Promise<void> {
    const round = this._round;
    if (!this._sandboxes.has(sandbox)) {
      this._wanted.delete(sandbox);
      return;
    }
    const missed: SandboxEvent[] = [];
    this._fetching.set(sandbox, missed);
    try {
      const snapshots = await this._service.history(sandbox);
      if (round === this._round) {
        this._histories.set(sandbox, new Map(snapshots.map(s => [s.id, s])));
        this._fetching.delete(sandbox);
        missed.forEach(event => this._take(event));
        this._changed.emit('snapshots');
      }
    } catch {
      // It is gone, or the server is; an event tells which.
      this._wanted.delete(sandbox);
    } finally {
      if (this._fetching.get(sandbox) === missed) {
        this._fetching.delete(sandbox);
      }
    }
  }

  private _onConnected(_: ISandboxEvents, connected: boolean): void {
    clearTimeout(this._again);
    if (connected) {
      void this._sync();
    } else {
      this._round++;
      this._missed = null;
      const reason = 'The server does not answer.';
      this._connect({ kind: 'lost', reason });
    }
  }

  private _onEvent(_: ISandboxEvents, event: SandboxEvent): void {
    if (this._missed) {
      this._missed.push(event);
    } else {
      this._take(event);
    }
  }

  private _take(event: SandboxEvent): void {
    switch (event.name) {
      case 'sandbox': {
        const { id, sandbox } = event.data;
        if (sandbox) {
          this._sandboxes.set(id, sandbox);
        } else {
          this._sandboxes.delete(id);
          this._histories.delete(id);
          this._wanted.delete(id);
        }
        void this._refreshPools.invoke();
        this._changed.emit('sandboxes');
        break;
      }
      case 'snapshot':
        this._takeSnapshot(event);
        break;
      case 'usage':
        for (const [id, usage] of Object.entries(event.data.usages)) {
          const sandbox = this._sandboxes.get(id);
          if (sandbox) {
            this._sandboxes.set(id, { ...sandbox, usage });
          }
        }
        this._changed.emit('usages');
        break;
      case 'operation':
        this._operations.tell(event.data.operation, event.data.lines);
        break;
      case 'runtimes':
        void this._fetchRuntimes();
        break;
    }
  }

  private _takeSnapshot(event: SandboxEvent & { name: 'snapshot' }): void {
    const { id, sandbox, snapshot } = event.data;
    this._fetching.get(sandbox)?.push(event);
    for (const [owner, history] of this._histories) {
      // A promotion moves snapshots to another history.
      if (snapshot && owner === sandbox) {
        history.set(id, snapshot);
      } else {
        history.delete(id);
      }
    }
    this._changed.emit('snapshots');
  }

  private async _fetchRuntimes(): Promise<void> {
    try {
      this._runtimes = await this._service.runtimes();
      this._changed.emit('runtimes');
    } catch (error) {
      console.warn('jupyter-vsandbox: no runtimes', error);
    }
  }

  private async _fetchPools(): Promise<void> {
    if (this._connection.kind !== 'live') {
      return;
    }
    try {
      this._pools = await this._service.pools();
      this._changed.emit('pools');
    } catch (error) {
      console.warn('jupyter-vsandbox: no pools', error);
    }
  }

  private _connect(connection: Connection): void {
    this._connection = connection;
    this._changed.emit('connection');
  }

  private readonly _service: ISandboxService;
  private readonly _events: ISandboxEvents;
  private readonly _operations: Operations;
  private readonly _changed = new Signal<this, StoreChange>(this);
  // What a pool has promised changes with the machines in it, and has no event of its own.
  private readonly _refreshPools = new Debouncer(
    () => this._fetchPools(),
    SETTLE_MILLISECONDS
  );
  private readonly _wanted = new Set<string>();
  private readonly _histories = new Map<string, Map<string, ISnapshot>>();
  private readonly _fetching = new Map<string, SandboxEvent[]>();
  private _connection: Connection = { kind: 'connecting' };
  private _sandboxes = new Map<string, ISandbox>();
  private _runtimes: IRuntimes | null = null;
  private _pools: readonly IPool[] = [];
  private _missed: SandboxEvent[] | null = null;
  private _round = 0;
  private _again: ReturnType<typeof setTimeout> | undefined;
  private _isDisposed = false;
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
