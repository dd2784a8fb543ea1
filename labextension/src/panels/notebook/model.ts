import type {
  IPool,
  ISandboxModel,
  ISandboxStore,
  SandboxStatus
} from '../../tokens';
import { StoreView } from '../view';

/**
 * The sandbox of the notebook in front, and the pool that it is in.
 */
export class NotebookModel extends StoreView {
  constructor(notebook: ISandboxModel, store: ISandboxStore) {
    super(store, ['pools', 'connection']);
    this._notebook = notebook;
    notebook.stateChanged.connect(this.refresh, this);
  }

  get status(): SandboxStatus {
    return this._notebook.status;
  }

  /**
   * Null where the machine has no memory promised to it.
   */
  get pool(): IPool | null {
    const id = this._notebook.sandbox?.id ?? '';
    const { pools } = this.store;
    return pools.find(({ sandboxes }) => sandboxes.includes(id)) ?? null;
  }

  override dispose(): void {
    this._notebook.stateChanged.disconnect(this.refresh, this);
    super.dispose();
  }

  private readonly _notebook: ISandboxModel;
}
