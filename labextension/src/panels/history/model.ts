import type { ISandboxSettings } from '../../commands';
import type { HistoryRow } from '../../lineage';
import { family, layOut } from '../../lineage';
import type {
  ISandbox,
  ISandboxModel,
  ISandboxStore,
  ISnapshot
} from '../../tokens';
import { StoreView } from '../view';

/**
 * The history of the notebook in front, with those of the sandboxes that share it.
 */
export class HistoryModel extends StoreView {
  constructor(
    notebook: ISandboxModel,
    store: ISandboxStore,
    settings: () => ISandboxSettings
  ) {
    super(store, ['snapshots', 'sandboxes', 'operations']);
    this._notebook = notebook;
    this._settings = settings;
    notebook.stateChanged.connect(this.refresh, this);
    this.refresh();
  }

  /**
   * The sandbox of the notebook in front; the last one that was known while the server is away.
   */
  get sandbox(): ISandbox | null {
    return this._sandbox;
  }

  /**
   * Null where the history is not here yet.
   */
  get rows(): readonly HistoryRow[] | null {
    return this._rows;
  }

  toggle(fold: string): void {
    if (!this._open.delete(fold)) {
      this._open.add(fold);
    }
    this.refresh();
  }

  override dispose(): void {
    this._notebook.stateChanged.disconnect(this.refresh, this);
    super.dispose();
  }

  protected override refresh(): void {
    const { kind } = this._notebook.status;
    if (kind === 'known' || kind === 'none') {
      this._sandbox = this._notebook.sandbox;
    }
    this._rows = this._sandbox && this._layOut(this._sandbox);
    super.refresh();
  }

  private _layOut(sandbox: ISandbox): HistoryRow[] | null {
    const { store } = this;
    const ids = family(store.sandboxes, sandbox.id);
    store.want(ids);
    if (!store.snapshots(sandbox.id)) {
      return null;
    }
    const snapshots: ISnapshot[] = [];
    const sandboxes: ISandbox[] = [];
    for (const id of ids) {
      snapshots.push(...(store.snapshots(id)?.values() ?? []));
      const each = store.sandboxes.get(id);
      if (each) {
        sandboxes.push(each);
      }
    }
    const { foldAutomatic } = this._settings();
    return layOut(snapshots, sandboxes, this._open, foldAutomatic);
  }

  private readonly _notebook: ISandboxModel;
  private readonly _settings: () => ISandboxSettings;
  private readonly _open = new Set<string>();
  private _sandbox: ISandbox | null = null;
  private _rows: readonly HistoryRow[] | null = null;
}
