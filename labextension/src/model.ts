import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { VDomModel } from '@jupyterlab/ui-components';
import type {
  ISandbox,
  ISandboxModel,
  ISandboxStore,
  SandboxStatus,
  StoreChange
} from './tokens';

const NONE: SandboxStatus = { kind: 'none' };

/**
 * Follows the kernel of one session context and finds the sandbox behind it in the store.
 *
 * A notebook without a kernel has the sandbox that was kept for it.
 */
export class SandboxModel extends VDomModel implements ISandboxModel {
  constructor(store: ISandboxStore) {
    super();
    this._store = store;
    store.changed.connect(this._onStore, this);
  }

  get status(): SandboxStatus {
    return this._status;
  }

  get sandbox(): ISandbox | null {
    return this._status.kind === 'known' ? this._status.sandbox : null;
  }

  /**
   * The session context of the notebook in front, null for none.
   */
  get context(): ISessionContext | null {
    return this._context;
  }

  set context(context: ISessionContext | null) {
    if (context === this._context) {
      return;
    }
    this._disconnect();
    this._context = context;
    context?.kernelChanged.connect(this._onKernel, this);
    context?.propertyChanged.connect(this._update, this);
    this._onKernel();
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._disconnect();
    this._store.changed.disconnect(this._onStore, this);
    this._context = null;
    super.dispose();
  }

  private _onKernel(): void {
    this._kernel = null;
    this._update();
    void this._identify(this._context?.session?.kernel);
  }

  private async _identify(
    kernel: Kernel.IKernelConnection | null | undefined
  ): Promise<void> {
    const spec = await kernel?.spec.catch(() => undefined);
    // The notebook may have got another kernel meanwhile.
    if (kernel && kernel === this._context?.session?.kernel) {
      const sandboxed = spec?.metadata?.['vsandbox'] !== undefined;
      const title = plain(spec?.display_name ?? '');
      this._kernel = { id: kernel.id, sandboxed, title };
      this._update();
    }
  }

  private _onStore(_: ISandboxStore, change: StoreChange): void {
    if (['connection', 'sandboxes', 'usages', 'operations'].includes(change)) {
      this._update();
    }
  }

  private _update(): void {
    const status = this._find();
    if (!same(status, this._status)) {
      this._status = status;
      this.stateChanged.emit();
    }
  }

  private _find(): SandboxStatus {
    const kernel = this._kernel;
    if (!this._context || (kernel && !kernel.sandboxed)) {
      return NONE;
    }
    if (!kernel && this._context.session?.kernel) {
      return NONE; // its spec is not here yet
    }
    const kept = kernel ? null : this._kept(this._context.path);
    if (!kernel && !kept) {
      return NONE;
    }
    const title = kernel?.title ?? this._runtime(kept?.runtime ?? '');
    const { connection } = this._store;
    switch (connection.kind) {
      case 'connecting':
        return { kind: 'asking', title };
      case 'lost':
        return { kind: 'unreachable', title, reason: connection.reason };
      case 'failed':
        return { kind: 'failed', title, reason: connection.reason };
      case 'live': {
        const sandbox = kept ?? this._serving(kernel?.id ?? '');
        const busy = sandbox ? this._store.busy(sandbox.id) : [];
        return { kind: 'known', title, sandbox, busy };
      }
    }
  }

  private _runtime(name: string): string {
    const known = this._store.runtimes?.runtimes.find(
      runtime => runtime.name === name
    );
    return known ? plain(known.display_name) : name;
  }

  private _serving(kernel: string): ISandbox | null {
    for (const sandbox of this._store.sandboxes.values()) {
      if (sandbox.kernel_id === kernel) {
        return sandbox;
      }
    }
    return null;
  }

  private _kept(path: string): ISandbox | null {
    const kept = [...this._store.sandboxes.values()].filter(
      ({ notebook_path }) => notebook_path !== null && notebook_path === path
    );
    return kept.sort((a, b) => b.created - a.created)[0] ?? null;
  }

  private _disconnect(): void {
    this._context?.kernelChanged.disconnect(this._onKernel, this);
    this._context?.propertyChanged.disconnect(this._update, this);
  }

  private readonly _store: ISandboxStore;
  private _context: ISessionContext | null = null;
  private _kernel: { id: string; sandboxed: boolean; title: string } | null =
    null;
  private _status: SandboxStatus = NONE;
}

function plain(displayName: string): string {
  return displayName.replace(/ \(sandbox\)$/, '');
}

function same(a: SandboxStatus, b: SandboxStatus): boolean {
  if (a.kind === 'known' && b.kind === 'known') {
    return (
      a.title === b.title &&
      a.sandbox === b.sandbox &&
      a.busy.join() === b.busy.join()
    );
  }
  return JSON.stringify(a) === JSON.stringify(b);
}
