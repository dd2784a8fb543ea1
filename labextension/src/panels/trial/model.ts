import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { OperationCancelled } from '../../operations';
import type {
  IOperation,
  ISandbox,
  ISandboxService,
  ISandboxStore,
  ITrial
} from '../../tokens';
import { StoreView } from '../view';

/**
 * Where a trial is.
 */
export type TrialState =
  | 'running'
  | 'cancelled'
  | 'failed'
  | 'done'
  | 'keeping'
  | 'discarding'
  | 'kept'
  | 'discarded';

/**
 * What a trial needs of the front end.
 */
export interface ITrialFiles {
  /** Remove a file, if it is there. */
  remove(path: string): Promise<void>;
  /** The open document of the notebook that the trial is of. */
  document(): DocumentRegistry.Context | null;
}

/**
 * One try of an upgrade, from the command to Keep or Discard.
 */
export class TrialModel extends StoreView {
  constructor(
    private readonly _service: ISandboxService,
    store: ISandboxStore,
    private readonly _files: ITrialFiles,
    readonly sandbox: ISandbox,
    readonly command: string
  ) {
    super(store, ['operations', 'connection']);
  }

  get state(): TrialState {
    return this._state;
  }

  get trial(): ITrial | null {
    return this._trial;
  }

  /** Why it failed, '' where it did not. */
  get reason(): string {
    return this._reason;
  }

  get operation(): IOperation | null {
    return this.store.operations.get(this._id) ?? null;
  }

  get log(): readonly string[] {
    return this.store.log(this._id);
  }

  /**
   * Run the command in a fork, and the notebook after it.
   */
  run(): Promise<void> {
    return this._attempt('failed', async () => {
      this._trial = await this.store.run<ITrial>(
        'trial',
        this.sandbox.id,
        () => this._service.trial(this.sandbox.id, this.command),
        ({ id }) => {
          this._id = id;
        }
      );
      this._set('done');
    });
  }

  async cancel(): Promise<void> {
    if (this._id) {
      await this._service.cancel(this._id);
    }
  }

  /**
   * Let the fork take the place of the machine, and its outputs that of the notebook's.
   */
  keep(): Promise<void> {
    const trial = this._trial;
    return this._attempt('done', async () => {
      if (!trial) {
        return;
      }
      this._set('keeping');
      const fork = trial.fork.sandbox.id;
      await this.store.run('promote', fork, () =>
        this._service.act(fork, 'promote')
      );
      const document = this._files.document();
      if (document) {
        applyOutputs(document.model as NotebookPanel['model'], trial);
        await document.save();
      }
      await this._removeCopy(trial);
      this._set('kept');
    });
  }

  /**
   * Remove the fork and its notebook.
   */
  discard(): Promise<void> {
    const trial = this._trial;
    return this._attempt('done', async () => {
      if (!trial) {
        return;
      }
      this._set('discarding');
      const fork = trial.fork.sandbox.id;
      await this.store.run('delete', fork, () =>
        this._service.act(fork, 'delete')
      );
      await this._removeCopy(trial);
      this._set('discarded');
    });
  }

  private async _removeCopy(trial: ITrial): Promise<void> {
    if (trial.fork.notebook) {
      await this._files.remove(trial.fork.notebook);
    }
  }

  private async _attempt(
    otherwise: TrialState,
    work: () => Promise<void>
  ): Promise<void> {
    this._reason = '';
    try {
      await work();
    } catch (error) {
      const cancelled = error instanceof OperationCancelled;
      if (!cancelled) {
        this._reason = error instanceof Error ? error.message : String(error);
      }
      this._set(cancelled ? 'cancelled' : otherwise);
    }
  }

  private _set(state: TrialState): void {
    this._state = state;
    if (!this.isDisposed) {
      this.stateChanged.emit();
    }
  }

  private _state: TrialState = 'running';
  private _trial: ITrial | null = null;
  private _reason = '';
  private _id = '';
}

/**
 * Put the outputs of a trial into a notebook, where its cells are still those that were run.
 */
export function applyOutputs(
  model: NotebookPanel['model'],
  trial: ITrial
): void {
  for (const { number, source, new: outputs } of trial.cells) {
    const cell = model?.cells.get(number - 1);
    if (cell?.type === 'code' && cell.sharedModel.getSource() === source) {
      const { outputs: shown } = cell as unknown as {
        outputs: { fromJSON(values: readonly object[]): void };
      };
      shown.fromJSON(outputs);
    }
  }
}
