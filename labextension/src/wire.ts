/**
 * What the server extension sends and takes, as openapi.yaml and event_schemas/ describe it.
 */

export type SandboxState =
  | 'starting'
  | 'standby'
  | 'running'
  | 'restoring'
  | 'hibernated'
  | 'stopping'
  | 'stopped';

export type Verb =
  | 'start'
  | 'stop'
  | 'hibernate'
  | 'wake'
  | 'reset'
  | 'delete'
  | 'snapshot'
  | 'delete_snapshot'
  | 'rollback'
  | 'fork'
  | 'promote'
  | 'prune'
  | 'diff'
  | 'trial'
  | 'build'
  | 'delete_image';

export interface IShape {
  /** Bytes. */
  readonly memory: number;
  readonly vcpus: number;
}

export interface IUsage {
  /** Private resident memory in bytes, 0 where it does not run. */
  readonly memory: number;
  /** Bytes of its own layers, snapshots aside. */
  readonly disk: number;
  readonly cpu_seconds: number;
  /** Processors kept busy on average, null where it does not run or was not looked at before. */
  readonly cpu: number | null;
}

export interface ISandbox {
  readonly id: string;
  /** What the user calls it, '' for nothing. */
  readonly name: string;
  readonly runtime: string;
  readonly image: string;
  readonly driver: string;
  readonly accelerator: string | null;
  /** Whether its code is translated in software; null where that is not known. */
  readonly emulated: boolean | null;
  readonly state: SandboxState;
  readonly shape: IShape;
  /** Seconds since the epoch. */
  readonly created: number;
  /** Name of the kernelspec that runs in such sandboxes. */
  readonly kernel: string;
  /** The kernel it serves, '' for none. */
  readonly kernel_id: string;
  readonly notebook: string;
  /** The notebook it serves, for the contents API. */
  readonly notebook_path: string | null;
  readonly in_use: boolean;
  /** Id of the sandbox it was forked from, '' for none. */
  readonly origin: string;
  /** Id of the snapshot that it was last taken or restored from, '' for the clean image. */
  readonly snapshot: string;
  readonly history: {
    readonly count: number;
    readonly bytes: number;
    /** Why some of it should go, null where nothing is to be said. */
    readonly warning: string | null;
  };
  /** Whether a fork of a snapshot has its memory; null where that is not known. */
  readonly memory_anywhere: boolean | null;
  readonly usage: IUsage;
}

export type Cause =
  'asked' | 'rollback' | 'fork' | 'hibernation' | 'packages' | 'long-cell';

export interface ISnapshot {
  readonly id: string;
  /** The sandbox whose history it is in. */
  readonly sandbox: string;
  /** The one before it, perhaps of another history; '' for none. */
  readonly parent: string;
  readonly name: string;
  readonly note: string;
  readonly cause: Cause;
  /** Seconds since the epoch. */
  readonly created: number;
  readonly memory: boolean;
  readonly cells: boolean;
  /** Bytes beyond its parent. */
  readonly size: number;
  /** Seconds that the machine stood still for it. */
  readonly pause: number;
  /** Why it should go, null where nothing is to be said. */
  readonly warning: string | null;
}

export interface IProblem {
  readonly message: string;
  readonly kind: string;
  readonly field: string | null;
}

export interface IProgress {
  readonly stage: string;
  readonly fraction: number | null;
  readonly message: string;
}

export interface IOperation {
  readonly id: string;
  readonly verb: Verb;
  readonly sandbox: string | null;
  readonly runtime: string | null;
  readonly state: 'running' | 'done' | 'failed' | 'cancelled';
  readonly cancellable: boolean;
  readonly began: number;
  readonly ended: number | null;
  readonly progress: IProgress | null;
  readonly error: IProblem | null;
  /** What the verb is said to return; only of one that is fetched by itself. */
  readonly result?: unknown;
  readonly log?: readonly string[];
}

export interface IRollback {
  readonly sandbox: ISandbox;
  readonly snapshot: string;
  /** A rollback to it undoes this one. */
  readonly undo: string;
}

export interface IFork {
  readonly sandbox: ISandbox;
  readonly kernel: string;
  readonly notebook: string | null;
}

export interface ITrialCell {
  /** Place in the notebook, from 1. */
  readonly number: number;
  readonly source: string;
  readonly old: readonly object[];
  readonly new: readonly object[];
}

export interface ITrial {
  readonly fork: IFork;
  readonly command: string;
  readonly exit_code: number;
  /** Number of the first cell that raised an error. */
  readonly failed: number | null;
  readonly cells: readonly ITrialCell[];
}

export interface IPrunable {
  readonly snapshots: readonly ISnapshot[];
  readonly bytes: number;
}

export type Change = 'added' | 'changed' | 'removed';

export interface ISection<T> {
  /** Why there was nothing to compare, '' where there was. */
  readonly note: string;
  /** Names of what may have changed and may not. */
  readonly unknown: readonly string[];
  readonly changes: readonly T[];
}

export interface IPackageChange {
  readonly change: Change;
  readonly name: string;
  readonly old: string | null;
  readonly new: string | null;
}

export interface IFileChange {
  readonly change: Change;
  readonly path: string;
  readonly files: number;
  readonly old: number | null;
  readonly new: number | null;
}

export interface IVariable {
  readonly type: string;
  readonly size: number;
}

export interface IVariableChange {
  readonly change: Change;
  readonly name: string;
  readonly old: IVariable | null;
  readonly new: IVariable | null;
}

export interface ICellChange {
  readonly change: Change;
  readonly type: 'code' | 'markdown' | 'raw';
  readonly old_number: number | null;
  readonly new_number: number | null;
  readonly parts: readonly string[];
  readonly old: string | null;
  readonly new: string | null;
}

export interface IDifferencePoint {
  readonly sandbox: string;
  readonly snapshot: ISnapshot | null;
}

export interface IDifference {
  readonly old: IDifferencePoint;
  readonly new: IDifferencePoint;
  readonly packages: ISection<IPackageChange>;
  readonly files: ISection<IFileChange> & { readonly left_out: number };
  readonly variables: ISection<IVariableChange>;
  readonly cells: ISection<ICellChange>;
}

/**
 * A moment of a sandbox: the present where `snapshot` is missing.
 */
export interface IPoint {
  readonly sandbox: string;
  readonly snapshot?: string;
}

export interface IImage {
  readonly id: string;
  readonly runtime: string;
  readonly digest: string;
  readonly size: number;
  readonly created: number;
}

export interface IRuntime {
  readonly name: string;
  readonly display_name: string;
  readonly language: string;
  readonly summary: string;
  readonly shape: IShape;
  readonly kernel: string;
  /** Whether its recipe is one of the user's own. */
  readonly own: boolean;
  readonly image: IImage | null;
}

export interface IRuntimes {
  readonly runtimes: readonly IRuntime[];
  readonly broken: readonly {
    readonly path: string;
    readonly message: string;
  }[];
}

export interface IShare {
  /** What its machines may have together, null for no limit. */
  readonly limit: number | null;
  readonly reservation: number;
  readonly used: number;
  /** What one more machine finds, null where that is not known. */
  readonly free: number | null;
}

export interface IPool {
  readonly name: string;
  /** That of the sandboxes in it, '' for the host. */
  readonly driver: string;
  /** Bytes. */
  readonly memory: IShare & { readonly promised: number };
  /** MHz, null where processors are not shared out. */
  readonly cpu: IShare | null;
  readonly vcpus: { readonly host: number | null; readonly promised: number };
  readonly sandboxes: readonly string[];
}

/**
 * An event of the server, by the name of its schema.
 */
export type SandboxEvent =
  | {
      readonly name: 'sandbox';
      readonly data: {
        readonly action: 'changed' | 'removed';
        readonly id: string;
        readonly sandbox: ISandbox | null;
      };
    }
  | {
      readonly name: 'snapshot';
      readonly data: {
        readonly action: 'added' | 'changed' | 'removed';
        readonly id: string;
        readonly sandbox: string;
        readonly snapshot: ISnapshot | null;
      };
    }
  | {
      readonly name: 'operation';
      readonly data: {
        readonly operation: IOperation;
        readonly lines: readonly string[];
      };
    }
  | {
      readonly name: 'usage';
      readonly data: { readonly usages: Readonly<Record<string, IUsage>> };
    }
  | {
      readonly name: 'runtimes';
      readonly data: { readonly reason: 'recipes' | 'images' };
    };
