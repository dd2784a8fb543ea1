import { OperationCancelled } from '../../operations';
import { family } from '../../lineage';
import type {
  IDifference,
  IOperation,
  IPoint,
  ISandboxService,
  ISandboxStore,
  ISnapshot
} from '../../tokens';
import { StoreView } from '../view';

/**
 * Where a comparison is.
 */
export type Comparison =
  | { readonly kind: 'none' | 'cancelled' }
  | { readonly kind: 'running'; readonly operation: IOperation | null }
  | { readonly kind: 'done'; readonly difference: IDifference }
  | { readonly kind: 'failed'; readonly reason: string };

/**
 * A point that can be chosen.
 */
export interface IChoice {
  readonly key: string;
  readonly point: IPoint;
  /** Undefined for the present. */
  readonly snapshot?: ISnapshot;
}

export function keyOf(point: IPoint): string {
  return point.snapshot ? `${point.sandbox}@${point.snapshot}` : point.sandbox;
}

/**
 * Two moments of a sandbox or of those that share its history, and what is different between them.
 */
export class DiffModel extends StoreView {
  constructor(
    private readonly _service: ISandboxService,
    store: ISandboxStore,
    readonly sandbox: string,
    public before: IPoint,
    public after: IPoint
  ) {
    super(store, ['snapshots', 'sandboxes', 'operations', 'connection']);
    store.want(family(store.sandboxes, sandbox));
  }

  get comparison(): Comparison {
    if (this._comparison.kind === 'running' && this._id) {
      // With the progress that was told since.
      const operation = this.store.operations.get(this._id) ?? null;
      return { kind: 'running', operation };
    }
    return this._comparison;
  }

  get choices(): IChoice[] {
    const { store } = this;
    const choices: IChoice[] = [];
    for (const sandbox of family(store.sandboxes, this.sandbox)) {
      choices.push({ key: sandbox, point: { sandbox } });
      const history = [...(store.snapshots(sandbox)?.values() ?? [])];
      for (const snapshot of history.reverse()) {
        const point = { sandbox: snapshot.sandbox, snapshot: snapshot.id };
        choices.push({ key: keyOf(point), point, snapshot });
      }
    }
    return choices;
  }

  choose(side: 'before' | 'after', point: IPoint): void {
    this[side] = point;
    this.stateChanged.emit();
  }

  async compare(): Promise<void> {
    const round = ++this._round;
    this._id = '';
    this._set({ kind: 'running', operation: null });
    const { before, after } = this;
    try {
      const difference = await this.store.run<IDifference>(
        'diff',
        null,
        () => this._service.diff(before, after),
        ({ id }) => {
          this._id = id;
        }
      );
      if (round === this._round) {
        this._set({ kind: 'done', difference });
      }
    } catch (error) {
      if (round === this._round) {
        this._set(
          error instanceof OperationCancelled
            ? { kind: 'cancelled' }
            : {
                kind: 'failed',
                reason: error instanceof Error ? error.message : String(error)
              }
        );
      }
    }
  }

  async cancel(): Promise<void> {
    if (this._id) {
      await this._service.cancel(this._id);
    }
  }

  private _set(comparison: Comparison): void {
    this._comparison = comparison;
    if (!this.isDisposed) {
      this.stateChanged.emit();
    }
  }

  private _comparison: Comparison = { kind: 'none' };
  private _id = '';
  private _round = 0;
}
