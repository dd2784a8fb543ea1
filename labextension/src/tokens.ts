import type { VDomRenderer } from '@jupyterlab/ui-components';
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
import type {
  IOperation,
  IPoint,
  IPool,
  IPrunable,
  IRuntime,
  IRuntimes,
  ISandbox,
  ISnapshot,
  SandboxEvent,
  Verb
} from './wire';

export * from './wire';

/**
 * What the project's server extension is asked.
 *
 * All reject with `ServerConnection.NetworkError` where the server does not answer and with
 * `ServerConnection.ResponseError`, whose message is the server's, where it answers with an error.
 * Those that return an operation return it as it began: follow it with `ISandboxStore.run`.
 */
export interface ISandboxService {
  /** All sandboxes of this user. */
  list(): Promise<ISandbox[]>;
  /** The snapshots of a sandbox, oldest first. */
  history(sandbox: string): Promise<ISnapshot[]>;
  operations(): Promise<IOperation[]>;
  /** One operation, with its result and its log. */
  operation(id: string): Promise<IOperation>;
  runtimes(): Promise<IRuntimes>;
  pools(): Promise<IPool[]>;
  /** What a prune would remove. */
  prunable(sandbox: string): Promise<IPrunable>;

  rename(sandbox: string, name: string): Promise<ISandbox>;
  changeSnapshot(
    snapshot: ISnapshot,
    change: { name?: string; note?: string }
  ): Promise<ISnapshot>;
  addRuntime(recipe: string, replace: boolean): Promise<IRuntime>;
  cancel(operation: string): Promise<IOperation>;

  /** A verb that needs no more than the sandbox. */
  act(
    sandbox: string,
    verb:
      | 'start'
      | 'stop'
      | 'hibernate'
      | 'wake'
      | 'reset'
      | 'promote'
      | 'prune'
      | 'delete'
  ): Promise<IOperation>;
  snapshot(
    sandbox: string,
    request: { name?: string; note?: string }
  ): Promise<IOperation>;
  rollback(
    sandbox: string,
    request: { snapshot: string; cells: boolean; memory: boolean }
  ): Promise<IOperation>;
  fork(
    sandbox: string,
    request: { snapshot?: string; name?: string; notebook: boolean }
  ): Promise<IOperation>;
  trial(sandbox: string, command: string): Promise<IOperation>;
  deleteSnapshot(snapshot: ISnapshot): Promise<IOperation>;
  diff(before: IPoint, after: IPoint): Promise<IOperation>;
  build(runtime: string): Promise<IOperation>;
}

/**
 * The service, for other extensions too.
 */
export const ISandboxService = new Token<ISandboxService>(
  'jupyter-vsandbox:ISandboxService',
  'Asks the server about the virtual machines behind notebook kernels.'
);

/**
 * The events of the server extension, for as long as the server is there.
 */
export interface ISandboxEvents {
  /** Whether events arrive now. */
  readonly connected: boolean;
  readonly connectedChanged: ISignal<ISandboxEvents, boolean>;
  readonly received: ISignal<ISandboxEvents, SandboxEvent>;
}

/**
 * How current a store is.
 *
 * - `connecting`: nothing was told yet;
 * - `live`: all that the server tells is here;
 * - `lost`: the server does not answer; what is here is what it told last;
 * - `failed`: it answered with an error.
 */
export type Connection =
  | { readonly kind: 'connecting' | 'live' }
  | { readonly kind: 'lost' | 'failed'; readonly reason: string };

/**
 * What of a store changed.
 */
export type StoreChange =
  | 'connection'
  | 'sandboxes'
  | 'snapshots'
  | 'usages'
  | 'operations'
  | 'runtimes'
  | 'pools';

/**
 * What the server has told, kept current by its events.
 */
export interface ISandboxStore {
  readonly connection: Connection;
  readonly sandboxes: ReadonlyMap<string, ISandbox>;
  readonly operations: ReadonlyMap<string, IOperation>;
  readonly runtimes: IRuntimes | null;
  readonly pools: readonly IPool[];
  readonly changed: ISignal<ISandboxStore, StoreChange>;
  /** The snapshots of a sandbox by id; undefined where they are not here (yet). */
  snapshots(sandbox: string): ReadonlyMap<string, ISnapshot> | undefined;
  /** Fetch the histories of these sandboxes unless they are here, and keep them current. */
  want(sandboxes: readonly string[]): void;
  /** What an operation printed. */
  log(operation: string): readonly string[];
  /** The verbs under way that do something to a sandbox, asked for by whomever. */
  busy(sandbox: string): readonly Verb[];
  /**
   * Begin an operation and follow it to its end.
   *
   * Resolves with its result; rejects with the server's message, or `OperationCancelled`.
   *
   * @param begin asks the service for it.
   * @param begun is called with the operation when the server has accepted it.
   */
  run<T>(
    verb: Verb,
    sandbox: string | null,
    begin: () => Promise<IOperation>,
    begun?: (operation: IOperation) => void
  ): Promise<T>;
}

/**
 * The store, for other extensions too.
 */
export const ISandboxStore = new Token<ISandboxStore>(
  'jupyter-vsandbox:ISandboxStore',
  'What is known of the virtual machines behind notebook kernels.'
);

/**
 * What is known of the machine behind the notebook in front.
 *
 * - `none`: no notebook, no kernel, or a kernel without a sandbox;
 * - `asking`: the server has not answered yet;
 * - `known`: what the server told, `null` where it knows of no such sandbox;
 * - `unreachable`: the server does not answer;
 * - `failed`: the server answered with an error.
 */
export type SandboxStatus =
  | { readonly kind: 'none' }
  | { readonly kind: 'asking'; readonly title: string }
  | {
      readonly kind: 'known';
      readonly title: string;
      readonly sandbox: ISandbox | null;
      /** The verbs that are under way on it. */
      readonly busy: readonly Verb[];
    }
  | {
      readonly kind: 'unreachable' | 'failed';
      readonly title: string;
      readonly reason: string;
    };

/**
 * The machine behind the notebook in front, for views.
 */
export interface ISandboxModel extends VDomRenderer.IModel {
  readonly status: SandboxStatus;
  /** The sandbox of `status`, null where there is none. */
  readonly sandbox: ISandbox | null;
}

/**
 * The model of the notebook in front, for other extensions too.
 */
export const ISandboxModel = new Token<ISandboxModel>(
  'jupyter-vsandbox:ISandboxModel',
  'The virtual machine behind the notebook in front.'
);
