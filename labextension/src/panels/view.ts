import { VDomModel } from '@jupyterlab/ui-components';
import type { ISandboxStore, StoreChange } from '../tokens';

const AGES_MILLISECONDS = 30_000;

/**
 * A model of a view on the store: it changes when what it looks at changes, and now and then since what
 * it shows grows older.
 */
export class StoreView extends VDomModel {
  constructor(
    readonly store: ISandboxStore,
    watched: readonly StoreChange[]
  ) {
    super();
    this._watched = watched;
    store.changed.connect(this._onStore, this);
    this._ages = setInterval(() => {
      this.stateChanged.emit();
    }, AGES_MILLISECONDS);
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    clearInterval(this._ages);
    this.store.changed.disconnect(this._onStore, this);
    super.dispose();
  }

  private _onStore(_: ISandboxStore, change: StoreChange): void {
    if (this._watched.includes(change)) {
      this.refresh();
    }
  }

  /**
   * Something of what it looks at changed.
   */
  protected refresh(): void {
    this.stateChanged.emit();
  }

  private readonly _watched: readonly StoreChange[];
  private readonly _ages: ReturnType<typeof setInterval>;
}
