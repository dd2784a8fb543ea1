import { PromiseDelegate } from '@lumino/coreutils';
import type { IOperation, ISandboxService, Verb } from './tokens';

/** What leaves the machine that it is about as it is; it has a view of its own. */
const ASIDE: readonly Verb[] = ['diff', 'trial'];
const LOG_LINES = 2000;
/** How many operations that ended are remembered. */
const ENDED = 100;

/**
 * An operation was cancelled: nobody needs to be told of an error.
 */
export class OperationCancelled extends Error {}

/**
 * Operations as the server tells of them, and those who wait for their end.
 */
export class Operations {
  constructor(service: ISandboxService, changed: () => void) {
    this._service = service;
    this._changed = changed;
  }

  readonly all = new Map<string, IOperation>();

  log(id: string): readonly string[] {
    return this._logs.get(id) ?? [];
  }

  busy(sandbox: string): readonly Verb[] {
    const verbs = [...this._asked]
      .filter(each => each.sandbox === sandbox)
      .map(({ verb }) => verb);
    for (const operation of this.all.values()) {
      if (operation.sandbox === sandbox && operation.state === 'running') {
        verbs.push(operation.verb);
      }
    }
    return verbs.filter(verb => !ASIDE.includes(verb));
  }

  async run<T>(
    verb: Verb,
    sandbox: string | null,
    begin: () => Promise<IOperation>,
    begun?: (operation: IOperation) => void
  ): Promise<T> {
    // Until the server has accepted it, it is only something that was asked for.
    const asked = { verb, sandbox };
    this._asked.add(asked);
    this._changed();
    let id: string;
    try {
      const operation = await begin();
      id = operation.id;
      // Its first events may have been faster than this answer, and know more.
      if (!this.all.has(id)) {
        this.all.set(id, operation);
      }
      begun?.(operation);
    } finally {
      this._asked.delete(asked);
      this._changed();
    }
    return (await this._end(id)) as T;
  }

  /**
   * Take in an event.
   */
  tell(operation: IOperation, lines: readonly string[]): void {
    this.all.set(operation.id, operation);
    if (lines.length > 0) {
      const log = [...this.log(operation.id), ...lines];
      this._logs.set(operation.id, log.slice(-LOG_LINES));
    }
    this._settle(operation);
    this._forget();
    this._changed();
  }

  /**
   * Take in all that the server knows, after it was out of reach.
   *
   * Those that it knows nothing of any more went down with it.
   */
  replace(operations: readonly IOperation[]): void {
    this.all.clear();
    for (const operation of operations) {
      this.all.set(operation.id, operation);
      this._settle(operation);
    }
    for (const [id, waiting] of [...this._waiting]) {
      if (!this.all.has(id)) {
        this._waiting.delete(id);
        waiting.reject(
          new Error('The server ended before this did. Look at what there is.')
        );
      }
    }
    this._changed();
  }

  private async _end(id: string): Promise<unknown> {
    const known = this.all.get(id);
    if (known?.state === 'running') {
      const waiting = new PromiseDelegate<IOperation>();
      this._waiting.set(id, waiting);
      return finish(await waiting.promise, this._service);
    }
    return known && finish(known, this._service);
  }

  private _settle(operation: IOperation): void {
    if (operation.state !== 'running') {
      this._waiting.get(operation.id)?.resolve(operation);
      this._waiting.delete(operation.id);
    }
  }

  private _forget(): void {
    const ended = [...this.all.values()].filter(o => o.state !== 'running');
    for (const { id } of ended.slice(0, Math.max(0, ended.length - ENDED))) {
      this.all.delete(id);
      this._logs.delete(id);
    }
  }

  private readonly _service: ISandboxService;
  private readonly _changed: () => void;
  private readonly _asked = new Set<{ verb: Verb; sandbox: string | null }>();
  private readonly _logs = new Map<string, readonly string[]>();
  private readonly _waiting = new Map<string, PromiseDelegate<IOperation>>();
}

async function finish(
  operation: IOperation,
  service: ISandboxService
): Promise<unknown> {
  switch (operation.state) {
    case 'failed':
      throw new Error(operation.error?.message ?? operation.verb);
    case 'cancelled':
      throw new OperationCancelled(operation.verb);
    default:
      return (await service.operation(operation.id)).result;
  }
}
