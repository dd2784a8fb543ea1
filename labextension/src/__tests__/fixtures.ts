import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import { SandboxStore } from '../store';
import type {
  IOperation,
  ISandbox,
  ISandboxEvents,
  ISandboxService,
  ISnapshot,
  SandboxEvent
} from '../tokens';

export const SANDBOX: ISandbox = {
  id: '0123456789ab',
  name: '',
  runtime: 'python-3.11',
  image: 'python-3.11-0123',
  driver: 'qemu',
  accelerator: 'tcg',
  emulated: true,
  state: 'running',
  shape: { memory: 512 * 1024 ** 2, vcpus: 1 },
  created: 1000,
  kernel: 'vsandbox-python-3.11',
  kernel_id: 'kernel-1',
  notebook: '/home/a/work.ipynb',
  notebook_path: 'work.ipynb',
  in_use: true,
  origin: '',
  snapshot: '',
  history: { count: 0, bytes: 0, warning: null },
  memory_anywhere: true,
  usage: { memory: 0, disk: 0, cpu_seconds: 0, cpu: null }
};

export const SNAPSHOT: ISnapshot = {
  id: 'aaaaaaaaaaaa',
  sandbox: SANDBOX.id,
  parent: '',
  name: 'first',
  note: '',
  cause: 'asked',
  created: 1000,
  memory: true,
  cells: true,
  size: 9_000_000,
  pause: 0.05,
  warning: null
};

export const OPERATION: IOperation = {
  id: 'eeeeeeeeeeee',
  verb: 'snapshot',
  sandbox: SANDBOX.id,
  runtime: null,
  state: 'running',
  cancellable: true,
  began: 1000,
  ended: null,
  progress: null,
  error: null
};

/**
 * A service that a test gives its answers.
 */
export type FakeService = {
  readonly [name in keyof ISandboxService]: ISandboxService[name] & jest.Mock;
};

export function fakeService(): FakeService {
  const answer = (value?: unknown) => jest.fn().mockResolvedValue(value);
  return {
    list: answer([SANDBOX]),
    history: answer([SNAPSHOT]),
    operations: answer([]),
    operation: answer(OPERATION),
    runtimes: answer({ runtimes: [], broken: [] }),
    pools: answer([]),
    prunable: answer({ snapshots: [], bytes: 0 }),
    rename: answer(),
    changeSnapshot: answer(),
    addRuntime: answer(),
    cancel: answer(),
    act: answer(OPERATION),
    snapshot: answer(OPERATION),
    rollback: answer(OPERATION),
    fork: answer(OPERATION),
    trial: answer(OPERATION),
    deleteSnapshot: answer(OPERATION),
    diff: answer(OPERATION),
    build: answer(OPERATION)
  };
}

/**
 * Events that a test sends.
 */
export class FakeEvents implements ISandboxEvents {
  connected = true;
  readonly connectedChanged = new Signal<this, boolean>(this);
  readonly received = new Signal<this, SandboxEvent>(this);

  connect(connected: boolean): void {
    this.connected = connected;
    this.connectedChanged.emit(connected);
  }

  sandbox(sandbox: ISandbox): void {
    const data = { action: 'changed' as const, id: sandbox.id, sandbox };
    this.received.emit({ name: 'sandbox', data });
  }

  snapshot(snapshot: ISnapshot): void {
    const { id, sandbox } = snapshot;
    const data = { action: 'changed' as const, id, sandbox, snapshot };
    this.received.emit({ name: 'snapshot', data });
  }

  operation(change: Partial<IOperation>, lines: string[] = []): void {
    const operation = { ...OPERATION, ...change };
    this.received.emit({ name: 'operation', data: { operation, lines } });
  }
}

/**
 * A store that has been told what `service` answers.
 */
export async function storeOf(
  service: FakeService,
  events = new FakeEvents()
): Promise<SandboxStore> {
  const store = new SandboxStore(service, events);
  await settle();
  return store;
}

/**
 * A kernel connection of which only the identity and the spec are there.
 */
export function kernel(id: string, sandboxed = true): Kernel.IKernelConnection {
  const metadata = sandboxed
    ? { vsandbox: { runtime: 'python-3.11', driver: 'qemu' } }
    : {};
  const spec = { display_name: 'Python 3.11 (sandbox)', metadata };
  return { id, spec: Promise.resolve(spec) } as Kernel.IKernelConnection;
}

/**
 * A session context whose signals a test emits.
 */
export class FakeContext {
  constructor(kernel: Kernel.IKernelConnection | null, path = '') {
    this.session = { kernel };
    this.path = path;
  }

  get asContext(): ISessionContext {
    return this as unknown as ISessionContext;
  }

  session: { kernel: Kernel.IKernelConnection | null };
  path: string;
  readonly kernelChanged = new Signal<this, unknown>(this);
  readonly propertyChanged = new Signal<this, unknown>(this);
}

/**
 * Let everything that is ready to run do so.
 */
export function settle(): Promise<void> {
  return new Promise(resolve => {
    setTimeout(resolve, 0);
  });
}
