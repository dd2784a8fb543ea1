import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import type { ISandbox } from '../tokens';

export const SANDBOX: ISandbox = {
  id: '0123456789ab',
  runtime: 'python-3.11',
  driver: 'qemu',
  state: 'running',
  kernel_id: 'kernel-1',
  emulated: true
};

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
  constructor(kernel: Kernel.IKernelConnection | null) {
    this.session = { kernel };
  }

  get asContext(): ISessionContext {
    return this as unknown as ISessionContext;
  }

  session: { kernel: Kernel.IKernelConnection | null };
  readonly kernelChanged = new Signal<this, unknown>(this);
  readonly connectionStatusChanged = new Signal<this, Kernel.ConnectionStatus>(
    this
  );
  readonly statusChanged = new Signal<this, Kernel.Status>(this);
}

/**
 * Let everything that is ready to run do so.
 */
export function settle(): Promise<void> {
  return new Promise(resolve => {
    setTimeout(resolve, 0);
  });
}
