import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { ServerConnection } from '@jupyterlab/services';
import { VDomModel } from '@jupyterlab/ui-components';
import type { ISandboxModel, ISandboxService, SandboxStatus } from './tokens';

const NONE: SandboxStatus = { kind: 'none' };

/**
 * Follows the kernel of one session context and knows the sandbox behind it.
 *
 * It asks the server when that kernel, its connection or its life changes, and at no other time.
 */
export class SandboxModel extends VDomModel implements ISandboxModel {
  constructor(service: ISandboxService) {
    super();
    this._service = service;
  }

  get status(): SandboxStatus {
    return this._status;
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
    this._kernelStatus = null;
    if (context) {
      context.kernelChanged.connect(this._onKernel, this);
      context.connectionStatusChanged.connect(this._onChange, this);
      context.statusChanged.connect(this._onStatus, this);
    }
    this._set(NONE);
    void this.refresh();
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._disconnect();
    this._context = null;
    this._request++;
    super.dispose();
  }

  /**
   * Ask the server again. Never rejects: a failure becomes the status.
   */
  async refresh(): Promise<void> {
    const request = ++this._request;
    const status = await this._ask(this._context?.session?.kernel, request);
    // Answers may overtake each other; only the latest question counts.
    if (request === this._request) {
      this._set(status);
    }
  }

  private async _ask(
    kernel: Kernel.IKernelConnection | null | undefined,
    request: number
  ): Promise<SandboxStatus> {
    const spec = await kernel?.spec.catch(() => undefined);
    if (!kernel || !spec?.metadata?.['vsandbox']) {
      return NONE;
    }
    const title = spec.display_name.replace(/ \(sandbox\)$/, '');
    if (this._status.kind === 'none' && request === this._request) {
      this._set({ kind: 'asking', title });
    }
    try {
      const sandboxes = await this._service.list();
      const sandbox = sandboxes.find(
        ({ kernel_id }) => kernel_id === kernel.id
      );
      return { kind: 'known', title, sandbox: sandbox ?? null };
    } catch (error) {
      const unreachable = error instanceof ServerConnection.NetworkError;
      const kind = unreachable ? 'unreachable' : 'failed';
      return { kind, title, reason: String(error) };
    }
  }

  private _set(status: SandboxStatus): void {
    this._status = status;
    this.stateChanged.emit();
  }

  private _disconnect(): void {
    this._context?.kernelChanged.disconnect(this._onKernel, this);
    this._context?.connectionStatusChanged.disconnect(this._onChange, this);
    this._context?.statusChanged.disconnect(this._onStatus, this);
  }

  private _onKernel(): void {
    this._set(NONE);
    void this.refresh();
  }

  private _onChange(): void {
    void this.refresh();
  }

  private _onStatus(_: ISessionContext, status: Kernel.Status): void {
    // Every cell makes a kernel busy and idle again, which says nothing about its machine.
    const working = status === 'busy' || status === 'idle';
    const before = this._kernelStatus;
    this._kernelStatus = working ? 'idle' : status;
    if (this._kernelStatus !== before) {
      void this.refresh();
    }
  }

  private readonly _service: ISandboxService;
  private _context: ISessionContext | null = null;
  private _kernelStatus: Kernel.Status | null = null;
  private _request = 0;
  private _status: SandboxStatus = NONE;
}
