import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { OperationCancelled } from '../operations';
import type {
  ISandbox,
  ISandboxModel,
  ISandboxService,
  ISandboxStore,
  ISnapshot
} from '../tokens';

/**
 * What the user has set.
 */
export interface ISandboxSettings {
  /** Whether to ask for the name of a snapshot. */
  readonly askName: boolean;
  /** What a snapshot is called by default; '' leaves that to the server. */
  readonly snapshotName: string;
  /** Whether to fold snapshots that nobody asked for. */
  readonly foldAutomatic: boolean;
  /** What "Try an upgrade" begins with. */
  readonly upgradeCommand: string;
}

/**
 * What commands work with.
 */
export interface ICommandContext {
  readonly app: JupyterFrontEnd;
  readonly service: ISandboxService;
  readonly store: ISandboxStore;
  readonly model: ISandboxModel;
  readonly documents: IDocumentManager;
  /** Where views go: the main area of Notebook 7 has room for the notebook only. */
  readonly area: 'main' | 'down';
  readonly trans: TranslationBundle;
  readonly settings: () => ISandboxSettings;
}

export type CommandArgs = ReadonlyPartialJSONObject;

/**
 * What the commands take.
 */
export const DESCRIBED = {
  args: {
    type: 'object',
    properties: {
      sandbox: {
        type: 'string',
        description: 'Id of a sandbox; that of the notebook in front else'
      },
      snapshot: { type: 'string', description: 'Id of a snapshot' },
      runtime: { type: 'string', description: 'Name of a runtime' },
      name: { type: 'string', description: 'Name of the snapshot to take' },
      command: { type: 'string', description: 'The command to try' },
      with: {
        type: 'string',
        description: 'Id of the sandbox to compare with'
      },
      quick: { type: 'boolean', description: 'Ask nothing' },
      menu: {
        type: 'boolean',
        description: 'Act on what the context menu was opened for'
      },
      toolbar: { type: 'boolean', description: 'Whether it is in a toolbar' }
    }
  }
};

/**
 * Finds what a command acts on.
 */
export class Targets {
  constructor(context: ICommandContext) {
    this._context = context;
  }

  /**
   * The sandbox that is meant, null where there is none or the server cannot be asked of it.
   */
  sandbox(args: CommandArgs): ISandbox | null {
    const { store, model } = this._context;
    if (store.connection.kind !== 'live') {
      return null;
    }
    const id = this._id('sandbox', args);
    return id === undefined ? model.sandbox : (store.sandboxes.get(id) ?? null);
  }

  /**
   * The snapshot that is meant; null for none, which is the present where a snapshot is optional.
   */
  snapshot(args: CommandArgs): ISnapshot | null {
    const id = this._id('snapshot', args);
    if (!id) {
      return null;
    }
    for (const sandbox of this._context.store.sandboxes.keys()) {
      const snapshot = this._context.store.snapshots(sandbox)?.get(id);
      if (snapshot) {
        return snapshot;
      }
    }
    return null;
  }

  /**
   * Whether nothing that moves the machine is under way on a sandbox.
   */
  free(sandbox: ISandbox | null): sandbox is ISandbox {
    return (
      sandbox !== null && this._context.store.busy(sandbox.id).length === 0
    );
  }

  /**
   * The open document of a sandbox's notebook.
   */
  document(sandbox: ISandbox): DocumentRegistry.Context | null {
    const { documents } = this._context;
    const path = sandbox.notebook_path;
    const widget = path ? documents.findWidget(path) : undefined;
    return (widget && documents.contextForWidget(widget)) ?? null;
  }

  /**
   * Save the notebook of a sandbox where it is open, so that its cells belong to the moment.
   */
  async save(sandbox: ISandbox): Promise<void> {
    const document = this.document(sandbox);
    if (document?.model.dirty && !document.model.readOnly) {
      await document.save();
    }
  }

  private _id(name: string, args: CommandArgs): string | undefined {
    const given = args[name];
    if (typeof given === 'string') {
      return given;
    }
    if (!args['menu']) {
      return undefined;
    }
    const node = this._context.app.contextMenuHitTest(
      ({ dataset }) => dataset[name] !== undefined
    );
    return node?.dataset[name];
  }

  private readonly _context: ICommandContext;
}

/**
 * Run something that was asked for; the user is told the server's message where it fails.
 */
export async function attempt(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof OperationCancelled)) {
      const message = error instanceof Error ? error.message : String(error);
      Notification.error(message, { autoClose: false });
    }
  }
}
